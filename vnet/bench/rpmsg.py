"""rpmsg in one process: how many messages a second one way, and how long one there and back takes."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

import attrs
import trio

from drivers.devices.rpmsg import Endpoint, RpmsgBus
from vnet.ends.rpmsg import ChannelSpec, RpmsgEnd, RpmsgEndSpec, RpmsgSpec
from vnet.spec import HostSpec, LinkSpec
from vnet.topology import Topology
from vnet.world import World, open_world

__all__ = ["RpmsgFigures", "measure_rpmsg"]

DEVICE = "rpmsg0"


@attrs.frozen
class RpmsgFigures:
    """What was measured over an ideal link, with both hosts and both programs in this process."""

    to_device: float
    """Messages a second, from a task that does nothing but send to one that does nothing but receive."""
    to_driver: float
    round_trip: float
    """Seconds from sending a message to receiving its echo, the median, nothing else going on."""
    size: int
    """Bytes of each message."""


async def measure_rpmsg(messages: int = 50_000, trips: int = 5_000, size: int = 64) -> RpmsgFigures:
    """Needs nothing but this process. Raises MessageTooLong."""
    link = LinkSpec(root="rc", endpoint="ep")
    echo = RpmsgEndSpec((ChannelSpec("echo", surface="echo"),))
    spec = RpmsgSpec(type="rpmsg", link="pcie0", device=echo)
    topology = Topology({"rc": HostSpec(), "ep": HostSpec()}, {"pcie0": link}, {DEVICE: spec}).check("benchmark")
    async with open_world(topology, "bench") as world:
        await world.wait_up()
        driver, device = _buses(world)
        ends = [bus.create("one way") for bus in (driver, device)]
        await ends[0].wait_bound()
        await ends[1].wait_bound()
        trip = await _round_trip(driver.create("echo"), trips, bytes(size))
        return RpmsgFigures(
            to_device=await _one_way(ends, messages, bytes(size)),
            to_driver=await _one_way(ends[::-1], messages, bytes(size)),
            round_trip=trip,
            size=size,
        )


def _buses(world: World) -> list[RpmsgBus]:
    ends = world.devices[DEVICE].driver_end, world.devices[DEVICE].device_end
    assert all(isinstance(end, RpmsgEnd) for end in ends)
    return [end.bus for end in ends if isinstance(end, RpmsgEnd)]


async def _one_way(ends: Sequence[Endpoint], messages: int, data: bytes) -> float:
    source, sink = ends

    async def send() -> None:
        for _ in range(messages):
            await source.send(data)

    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        for _ in range(messages):
            await sink.receive()
    return messages / (trio.current_time() - began)


async def _round_trip(end: Endpoint, trips: int, data: bytes) -> float:
    took = []
    for _ in range(trips):
        began = trio.current_time()
        await end.send(data)
        await end.receive()
        took.append(trio.current_time() - began)
    end.close()
    return median(took)
