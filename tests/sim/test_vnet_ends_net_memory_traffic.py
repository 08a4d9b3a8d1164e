"""Traffic in memory: its times are those of the stack."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import pytest
import trio
from trio.testing import MockClock

from vnet.demo import default_topology
from vnet.ends.net import memory_traffic
from vnet.ends.net.memory_traffic import MemoryTraffic
from vnet.system.world import open_world
from vnet.topology import DEFAULT, parse
from vnet.traffic.kernel import PingResult

IN_MEMORY = parse(DEFAULT.replace('"tun"', '"memory"'))


async def test_a_ping_does_not_count_the_time_that_scapy_takes(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    """Building a packet takes a second here, and the stack no time."""
    build = memory_traffic._echo

    def build_slowly(*args: object, **kwargs: object) -> Sequence[bytes]:
        autojump_clock.jump(1)
        return build(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(memory_traffic, "_echo", build_slowly)
    async with open_world(IN_MEMORY, "t-ping") as world:
        await world.wait_up()
        for plan in MemoryTraffic(world.running("net0")).pings(3, (56,)):
            began = trio.current_time()
            result = (await plan.run()).result
            assert isinstance(result, PingResult)
            assert trio.current_time() - began == pytest.approx(6)
            assert (result.sent, result.received) == (3, 3)
            assert result.rtt_max == pytest.approx(0)


@pytest.mark.parametrize("mode", ["direct", "mediated"])
async def test_traffic_crosses_between_the_two_drivers_of_either_mode(
    mode: Literal["direct", "mediated"], autojump_clock: MockClock
) -> None:
    async with open_world(default_topology("memory", mode=mode), "t-mode") as world:
        await world.wait_up()
        for plan in MemoryTraffic(world.running("net0")).pings(2, (56,)):
            result = (await plan.run()).result
            assert isinstance(result, PingResult)
            assert (result.sent, result.received) == (2, 2)
