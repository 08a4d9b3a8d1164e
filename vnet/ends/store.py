"""The store behind a disk or a logical unit: its record in a topology, and how it is opened."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Literal, Self

import attrs

from drivers.contracts.ports import SectorStore
from vnet.errors import ConfigError, FieldError, Keys
from vnet.ports.disk.store import MemoryStore, open_file_store
from vnet.spec import FILE_RULE, MIB, file_key, is_path, must

__all__ = ["StoreSpec"]

TOO_LARGE = {errno.EFBIG, errno.ENOSPC}
"""Error numbers from opening a file that mean that its size is impossible."""

SIMULATED_MAX = 64
"""MiB of a store in memory that stands for a file."""


@attrs.frozen
class StoreSpec:
    """The store that holds the sectors of a disk or a logical unit."""

    store: Literal["file", "memory"] = "memory"
    """Kind of store: a file or block device, or the memory of this process, which is empty at each start."""
    path: str | None = attrs.field(default=None, validator=must(is_path, FILE_RULE))
    """Path of the file or block device (file stores). A file that does not exist is made if ``size`` is given."""
    size: int | None = attrs.field(
        default=None, validator=must(lambda v: 1 <= v <= 1 << 30, "between 1 and 1073741824 (MiB)")
    )
    """Capacity in MiB. Default: the size of the file; memory stores need a value."""
    read_only: bool = False
    """Whether the device refuses writes."""
    shared: bool = False
    """Whether other processes may open the file for writing, too, such as the back end of a migrated guest. They must
    set the same. Default: the file is locked."""
    block_size: int = attrs.field(
        default=512,
        validator=must(lambda v: 512 <= v <= 65536 and not v & v - 1, "a power of two between 512 and 65536"),
    )
    """Logical block size in bytes."""

    def in_memory(self) -> Self:
        """Return the store in memory: empty, and of at most `SIMULATED_MAX` MiB if it stands for a file."""
        if self.path is None:
            return self
        size = min(self.size or SIMULATED_MAX, SIMULATED_MAX)
        return attrs.evolve(self, store="memory", path=None, shared=False, size=size)

    def problems(self) -> Iterator[FieldError]:
        """Yield the conflicts between fields."""
        if self.store == "file" and self.path is None:
            yield FieldError(("path",), None, "must be given for a file store")
        if self.store == "memory" and self.path is not None:
            yield FieldError(("path",), self.path, "must be absent for a memory store")
        if self.store == "memory" and self.size is None:
            yield FieldError(("size",), None, "must be given for a memory store")
        if self.store == "memory" and self.shared:
            yield FieldError(("shared",), True, "must be false for a memory store")

    def claims(self, *where: str | int) -> Iterator[tuple[Keys, tuple[str, ...]]]:
        """Yield the file if only this device may write to it, as `vnet.spec.DeviceSpec.claims` does.

        ``where`` are the keys of the store in the device.
        """
        if self.path is not None and not (self.read_only or self.shared):
            yield (*where, "path"), ("file", file_key(self.path))

    @asynccontextmanager
    async def open_at(self, where: str, workers: int) -> AsyncIterator[SectorStore]:
        """Open the store, with ``workers`` threads for a file. Raises ConfigError; ``where`` is the store's key."""
        async with AsyncExitStack() as stack:
            try:
                store = await stack.enter_async_context(self.open(workers))
            except (OSError, MemoryError) as exc:
                raise self._open_error(where, exc) from None
            yield store

    @asynccontextmanager
    async def open(self, workers: int) -> AsyncIterator[SectorStore]:
        """Open the store as `open_at` does. Raises OSError, MemoryError."""
        size = (self.size or 0) * MIB  # 0: the size of the file
        if self.path is None:
            yield MemoryStore(size, read_only=self.read_only, block_size=self.block_size)
        else:
            async with open_file_store(
                Path(self.path),
                size=size or None,
                read_only=self.read_only,
                shared=self.shared,
                block_size=self.block_size,
                workers=workers,
            ) as store:
                yield store

    def _open_error(self, where: str, error: OSError | MemoryError) -> ConfigError:
        if isinstance(error, MemoryError):
            why = "must be less than the free memory of this machine (MiB)"
            return ConfigError("topology", f"{where}.size", self.size, why)
        if error.errno in TOO_LARGE and self.size is not None:
            return ConfigError("topology", f"{where}.size", self.size, f"{self.path}: {error.strerror}")
        why = "already used by another process" if isinstance(error, BlockingIOError) else error.strerror or str(error)
        return ConfigError("topology", f"{where}.path", self.path, why)
