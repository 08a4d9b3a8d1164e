"""Two hosts, a link and a block device over it, and a store that waits and fails when it is told to."""

from __future__ import annotations

import hashlib
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import attrs
import trio

from drivers.contracts.ports import SectorStore
from drivers.devices.blk import BlkPlug, BlkSettings, Disk
from vnet.ends.blk import BlkSpec, DiskSpec, DiskStoreSpec
from vnet.ends.store import StoreSpec
from vnet.ports.disk.store import MemoryStore
from vnet.spec import MIB, LinkSpec
from vnet.testing.pair import IDEAL, MEGABYTE, Pair, carried, open_up
from vnet.topology import Topology

__all__ = ["BlkOptions", "BlkPair", "StorageOptions", "StubbornSpec", "StubbornStore", "open_blk_pair"]

DEVICE = "disk0"


class StubbornStore(MemoryStore):
    """A store in memory that can be told to wait and to fail."""

    def __init__(self, size: int, *, read_only: bool = False, block_size: int = 512) -> None:
        super().__init__(size, read_only=read_only, block_size=block_size)
        self.at_once = True
        """Whether reads and writes complete without waiting."""
        self.gate: trio.Event | None = None
        """Every call that may wait waits for this event and ignores cancellation, as a thread does."""
        self.errors: dict[str, OSError] = {}
        """Errors to raise, by method."""
        self.log: list[str] = []
        """The methods that were called, in order."""
        self.inside = 0
        """Calls that wait."""

    def preadv(self, segs: Sequence[memoryview], offset: int, /) -> int:
        return super().preadv(self._now("preadv", segs), offset)

    def pwritev(self, segs: Sequence[memoryview], offset: int, /) -> int:
        return super().pwritev(self._now("pwritev", segs), offset)

    def _now(self, name: str, segs: Sequence[memoryview]) -> Sequence[memoryview]:
        self._raise(name)
        return segs if self.at_once else ()

    async def read(self, into: memoryview, offset: int, /) -> None:
        await self._wait("read")
        super().preadv([into], offset)

    async def write(self, parts: Sequence[tuple[int, memoryview]], /) -> None:
        await self._wait("write")
        for offset, part in parts:
            super().pwritev([part], offset)

    async def flush(self) -> None:
        await self._wait("flush")

    async def discard(self, offset: int, size: int, /) -> None:
        await self._wait("discard")
        await super().discard(offset, size)

    async def write_zeroes(self, offset: int, size: int, unmap: bool, /) -> None:
        await self._wait("write_zeroes")
        await super().write_zeroes(offset, size, unmap)

    async def erase(self, offset: int, size: int, /) -> None:
        await self._wait("erase")
        await super().write_zeroes(offset, size, True)

    async def _wait(self, name: str) -> None:
        self.inside += 1
        with trio.CancelScope(shield=True):
            if self.gate is not None:
                await self.gate.wait()
        self.inside -= 1
        self._raise(name)

    def _raise(self, name: str) -> None:
        self.log.append(name)
        if name in self.errors:
            raise self.errors[name]


class StubbornSpec(StoreSpec):
    """The store of a topology, opened as a `StubbornStore`."""

    @asynccontextmanager
    async def open(self, workers: int) -> AsyncIterator[SectorStore]:
        assert self.size is not None
        yield StubbornStore(self.size * MIB, read_only=self.read_only, block_size=self.block_size)


@attrs.frozen
class StubbornDisk(StubbornSpec, DiskStoreSpec):
    """A disk on a `StubbornStore`."""


@attrs.frozen
class StorageOptions:
    """Options of a pair whose device keeps data."""

    features_off: tuple[str, ...] = ()
    queue_size: int = 64
    queues: int = 1
    transport: str | None = None
    """See `vnet.testing.pair.carried`."""
    link: LinkSpec = IDEAL
    size: int = 8
    """MiB."""
    buffers: int = 8
    """MiB."""
    read_only: bool = False
    block_size: int = 512
    workers: int = 4


@attrs.frozen
class BlkOptions(StorageOptions):
    """Options of a block pair."""

    secure_erase: bool = False
    lifetime: tuple[int, ...] = ()

    def topology(self) -> Topology:
        spec = BlkSpec(
            type="blk",
            queue_size=self.queue_size,
            features_off=self.features_off,
            queues=self.queues,
            driver=DiskSpec(buffers=self.buffers),
            device=StubbornDisk(
                size=self.size,
                read_only=self.read_only,
                block_size=self.block_size,
                workers=self.workers,
                secure_erase=self.secure_erase,
                lifetime=self.lifetime,
            ),
        )
        return carried({DEVICE: spec}, self.transport, self.link)


class BlkPair(Pair):
    """A pair with a disk at the driver's end and a store at the device's."""

    settings: BlkSettings
    plug: BlkPlug

    @property
    def store(self) -> StubbornStore:
        assert isinstance(self.plug.store, StubbornStore)
        return self.plug.store

    @property
    def disk(self) -> Disk:
        return self.settings.disk

    async def transfer(self, size: int = MEGABYTE, device: str = DEVICE) -> None:
        """``size`` bytes, random where the disk can be written to, there and back, compared by hash."""
        assert self.disk.geometry is not None
        data = random.Random(size).randbytes(size)
        with trio.fail_after(60):
            if self.disk.geometry.read_only:
                data = bytes(self.store.data[:size])
            else:
                await self.disk.write(0, data, fua=True)
            read = await self.disk.read(0, size)
        assert hashlib.sha256(read).digest() == hashlib.sha256(data).digest(), "what was read is not what was written"


def open_blk_pair(options: BlkOptions = BlkOptions()) -> AbstractAsyncContextManager[BlkPair]:
    """A pair that is up, with a `StubbornStore`, and taken down at the end."""
    return open_up(options.topology(), BlkPair)
