"""A demonstration of any device type over any transport: its runs, their results, and the counters of every queue."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attrs

from vnet.ends import DEVICE_TYPES
from vnet.ends.net import PortKind
from vnet.ends.running import Demo, DemoSettings
from vnet.system.snapshot import QueueRow, drop_total, queue_rows
from vnet.system.world import open_world
from vnet.topology import Topology
from vnet.topology.samples import built_in
from vnet.traffic.kernel import Plan, Run
from vnet.views.plain import to_plain

__all__ = ["DemoReport", "default_topology", "demo_of", "demo_topology", "run_demo"]


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
        report = to_plain(self)
        return {**report.pop("sections"), **report}


def demo_of(kind: str) -> Demo[Any, Any]:
    """Return the demonstration of a device type. Raises LookupError if it has none."""
    demo = DEVICE_TYPES[kind].demo
    if demo is None:
        raise LookupError(f"device type {kind} has no demonstration")
    return demo


def demo_topology(kind: str, settings: DemoSettings) -> Topology:
    """Return the topology of the demonstration of a device type. Raises ConfigError."""
    demo = demo_of(kind)
    return built_in(kind, settings.transport, demo.keys(settings), mode=settings.mode, name=demo.name)


def default_topology(port: PortKind, transport: str = "pci", mode: str = "direct") -> Topology:
    """Return a topology with one network device with ports of this kind. Raises ConfigError."""
    return demo_topology("net", DemoSettings(transport, mode, port=port))


async def run_demo(
    kind: str,
    settings: DemoSettings,
    topology: Topology,
    *,
    name: str,
    on_plan: Callable[[int], None],
    on_start: Callable[[Plan], None],
    on_end: Callable[[Run], None],
) -> DemoReport:
    """Build ``topology``, do all runs of the device type ``kind`` on its device, and return the report.

    ``on_plan`` is called with the number of runs, ``on_start`` and ``on_end`` around each run.

    Raises TrafficError and the errors of `open_world`.
    """
    demo, [device] = demo_of(kind), topology.devices
    async with open_world(topology, name) as world:
        await world.wait_up()
        runs: dict[str, tuple[Run, ...]] = {}
        async with demo.plan(world.running(device), settings) as sections:
            on_plan(sum(map(len, sections.values())))
            for section, plans in sections.items():
                done = []
                for plan in plans:
                    on_start(plan)
                    done.append(await plan.run())
                    on_end(done[-1])
                runs[section] = tuple(done)
        return DemoReport(runs, tuple(queue_rows(world)), drop_total(world), demo.units)
