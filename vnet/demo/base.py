"""A demonstration: one device over any transport, made to work, run and judged, then what every queue counted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import attrs

from vnet.ends.net.end import PortKind
from vnet.system.snapshot import QueueRow, drop_total, queue_rows
from vnet.system.world import World, open_world
from vnet.topology import Topology
from vnet.traffic.kernel import Plan, Run

__all__ = ["Demo", "DemoReport", "Sections", "DemoSettings", "ends_of", "run_demo"]

Sections = Mapping[str, Sequence[Plan]]
"""What is to be run, in order."""


@attrs.frozen
class DemoSettings:
    """What was asked for."""

    transport: str = "pci"
    mode: str = "direct"
    seconds: float = 3
    """Length of each run that has one."""
    folder: Path = Path()
    """For files and sockets that nobody wants afterwards."""
    port: PortKind = "tun"
    """What a network device is plugged into."""


@attrs.frozen
class Demo:
    """Of one device type."""

    units: str
    """What its queues carry."""
    topology: Callable[[DemoSettings], Topology]
    plan: Callable[[World, DemoSettings], AbstractAsyncContextManager[Sections]]
    """Once the world is up; what the runs need is there as long as the context lasts."""


@attrs.frozen
class DemoReport:
    """All figures of one demonstration."""

    sections: Mapping[str, tuple[Run, ...]]
    queues: tuple[QueueRow, ...]
    drops: Mapping[str, int]
    """What our own counters say was dropped, by place and cause."""
    units: str = "frames"

    @property
    def runs(self) -> list[Run]:
        return [run for runs in self.sections.values() for run in runs]

    def failures(self) -> list[str]:
        """What is not as it must be, a sentence each; empty when all is well."""
        said = [f"{run.name} from {run.source} {run.result.failure()}" for run in self.runs if run.result.failure()]
        return said + [f"{count} {self.units} dropped: {cause}" for cause, count in self.drops.items() if count]

    def as_dict(self) -> dict[str, object]:
        """Plain data, for JSON."""

        def plain(_: object, __: object, value: Any) -> Any:
            return dict(value) if isinstance(value, Mapping) else value

        found = attrs.asdict(self, value_serializer=plain)
        return {**found.pop("sections"), **found}


def ends_of(world: World, device: str) -> tuple[str, str]:
    """The names of the driver's and of the device's host."""
    return world.topology.ends(world.topology.devices[device])


async def run_demo(
    demo: Demo,
    settings: DemoSettings,
    topology: Topology,
    *,
    name: str,
    started: Callable[[Plan], None],
    finished: Callable[[Run], None],
) -> DemoReport:
    """Build ``topology``, run everything, take it down. Raises what `open_world` raises, and TrafficError."""
    async with open_world(topology, name) as world:
        await world.wait_up()
        runs: dict[str, tuple[Run, ...]] = {}
        async with demo.plan(world, settings) as sections:
            for section, plans in sections.items():
                done = []
                for plan in plans:
                    started(plan)
                    done.append(await plan.run())
                    finished(done[-1])
                runs[section] = tuple(done)
        return DemoReport(runs, tuple(queue_rows(world)), drop_total(world), demo.units)
