"""Records of a SCSI host in a topology, and their checks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Self

import attrs

from drivers.devices.scsi import SCSI, Lun
from drivers.devices.scsi.device.device import REQUESTS
from drivers.devices.scsi.driver.driver import MIN_NUM, host_memory
from vnet.ends.store import StoreSpec
from vnet.errors import FieldError, Keys
from vnet.spec import MIB, DeviceSpec, must

__all__ = ["InitiatorSpec", "LunSpec", "ScsiSpec", "TargetsSpec"]

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

    virtio = SCSI
    queue_size_min = MIN_NUM
    unit = LunSpec
    units_key = ("device", "luns")

    @property
    def units(self) -> Mapping[str, LunSpec]:
        return {str(each.address): each for each in self.device.luns}

    def with_units(self, units: Iterable[LunSpec]) -> Self:
        return attrs.evolve(self, device=attrs.evolve(self.device, luns=tuple(units)))

    @property
    def queue_count(self) -> tuple[str, int]:
        return "queues", REQUESTS + self.queues

    def in_memory(self) -> Self:
        return self.with_units(unit.in_memory() for unit in self.device.luns)

    def memory(self) -> int:
        return host_memory(self.queue_size, self.queues, self.driver.buffers * MIB)

    def problems(self) -> Iterator[FieldError]:
        taken: set[Lun] = set()
        for index, unit in enumerate(self.device.luns):
            where = ("device", "luns", index)
            yield from (problem.inside(*where) for problem in unit.problems())
            if unit.address in taken:
                yield FieldError((*where, "lun"), unit.lun, f"already used by another unit of target {unit.target}")
            if unit.target > self.device.max_target:
                why = f"must be at most {self.device.max_target} (max_target)"
                yield FieldError((*where, "target"), unit.target, why)
            taken.add(unit.address)
        yield from super().problems()

    def claims(self, hosts: tuple[str, str]) -> Iterator[tuple[Keys, tuple[str, ...]]]:
        yield from super().claims(hosts)
        for index, unit in enumerate(() if self.foreign else self.device.luns):
            yield from unit.claims("device", "luns", index)
