"""rpmsg in one process: how many messages a second one way, and how long one there and back takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from statistics import median

import attrs

from drivers.devices.rpmsg import RpmsgBus
from vnet.bench.figures import Machine
from vnet.bench.measure import rotated
from vnet.bench.processes import this_machine
from vnet.system.world import World, open_world
from vnet.topology.samples import built_in
from vnet.traffic.rpmsg import one_way, round_trip

__all__ = ["RpmsgFigures", "RpmsgResults", "measure_rpmsg", "run_rpmsg_benchmark"]

NAME = "rpmsg0"
SIZE = 64
KEYS = 'device = { channels = [{ name = "echo", surface = "echo" }] }'


@attrs.frozen
class RpmsgFigures:
    """Figures over an ideal link, with both hosts and both programs in this process."""

    to_device: float
    """Messages a second, from a task that does nothing but send to one that does nothing but receive."""
    to_driver: float
    round_trip: float
    """Seconds from sending a message to receiving its echo, the median, nothing else going on."""


@attrs.frozen
class RpmsgResults:
    """All figures of the suite."""

    machine: Machine
    rounds: int
    size: int
    """Bytes of each message."""
    medians: Mapping[str, RpmsgFigures]
    """Medians over the rounds, by transport and mode."""
    samples: Mapping[str, tuple[RpmsgFigures, ...]]
    failures: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, object]:
        """Plain data, for JSON."""
        return attrs.asdict(self)


async def run_rpmsg_benchmark(
    ways: Mapping[str, tuple[str, str]], *, rounds: int, messages: int, progress: Callable[[str], None]
) -> RpmsgResults:
    """Send ``messages`` each way in each round, and a tenth as many there and back, over each of ``ways``.

    ``ways`` maps a name to a transport and a mode.
    """
    samples: dict[str, list[RpmsgFigures]] = {name: [] for name in ways}
    for turn in range(rounds):
        for name in rotated(tuple(ways), turn):
            samples[name].append(await measure_rpmsg(messages, messages // 10, SIZE, *ways[name]))
        rates = ", ".join(f"{name} {rows[-1].to_device / 1e3:.0f} k/s" for name, rows in samples.items())
        progress(f"round {turn + 1} of {rounds}, rpmsg: {rates}")
    medians = {
        name: RpmsgFigures(*(median(column) for column in zip(*map(attrs.astuple, rows), strict=True)))
        for name, rows in samples.items()
    }
    return RpmsgResults(this_machine(), rounds, SIZE, medians, {name: tuple(rows) for name, rows in samples.items()})


async def measure_rpmsg(
    messages: int = 50_000, trips: int = 5_000, size: int = SIZE, transport: str = "pci", mode: str = "direct"
) -> RpmsgFigures:
    """Measure once, in this process. Raises MessageTooLong."""
    async with open_world(built_in("rpmsg", transport, KEYS, mode=mode, name=NAME), "bench") as world:
        await world.wait_up()
        driver, device = _buses(world)
        ends = [bus.create("one way") for bus in (driver, device)]
        await ends[0].wait_bound()
        await ends[1].wait_bound()
        trip = await round_trip(driver.create("echo"), trips, bytes(size))
        return RpmsgFigures(
            to_device=await one_way(ends, messages, bytes(size)),
            to_driver=await one_way(ends[::-1], messages, bytes(size)),
            round_trip=trip,
        )


def _buses(world: World) -> list[RpmsgBus]:
    return [end.bus for end in world.running(NAME).ends]
