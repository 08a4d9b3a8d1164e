"""The watched ring: each clause about chains, indices and flags that a driver by hand breaks."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from support.rigs.watching import Watch, check_broken, watching
from vnet.check.front import EVENT_IDX, INDIRECT_DESC
from vnet.check.split import INDIRECT, NEXT, Desc
from vnet.check.verdicts import Verdict


def _two(first: int, second: int) -> Callable[[Watch], None]:
    def write(watch: Watch) -> None:
        ring, addr = watch.main.split, watch.front.arena.alloc(64)
        ring.write(0, Desc(addr, 16, first | NEXT, 1))
        ring.write(1, Desc(addr + 16, 16, second))
        ring.offer(0)

    return write


def _table(flags: int, inner: int = 0) -> Callable[[Watch], None]:
    def write(watch: Watch) -> None:
        ring, arena = watch.main.split, watch.front.arena
        table = arena.put(Desc(arena.alloc(16), 16, inner).emit(), 16)
        ring.write(0, Desc(table, 16, INDIRECT | flags, 1))
        ring.offer(0)

    return write


def _loop(watch: Watch) -> None:
    watch.main.split.write(0, Desc(watch.front.arena.base, 1, NEXT, 0))
    watch.main.split.offer(0)


def _backwards(watch: Watch) -> None:
    watch.main.split.avail_idx = 0xFFFF


@pytest.mark.parametrize(
    ("ident", "write", "features"),
    [
        ("SPLIT-DRV-3", _two(2, 0), ()),
        ("SPLIT-DRV-8", _table(0), ()),
        ("SPLIT-DRV-9", _table(0, INDIRECT), (INDIRECT_DESC,)),
        ("SPLIT-DRV-10", _loop, ()),
        ("SPLIT-DRV-11", _table(NEXT), (INDIRECT_DESC,)),
        ("SPLIT-DRV-13", _backwards, ()),
    ],
)
async def test_a_bad_chain_is_a_finding(ident: str, write: Callable[[Watch], None], features: tuple[int, ...]) -> None:
    async with watching("rng", *features) as watch:
        write(watch)
        watch.main.kick()
    check_broken(watch, ident, "")


async def test_flags_and_areas_of_a_ring_are_judged() -> None:
    async with watching("rng", EVENT_IDX) as watch:
        watch.main.split.avail_flags = 1
        await watch.serve(watch.kind.request(watch.front))
    check_broken(watch, "SPLIT-DRV-15", "available flags 0x1")
    assert watch.results()["SPLIT-DRV-1"].verdict is Verdict.PASS
