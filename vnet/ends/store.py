"""Where a device keeps its sectors, as a topology says it."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Literal

import attrs

from drivers.contracts.ports import SectorStore
from vnet.errors import ConfigError
from vnet.ports.disk.store import MemoryStore, open_file_store
from vnet.spec import FILE_RULE, MIB, Problem, file_key, is_path, must

__all__ = ["OpenStore", "StoreSpec", "open_store"]


TOO_LARGE = {errno.EFBIG, errno.ENOSPC}
"""Errors of opening a file that are about its size."""


@attrs.frozen
class StoreSpec:
    """Where the sectors are."""

    store: Literal["file", "memory"] = "memory"
    path: str | None = attrs.field(default=None, validator=must(is_path, FILE_RULE))
    """Of a file or block device; a file that is not there is made where a size is given."""
    size: int | None = attrs.field(default=None, validator=must(lambda v: 1 <= v <= 1 << 30, "MiB, 1 to 1073741824"))
    """MiB; by default what the file has."""
    read_only: bool = False
    shared: bool = False
    """Others may have the file open for writing as well, such as the device that a guest is migrated to."""
    block_size: int = attrs.field(
        default=512, validator=must(lambda v: 512 <= v <= 65536 and not v & v - 1, "a power of two from 512 to 65536")
    )

    def clash(self, where: str) -> Problem | None:
        """As `vnet.spec.DeviceSpec.clash`, of the store at that place of the device."""
        if self.store == "file" and self.path is None:
            return f"{where}.path", None, "a file store needs the path of its file"
        if self.store == "memory" and self.path is not None:
            return f"{where}.path", self.path, "a memory store has no file"
        if self.store == "memory" and self.size is None:
            return f"{where}.size", None, "a memory store needs a size"
        if self.store == "memory" and self.shared:
            return f"{where}.shared", True, "only files can be shared with other programs"
        return None

    def claims(self, where: str) -> Iterator[tuple[str, tuple[str, ...]]]:
        """As `vnet.spec.DeviceSpec.claims`: nobody else writes to that file."""
        if self.path is not None and not (self.read_only or self.shared):
            yield f"{where}.path", ("file", file_key(self.path))

    def trouble(self, where: str, error: OSError | MemoryError) -> ConfigError:
        """The error to raise if it can't be opened."""
        if isinstance(error, MemoryError):
            return ConfigError("topology", f"{where}.size", self.size, "this machine has not so many MiB of memory")
        if error.errno in TOO_LARGE and self.size is not None:
            return ConfigError("topology", f"{where}.size", self.size, f"{self.path}: {error.strerror}")
        why = "another program uses it" if isinstance(error, BlockingIOError) else error.strerror or str(error)
        return ConfigError("topology", f"{where}.path", self.path, why)


OpenStore = Callable[[StoreSpec], AbstractAsyncContextManager[SectorStore]]


@asynccontextmanager
async def open_store(spec: StoreSpec, *, workers: int = 4) -> AsyncIterator[SectorStore]:
    """The store that a topology asks for. Raises OSError."""
    size = None if spec.size is None else spec.size * MIB
    if spec.path is None:
        assert size is not None
        yield MemoryStore(size, read_only=spec.read_only, block_size=spec.block_size)
    else:
        async with open_file_store(
            Path(spec.path),
            size=size,
            read_only=spec.read_only,
            shared=spec.shared,
            block_size=spec.block_size,
            workers=workers,
        ) as store:
            yield store
