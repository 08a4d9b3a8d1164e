"""Records of a block device in a topology, and their checks."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Self
from urllib.parse import quote

import attrs

from drivers.contracts.ports import Lifetime
from drivers.devices.blk import BLK
from drivers.devices.blk.driver.driver import MIN_NUM, host_memory
from vnet.ends.store import StoreSpec
from vnet.errors import FieldError, Keys
from vnet.spec import MIB, PATH_RULE, DeviceSpec, file_key, fits_socket, must

__all__ = ["BlkSpec", "DiskSpec", "DiskStoreSpec", "nbd_uri"]


@attrs.frozen
class DiskSpec:
    """The disk on the driver's host: always the Python API, and an NBD export if ``nbd`` is given."""

    nbd: str | None = attrs.field(default=None, validator=must(fits_socket, PATH_RULE))
    """Unix socket of the NBD export, for clients such as nbdcopy, fio or qemu-nbd. Default: no export."""
    buffers: int = attrs.field(default=32, validator=must(lambda v: 1 <= v <= 1024, "between 1 and 1024 (MiB)"))
    """Memory of the driver's host for the data of pending requests, in MiB."""


@attrs.frozen
class DiskStoreSpec(StoreSpec):
    """The device end of a disk: its store, serial number and worker threads."""

    serial: str | None = attrs.field(
        default=None,
        validator=must(
            lambda v: len(v) <= 20 and v.isascii() and v.isprintable(), "at most 20 printable ASCII characters"
        ),
    )
    """Serial number of the disk. Default: the device's name."""
    workers: int = attrs.field(default=4, validator=must(lambda v: 1 <= v <= 64, "between 1 and 64"))
    """Largest number of requests that block on the store at the same time."""
    secure_erase: bool = False
    """Whether the device offers secure erase: it overwrites sectors with zeroes, then deallocates them. For storage
    that overwrites in place, which neither flash memory nor a file system that copies on write does."""
    lifetime: tuple[int, ...] = attrs.field(
        default=(),
        validator=must(
            lambda v: not v or (len(v) == 3 and Lifetime(*v).valid),
            "the state of the reserve (0 to 3) and the wear of cells A and B (0 to 11), or empty",
        ),
    )
    """Wear that the device reports, in the values of eMMC. Default: that of the block device, if it is an eMMC."""


@attrs.frozen
class BlkSpec(DeviceSpec):
    """A block device."""

    queues: int = attrs.field(default=1, validator=must(lambda v: 1 <= v <= 16, "between 1 and 16"))
    """Number of request queues."""
    driver: DiskSpec = DiskSpec()
    """Driver end: how programs on the driver's host use the disk."""
    device: DiskStoreSpec = attrs.field(factory=partial(DiskStoreSpec, size=64))
    """Device end: the store. Default: 64 MiB in memory."""

    virtio = BLK
    queue_size_min = MIN_NUM

    @property
    def queue_count(self) -> tuple[str, int]:
        return "queues", self.queues

    def in_memory(self) -> Self:
        return attrs.evolve(self, driver=attrs.evolve(self.driver, nbd=None), device=self.device.in_memory())

    def memory(self) -> int:
        return host_memory(self.queue_size, self.queues, self.driver.buffers * MIB)

    def problems(self) -> Iterator[FieldError]:
        if not self.foreign:
            yield from (problem.inside("device") for problem in self.device.problems())
        yield from super().problems()

    @property
    def nbd(self) -> str | None:
        """Socket of the NBD server at the driver's end, if this system has it."""
        return self.driver.nbd if self.driven else None

    def paths(self) -> Iterator[Path]:
        if self.nbd is not None:
            yield Path(self.nbd)

    def claims(self, hosts: tuple[str, str]) -> Iterator[tuple[Keys, tuple[str, ...]]]:
        if self.nbd is not None:
            yield ("driver", "nbd"), ("file", file_key(self.nbd))
        if not self.foreign:
            yield from self.device.claims("device")
        yield from super().claims(hosts)

    def hints(self, system: str, name: str, hosts: tuple[str, str]) -> Iterator[str]:
        if self.nbd is not None:
            uri = nbd_uri(self.nbd, name)
            yield f"nbdinfo '{uri}'    # {name}, from {hosts[0]}"
            yield f"nbdcopy --progress '{uri}' copy.img"


def nbd_uri(path: str, name: str) -> str:
    """Return the URI by which NBD clients find the export ``name`` at the socket ``path``."""
    return f"nbd+unix:///{name}?socket={quote(str(Path(path).absolute()))}"
