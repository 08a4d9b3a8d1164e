"""One trial: a system, its loads and its faults, all from a seed, run to its end and judged.

`run_trial` is a pure function: the same arguments give the same result, and a trial may run in its own process.
"""

from __future__ import annotations

import logging
import traceback
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import Any

import attrs
import trio

from drivers.contracts.events import Topic
from vnet.ends import DEVICE_TYPES
from vnet.ends.load import Load, LoadError
from vnet.errors import leaves
from vnet.link.wire.impairments import rates
from vnet.sim.check import CheckError, check_during, check_end
from vnet.sim.configuration import Configuration
from vnet.sim.event_log import EventLog
from vnet.sim.random_topology import random_topology
from vnet.sim.scheduler import TimeStands, run_seeded
from vnet.sim.script import Fault, draw_script, play
from vnet.sim.seeds import stream, streams
from vnet.sim.simulated import draws_faults, for_bring_up, simulated
from vnet.system.links import chances
from vnet.system.world import World, open_world
from vnet.topology import Topology
from vnet.topology.join import NOTHING
from vnet.version import __version__
from vnet.views.link import LinkStatistics

__all__ = ["run_trial", "topology_of"]

STATE_TOPICS = (Topic.LIFECYCLE, Topic.LOSSES, Topic.LINKS, Topic.VHOST_USER)
"""Topics of a log without the data path."""
PAUSE, ROUNDS = 0.05, 1000
"""Shortest mean pause between two rounds of a load in seconds, and most rounds of a run on average."""
PATIENCE = 120.0
"""Seconds of simulated time in which a round must end: a driver may reset a device several times, at growing pauses."""
Write = Callable[[str], object]


def topology_of(configuration: Configuration, seed: int) -> Topology:
    """Return the system of a trial. Raises ConfigError if it cannot be simulated."""
    topology = configuration.topology
    if topology is None:
        topology = random_topology(seed, stream(seed, "topology"), wire=configuration.wire)
    return simulated(topology, seed)


def run_trial(
    configuration: Configuration, seed: int, script: Sequence[Fault] | None = None, write: Write | None = None
) -> dict[str, Any]:
    """Run a trial and return its result as plain data. ``script``: faults instead of those of the seed.

    ``write`` takes each line of the event log. The result has under ``failure`` None, or what went wrong: its ``kind``
    (data, stalled, check, time, crash) and its ``text``. Raises ConfigError if the system cannot be simulated.
    """
    topology = topology_of(configuration, seed)
    if script is None:
        script = draw_script(stream(seed, "faults"), topology, configuration.seconds)
    trial = _Trial(configuration, seed, topology, script, EventLog(write))
    failure: dict[str, Any] | None = None
    with _quiet():
        try:
            run_seeded(trial.run, stream(seed, "order"))
        except (Exception, BaseExceptionGroup) as error:  # noqa: BLE001  all that a system raises is the result
            failure = _failure(error)
    return {
        "seed": seed,
        "version": __version__,
        "trio": trio.__version__,
        "configuration": configuration.plain(),
        "devices": {name: _device(topology, name) for name in topology.devices},
        "script": [str(fault) for fault in script],
        "fired": [trial.fired[fault] for fault in script],
        "seconds": trial.ended,
        "links": trial.links,
        "loads": [{"load": load.name, "device": load.device, **attrs.asdict(load.figures)} for load in trial.loads],
        "events": trial.log.events,
        "hash": trial.log.digest(),
        "failure": failure,
    }


def _device(topology: Topology, name: str) -> dict[str, str]:
    device = topology.devices[name]
    return {"type": device.type, "transport": device.transport, "ring": device.ring, "mode": device.mode}


@attrs.define(eq=False)
class _Trial:
    """The state of one trial."""

    configuration: Configuration
    seed: int
    topology: Topology
    script: Sequence[Fault]
    log: EventLog
    loads: list[Load] = attrs.field(factory=list)
    fired: Counter[Fault] = attrs.field(factory=Counter)
    """How often each fault has happened so far."""
    ended: float = 0.0
    """Simulated seconds so far."""
    links: dict[str, Any] = attrs.field(factory=dict)
    """Faults of each link at the end, and the counters of a wire."""

    @property
    def _is_faultless(self) -> bool:
        return not self.script and not any(map(draws_faults, self.topology.links.values()))

    async def run(self) -> None:
        try:
            await self._run()
        finally:
            self.ended = trio.current_time()

    async def _run(self) -> None:
        async with open_world(NOTHING, "sim", report=_ignore) as world:
            topics = tuple(Topic) if self.configuration.data_path else STATE_TOPICS
            with world.events.listen(self.log, topics):
                try:
                    await self._use(world)
                finally:
                    self.links = {name: _link(link.statistics()) for name, link in world.links.items()}

    async def _use(self, world: World) -> None:
        await world.add(for_bring_up(self.topology))
        for name, wire in world.wires.items():
            spec = self.topology.links[name].wire
            assert spec is not None
            wire.impairments.set(rates(**chances(spec)))
        async with self._open_loads(world) as loads:
            self.loads = loads
            await self._disturb(world)
            await self._settle(world)
        if self.configuration.check:
            await check_end(world, faultless=self._is_faultless)

    @asynccontextmanager
    async def _open_loads(self, world: World) -> AsyncIterator[list[Load]]:
        async with AsyncExitStack() as stack:
            loads: list[Load] = []
            for name, spec in self.topology.devices.items():
                kind = DEVICE_TYPES[spec.type]
                if kind.loads is not None:
                    chosen = [load for load in kind.loads.names if self.configuration.has_load(load)]
                    opening = kind.loads.open(world.running(name), chosen, streams(self.seed, name))
                    loads += await stack.enter_async_context(opening)
            yield loads

    async def _disturb(self, world: World) -> None:
        """Run the loads, and let the faults of the script happen meanwhile."""
        began, seconds = trio.current_time(), self.configuration.seconds
        async with trio.open_nursery() as nursery:
            for load in self.loads:
                nursery.start_soon(self._repeat, load, began + seconds)
            nursery.start_soon(play, world, self.script, began, self.fired)
            if self.configuration.check:
                nursery.start_soon(check_during, world, began + seconds)

    async def _repeat(self, load: Load, until: float) -> None:
        rng = stream(self.seed, f"{load.device} {load.name} pauses")
        pause = max(PAUSE, self.configuration.seconds / ROUNDS)
        while True:
            await trio.sleep(rng.uniform(0, 2 * pause))
            if trio.current_time() >= until:
                return
            await _within(load, load.round)

    async def _settle(self, world: World) -> None:
        """End all faults, wait until all devices are up, and do the last rounds."""
        for link in world.faults.values():
            link.clear(*(rule.name for rule in link.rules()))
            link.bring_up()
        for wire in world.wires.values():
            wire.impairments.set(())
        await world.wait_up(PATIENCE)
        for load in self.loads:
            await _within(load, load.finish)


def _link(figures: LinkStatistics) -> dict[str, Any]:
    """Return the injected faults of a link as plain data, and the counters of its wire."""
    wire = figures.wire
    if wire is None:
        return {"faults": dict(figures.faults), "wire": None}
    counters: Counter[str] = Counter({"lives": wire.lives, "retrains": wire.retrains})
    errors: Counter[str] = Counter()
    for port in wire.ports.values():
        counters.update(tlps=sum(port.tlps.values()), replayed=port.replayed, duplicates=port.duplicates)
        errors.update(port.errors)
    return {"faults": dict(figures.faults), "wire": {**counters, "faults": dict(wire.faults), "errors": dict(errors)}}


async def _within(load: Load, work: Callable[[], Awaitable[None]]) -> None:
    with trio.move_on_after(PATIENCE) as scope:
        await work()
    if scope.cancelled_caught:
        raise Stalled(f"{load.name} on {load.device}: no progress for {PATIENCE:g} s")


class Stalled(Exception):
    """A load made no progress."""


def _ignore(line: str) -> None:
    """Take a line for the user, which is also an event."""


@contextmanager
def _quiet() -> Iterator[None]:
    """Have a simulated system log nothing: its events are in the log of the run."""
    logger = logging.getLogger("vnet")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(level)


KINDS: Sequence[tuple[type[Exception], str]] = (
    (LoadError, "data"),
    (Stalled, "stalled"),
    (CheckError, "check"),
    (TimeStands, "time"),
)
"""Kinds of failures by the error that tells of them; all others are crashes."""


def _failure(error: BaseException) -> dict[str, Any]:
    """Return the first error of the first kind that is there; a crash with its traceback. Re-raises an interrupt."""
    errors = [leaf for leaf in leaves(error) if not isinstance(leaf, trio.Cancelled)]
    if not all(isinstance(leaf, Exception) for leaf in errors):
        raise error
    crashes = [leaf for leaf in errors if not any(isinstance(leaf, kind) for kind, _ in KINDS)]
    if crashes:
        crash = crashes[0]
        lines = "".join(traceback.format_exception(crash)).splitlines()
        return {"kind": "crash", "text": f"{type(crash).__name__}: {crash}", "traceback": lines}
    return next({"kind": name, "text": str(leaf)} for kind, name in KINDS for leaf in errors if isinstance(leaf, kind))
