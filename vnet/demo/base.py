"""A demonstration: runs on one device over any transport, their results, and the counters of every queue."""

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
"""Runs in order, by section."""


@attrs.frozen
class DemoSettings:
    """Options of a demonstration."""

    transport: str = "pci"
    """Transport between driver and device."""
    mode: str = "direct"
    """Mode of the device: direct or mediated."""
    seconds: float = 3
    """Length of each timed run in seconds."""
    folder: Path = Path()
    """Folder for temporary files and sockets."""
    port: PortKind = "tun"
    """Port at both ends of a network device."""


@attrs.frozen
class Demo:
    """The demonstration of a device type."""

    units: str
    """Name of the items that its queues carry, such as frames."""
    topology: Callable[[DemoSettings], Topology]
    """Returns the topology to build."""
    plan: Callable[[World, DemoSettings], AbstractAsyncContextManager[Sections]]
    """Opens the runs on a world that is up, with their files and servers."""


@attrs.frozen
class DemoReport:
    """All figures of a demonstration."""

    sections: Mapping[str, tuple[Run, ...]]
    """Runs by section."""
    queues: tuple[QueueRow, ...]
    """Counters of every queue."""
    drops: Mapping[str, int]
    """Drop counters by place and cause."""
    units: str = "frames"
    """Name of the items that were dropped."""

    @property
    def runs(self) -> list[Run]:
        """Runs of all sections, in order."""
        return [run for runs in self.sections.values() for run in runs]

    def failures(self) -> list[str]:
        """Return a sentence per failure; empty if all runs succeeded and nothing was dropped."""
        failures = [f"{run.name} from {run.source} {run.result.failure()}" for run in self.runs if run.result.failure()]
        return failures + [f"{count} {self.units} dropped: {cause}" for cause, count in self.drops.items() if count]

    def as_dict(self) -> dict[str, object]:
        """Return the report as plain data for JSON."""

        def plain(_: object, __: object, value: Any) -> Any:
            return dict(value) if isinstance(value, Mapping) else value

        report = attrs.asdict(self, value_serializer=plain)
        return {**report.pop("sections"), **report}


def ends_of(world: World, device: str) -> tuple[str, str]:
    """Return the names of the driver's and the device's host."""
    return world.topology.ends(world.topology.devices[device])


async def run_demo(
    demo: Demo,
    settings: DemoSettings,
    topology: Topology,
    *,
    name: str,
    on_start: Callable[[Plan], None],
    on_end: Callable[[Run], None],
) -> DemoReport:
    """Build ``topology``, do all runs, take it down, and return the report.

    ``on_start`` and ``on_end`` are called around each run. Raises TrafficError and the errors of `open_world`.
    """
    async with open_world(topology, name) as world:
        await world.wait_up()
        runs: dict[str, tuple[Run, ...]] = {}
        async with demo.plan(world, settings) as sections:
            for section, plans in sections.items():
                done = []
                for plan in plans:
                    on_start(plan)
                    done.append(await plan.run())
                    on_end(done[-1])
                runs[section] = tuple(done)
        return DemoReport(runs, tuple(queue_rows(world)), drop_total(world), demo.units)
