"""The ends of a SCSI host: logical units on stores at the device's end, an initiator at the driver's end."""

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
"""Characters of the longest serial number."""


@attrs.frozen
class LunSpec(StoreSpec):
    """A logical unit: its store, serial number and address."""

    serial: str | None = attrs.field(
        default=None,
        validator=must(
            lambda v: 0 < len(v) <= SERIAL_MAX and v.isascii() and v.isprintable(),
            f"1 to {SERIAL_MAX} printable ASCII characters",
        ),
    )
    """Serial number of the unit. Default: DEVICE-TARGET-LUN, such as scsi0-0-1."""
    target: int = attrs.field(default=0, validator=must(lambda v: 0 <= v <= 255, "between 0 and 255"))
    """Target number of the unit."""
    lun: int = attrs.field(default=0, validator=must(lambda v: 0 <= v <= 16383, "between 0 and 16383"))
    """Logical unit number, unique within the target."""

    @property
    def address(self) -> Lun:
        """Target and LUN."""
        return Lun(self.target, self.lun)


@attrs.frozen
class InitiatorSpec:
    """The initiator on the driver's host, which programs use by its Python API."""

    buffers: int = attrs.field(default=32, validator=must(lambda v: 1 <= v <= 1024, "between 1 and 1024 (MiB)"))
    """Memory of the driver's host for the data of pending commands, in MiB."""


@attrs.frozen
class TargetsSpec:
    """The device end of a SCSI host: the logical units at start."""

    luns: tuple[LunSpec, ...] = attrs.field(factory=lambda: (LunSpec(size=64),))
    """Logical units. Default: one of 64 MiB in memory."""
    workers: int = attrs.field(default=4, validator=must(lambda v: 1 <= v <= 64, "between 1 and 64"))
    """Largest number of commands that block on stores at the same time."""
    max_target: int = attrs.field(default=255, validator=must(lambda v: 0 <= v <= 255, "between 0 and 255"))
    """Highest target number that the device reports, and that initiators scan."""


@attrs.frozen
class ScsiSpec(DeviceSpec):
    """A SCSI host."""

    queues: int = attrs.field(default=1, validator=must(lambda v: 1 <= v <= 16, "between 1 and 16"))
    """Number of request queues."""
    driver: InitiatorSpec = InitiatorSpec()
    """Driver end: the initiator."""
    device: TargetsSpec = attrs.field(factory=TargetsSpec)
    """Device end: the logical units."""

    queue_size_min = MIN_NUM

    @property
    def queue_count(self) -> tuple[str, int]:
        return "queues", REQUESTS + self.queues

    def memory(self) -> int:
        return host_memory(self.queue_size, self.queues, self.driver.buffers * MIB)

    def clash(self) -> Problem | None:
        taken: set[Lun] = set()
        for index, unit in enumerate(self.device.luns):
            where = f"device.luns[{index}]"
            clash = unit.clash(where)
            if clash is not None:
                return clash
            if unit.address in taken:
                return f"{where}.lun", unit.lun, f"already used by another unit of target {unit.target}"
            if unit.target > self.device.max_target:
                return f"{where}.target", unit.target, f"must be at most {self.device.max_target} (max_target)"
            taken.add(unit.address)
        return None

    def claims(self, hosts: tuple[str, str]) -> Iterator[tuple[str, tuple[str, ...]]]:
        yield from super().claims(hosts)
        for index, unit in enumerate(() if self.foreign else self.device.luns):
            yield from unit.claims(f"device.luns[{index}]")


def _figures(queue: int, requests: list[RequestFigures], control: RequestFigures, events: Traffic) -> Figures:
    """Return the figures of a queue: 0 is the controlq, 1 the eventq, the others are request queues."""
    if queue == 1:
        return Figures(events.packets, events.bytes, dict(events.drops))
    figures = control if queue == 0 else requests[queue - REQUESTS] if queue - REQUESTS < len(requests) else None
    return Figures(0, 0, {}) if figures is None else Figures(figures.taken, figures.bytes, dict(figures.errors))


def _drops(
    requests: list[RequestFigures], control: RequestFigures, events: Traffic
) -> Iterator[tuple[str, Mapping[str, int]]]:
    yield "controlq", control.errors
    yield "eventq", events.drops
    for queue, figures in enumerate(requests, 1):
        yield f"requestq{queue}", figures.errors


@attrs.frozen(eq=False)
class InitiatorEnd:
    """The driver's end: an initiator."""

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
    """The device's end: logical units."""

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
    """Open both ends of a SCSI host. Raises ConfigError."""
    async with open_scsi_device(context, opener) as targets, open_scsi_driver(context) as initiator:
        yield initiator, targets


@asynccontextmanager
async def open_scsi_driver(context: OpenContext) -> AsyncIterator[InitiatorEnd]:
    """Open only the driver's end."""
    spec = context.spec
    assert isinstance(spec, ScsiSpec)
    initiator = Initiator(buffers=spec.driver.buffers * MIB, queues=spec.queues)
    async with open_background() as nursery:
        await nursery.start(initiator.serve)
        yield InitiatorEnd(ScsiSettings(initiator, context.features))


@asynccontextmanager
async def open_scsi_device(context: OpenContext, opener: OpenStore | None = None) -> AsyncIterator[TargetsEnd]:
    """Open only the device's end. Raises ConfigError."""
    spec = context.spec
    assert isinstance(spec, ScsiSpec)
    units: dict[Lun, LogicalUnit] = {}
    async with AsyncExitStack() as stack:
        opener = opener or partial(open_store, workers=spec.device.workers)
        for index, unit in enumerate(spec.device.luns):
            try:
                store = await stack.enter_async_context(opener(unit))
            except (OSError, MemoryError) as exc:
                raise unit.open_error(f"devices.{context.name}.device.luns[{index}]", exc) from None
            serial = f"{context.name}-{unit.target}-{unit.lun}" if unit.serial is None else unit.serial
            units[unit.address] = LogicalUnit(store, Identity(serial))
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
