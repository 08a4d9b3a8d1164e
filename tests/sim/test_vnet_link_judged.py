"""Windows whose accesses fail only while a rule of faults is about them."""

from __future__ import annotations

import gc

import pytest
import trio

from rings.memory import Addr, MappedMemory
from support.rigs.faulty_link import ERRORS, FAILED_READS, open_bench
from vnet.link.base import Direction
from vnet.link.faults import Action, LinkRequest, Rule

UP = Direction.UPSTREAM
RAM = Addr(0x4000_0000)


@pytest.mark.parametrize("action", FAILED_READS)
async def test_a_window_that_is_open_already_fails_while_a_rule_is_about_it(action: Action) -> None:
    async with open_bench() as bench:
        window = bench.link.map(UP, RAM, 4096)
        pinned = window.pin(RAM, 8, "Q")
        bench.link.add(Rule(LinkRequest.DMA_READ, action, rate=1))
        for access in (window.view, window.segments):
            with pytest.raises(ERRORS[action]):
                access(RAM, 64)
            await trio.sleep(0.01)
        pinned[0] = 7  # memory that stays mapped: no request, and no fault
        window.unpin(window.pin(RAM, 8, "Q"))
        later = bench.link.map(UP, RAM, 4096)
        bench.link.clear()
        for each in (window, later):
            assert each.view(RAM, 8)[0] == 7
        window.unpin(pinned)


async def test_a_closed_window_is_not_kept_by_the_rules() -> None:
    async with open_bench() as bench:
        bench.link.add(Rule(LinkRequest.DMA_READ, Action.TIME_OUT, nth={1000}))
        for _ in range(10):
            bench.link.map(UP, RAM, 4096).close()
        gc.collect()
        assert len(bench.link._windows._judged) == 0


async def test_a_window_without_rules_has_the_methods_of_its_class() -> None:
    async with open_bench() as bench:
        window = bench.link.map(UP, RAM, 4096)
        bench.link.add(Rule(LinkRequest.DOORBELL, Action.LOSE, rate=1))
        assert not {"view", "segments", "pin"} & vars(window).keys()
        bench.link.add(Rule(LinkRequest.DMA_WRITE, Action.POISON, rate=1))
        assert {"view", "segments", "pin"} <= vars(window).keys()
        bench.link.clear()
        assert not {"view", "segments", "pin"} & vars(window).keys()


async def test_a_window_that_is_judged_shows_no_region_to_the_native_path() -> None:
    async with open_bench() as bench:
        window = bench.link.map(UP, RAM, 4096)
        window.view(RAM, 8)
        assert isinstance(window, MappedMemory)
        assert len(window.region()[1]) == 4096
        bench.link.add(Rule(LinkRequest.DMA_READ, Action.TIME_OUT, nth={1000}))
        assert not len(window.region()[1])
        bench.link.clear()
        assert len(window.region()[1]) == 4096
