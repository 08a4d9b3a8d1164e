"""What a SCSI host is for: logical units on stores at the device's end, an initiator at the driver's."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

import attrs

from drivers.devices.scsi import Identity, Initiator, LogicalUnit, Lun, ScsiDomain, ScsiPlug, ScsiSettings
from drivers.devices.scsi.device.device import REQUESTS
from drivers.devices.scsi.driver.driver import MIN_NUM, host_memory
from drivers.flow.figures import RequestFigures, Traffic
from vnet.ends.base import Figures, OpenContext
from vnet.ends.store import OpenStore, StoreSpec, open_store
from vnet.linux.background import open_background
from vnet.spec import MIB, DeviceSpec, Problem, must

__all__ = [
    "InitiatorEnd",
    "InitiatorSpec",
    "LunSpec",
    "ScsiSpec",
    "TargetsEnd",
    "TargetsSpec",
    "open_scsi",
    "open_scsi_device",
    "open_scsi_driver",
]

SERIAL_MAX = 64


@attrs.frozen
class LunSpec(StoreSpec):
    """One logical unit, and where its sectors are."""

    serial: str | None = attrs.field(
        default=None,
        validator=must(lambda v: 0 < len(v) <= SERIAL_MAX and v.isascii() and v.isprintable(), "1 to 64 ASCII letters"),
    )
    """What the disk calls itself; by default the device's name and its place."""
    target: int = attrs.field(default=0, validator=must(lambda v: 0 <= v <= 255, "a target, 0 to 255"))
    lun: int = attrs.field(default=0, validator=must(lambda v: 0 <= v <= 16383, "a LUN, 0 to 16383"))

    @property
    def place(self) -> Lun:
        return Lun(self.target, self.lun)


@attrs.frozen
class InitiatorSpec:
    """How the initiator works; it surfaces as an API alone."""

    buffers: int = attrs.field(default=32, validator=must(lambda v: 1 <= v <= 1024, "MiB of buffers, 1 to 1024"))
    """MiB of the host's memory for data on their way."""


@attrs.frozen
class TargetsSpec:
    """The logical units there are at first."""

    luns: tuple[LunSpec, ...] = attrs.field(factory=lambda: (LunSpec(size=64),))
    workers: int = attrs.field(default=4, validator=must(lambda v: 1 <= v <= 64, "1 to 64 commands that may block"))
    max_target: int = attrs.field(default=255, validator=must(lambda v: 0 <= v <= 255, "a target, 0 to 255"))
    """The highest that initiators look for."""


@attrs.frozen
class ScsiSpec(DeviceSpec):
    """A SCSI host."""

    queues: int = attrs.field(default=1, validator=must(lambda v: 1 <= v <= 16, "1 to 16 request queues"))
    driver: InitiatorSpec = InitiatorSpec()
    device: TargetsSpec = attrs.field(factory=TargetsSpec)

    queue_size_min = MIN_NUM

    @property
    def queue_count(self) -> tuple[str, int]:
        return "queues", REQUESTS + self.queues

    def memory(self) -> int:
        return host_memory(self.queue_size, self.queues, self.driver.buffers * MIB)

    def clash(self) -> Problem | None:
        places: set[Lun] = set()
        for index, unit in enumerate(self.device.luns):
            where = f"device.luns[{index}]"
            found = unit.clash(where)
            if found is not None:
                return found
            if unit.place in places:
                return f"{where}.lun", unit.lun, f"target {unit.target} has it already"
            if unit.target > self.device.max_target:
                return f"{where}.target", unit.target, f"max_target is {self.device.max_target}"
            places.add(unit.place)
        return None

    def claims(self, hosts: tuple[str, str]) -> Iterator[tuple[str, tuple[str, ...]]]:
        yield from super().claims(hosts)
        for index, unit in enumerate(() if self.foreign else self.device.luns):
            yield from unit.claims(f"device.luns[{index}]")


def _figures(queue: int, requests: list[RequestFigures], control: RequestFigures, events: Traffic) -> Figures:
    """Queue 0 is for control, 1 for events."""
    if queue == 1:
        return Figures(events.packets, events.bytes, dict(events.drops))
    found = control if queue == 0 else requests[queue - REQUESTS] if queue - REQUESTS < len(requests) else None
    return Figures(0, 0, {}) if found is None else Figures(found.taken, found.bytes, dict(found.errors))


def _drops(
    requests: list[RequestFigures], control: RequestFigures, events: Traffic
) -> Iterator[tuple[str, Mapping[str, int]]]:
    yield "controlq", control.errors
    yield "eventq", events.drops
    for queue, found in enumerate(requests, 1):
        yield f"requestq{queue}", found.errors


@attrs.frozen(eq=False)
class InitiatorEnd:
    """The driver's end."""

    settings: ScsiSettings

    @property
    def initiator(self) -> Initiator:
        return self.settings.initiator

    @property
    def live(self) -> bool:
        return self.initiator.online

    def figures(self, queue: int) -> Figures:
        own = self.initiator
        return _figures(queue, own.figures, own.control_figures, own.event_figures)

    def drops(self) -> Iterator[tuple[str, Mapping[str, int]]]:
        own = self.initiator
        return _drops(own.figures, own.control_figures, own.event_figures)

    def describe(self) -> dict[str, object]:
        config = self.initiator.config
        return {
            "kind": "api",
            "live": self.live,
            "config": None if config is None else attrs.asdict(config),
            "resubmitted": sum(figures.queued for figures in self.initiator.figures),
            "resets": self.initiator.resets,
        }


@attrs.frozen(eq=False)
class TargetsEnd:
    """The device's end."""

    settings: ScsiPlug

    @property
    def live(self) -> bool:
        return True

    def figures(self, queue: int) -> Figures:
        own = self.settings
        return _figures(queue, own.figures, own.control, own.events)

    def drops(self) -> Iterator[tuple[str, Mapping[str, int]]]:
        own = self.settings
        return _drops(own.figures, own.control, own.events)

    def describe(self) -> dict[str, object]:
        own = self.settings
        return {
            "kind": "targets",
            "live": self.live,
            "in_worker": sum(figures.queued for figures in own.figures),
            "checks": dict(own.checks),
            "luns": [_unit(lun, unit) for lun, unit in own.domain.units.items()],
        }


def _unit(lun: Lun, unit: LogicalUnit) -> dict[str, object]:
    return {
        "lun": str(lun),
        "serial": unit.identity.serial,
        **attrs.asdict(unit.store.info),
        "write_cache": unit.mode.write_cache,
        "attentions": " ".join(asc.name.lower() for asc in unit.attentions) or None,
    }


@asynccontextmanager
async def open_scsi(
    context: OpenContext, opener: OpenStore | None = None
) -> AsyncIterator[tuple[InitiatorEnd, TargetsEnd]]:
    """Both ends of a SCSI host. Raises ConfigError."""
    async with open_scsi_device(context, opener) as targets, open_scsi_driver(context) as initiator:
        yield initiator, targets


@asynccontextmanager
async def open_scsi_driver(context: OpenContext) -> AsyncIterator[InitiatorEnd]:
    """The driver's end alone."""
    spec = context.spec
    assert isinstance(spec, ScsiSpec)
    initiator = Initiator(buffers=spec.driver.buffers * MIB, queues=spec.queues)
    async with open_background() as nursery:
        await nursery.start(initiator.serve)
        yield InitiatorEnd(ScsiSettings(initiator, context.features))


@asynccontextmanager
async def open_scsi_device(context: OpenContext, opener: OpenStore | None = None) -> AsyncIterator[TargetsEnd]:
    """The device's end alone. Raises ConfigError."""
    spec = context.spec
    assert isinstance(spec, ScsiSpec)
    units: dict[Lun, LogicalUnit] = {}
    async with AsyncExitStack() as stack:
        for index, unit in enumerate(spec.device.luns):
            open_it = opener or partial(open_store, workers=spec.device.workers)
            try:
                store = await stack.enter_async_context(open_it(unit))
            except (OSError, MemoryError) as exc:
                raise unit.trouble(f"devices.{context.name}.device.luns[{index}]", exc) from None
            serial = f"{context.name}-{unit.target}-{unit.lun}" if unit.serial is None else unit.serial
            units[unit.place] = LogicalUnit(store, Identity(serial))
        yield TargetsEnd(
            ScsiPlug(
                ScsiDomain(units),
                context.features,
                spec.queue_size,
                spec.queues,
                spec.device.workers,
                spec.device.max_target,
            )
        )
