"""The driver's memory as shared by a front end: mapped regions of files, each with two addresses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import attrs

from drivers.contracts.ipc import Handle, Ipc, SharedMemory, Unusable
from drivers.transports.vhost_user.payloads import MemRegion, MessageRefused
from rings.memory import Addr, MappedMemory
from rings.observers.dirty import WriteRecorder

__all__ = ["MAX_SLOTS", "PeerMemory"]

MAX_SLOTS = 64
"""Most regions."""
MAX_BYTES = 1 << 42
"""Most bytes of all regions. Sparse files could otherwise exhaust this process's address space."""


@attrs.frozen
class _Slot:
    region: MemRegion
    shared: SharedMemory


class PeerMemory:
    """``memory`` uses the driver's addresses; messages name rings by addresses of the front end (`translate`)."""

    def __init__(self, ipc: Ipc) -> None:
        self._ipc = ipc
        self._slots: list[_Slot] = []
        self.memory = MappedMemory(ipc.fence)
        self.recorder = WriteRecorder(self.memory)
        """The same memory for rings with dirty logging: records writes."""

    def __iter__(self) -> Iterator[MemRegion]:
        return (slot.region for slot in self._slots)

    def map(self, regions: Sequence[MemRegion], handles: Sequence[Handle]) -> PeerMemory:
        """Map ``regions`` as a new memory. On MessageRefused everything is unmapped again."""
        memory = PeerMemory(self._ipc)
        try:
            for region, handle in zip(regions, handles, strict=True):
                memory.add(region, handle)
        except BaseException:
            memory.close()
            raise
        return memory

    def add(self, region: MemRegion, handle: Handle) -> None:
        """Map one more region. Raises MessageRefused. The caller may close the handle."""
        if len(self._slots) >= MAX_SLOTS:
            raise MessageRefused(f"more than {MAX_SLOTS} memory regions")
        if any(region.overlaps(other) for other in self):
            raise MessageRefused(f"the memory region at {region.addr:#x} overlaps another")
        if region.size + sum(other.size for other in self) > MAX_BYTES:
            raise MessageRefused(f"memory regions of more than {MAX_BYTES:#x} bytes")
        try:
            shared = self._ipc.map(handle, region.size, region.mmap_offset)
        except Unusable as exc:
            raise MessageRefused(f"the memory region at {region.addr:#x}: {exc}") from None
        self.memory.add(Addr(region.addr), shared.view)
        self._slots.append(_Slot(region, shared))

    def find(self, region: MemRegion) -> MemRegion:
        """Return the region with these addresses and this size, at any file offset. Raises MessageRefused."""
        for other in self:
            if attrs.evolve(region, mmap_offset=other.mmap_offset) == other:
                return other
        raise MessageRefused(f"no memory region of {region.size:#x} bytes at {region.addr:#x}")

    def without(self, region: MemRegion) -> PeerMemory:
        """Return the memory without ``region``, only for checks of addresses."""
        memory = PeerMemory(self._ipc)
        memory._slots = [slot for slot in self._slots if slot.region is not region]
        return memory

    def remove(self, region: MemRegion) -> None:
        """Unmap a region that `find` returned, and release its pins."""
        [slot] = [slot for slot in self._slots if slot.region is region]
        self._slots.remove(slot)
        self.memory.remove(Addr(region.addr))
        slot.shared.close()

    def translate(self, user_addr: int, size: int) -> Addr:
        """Return the driver's address of ``size`` bytes at ``user_addr`` of the front end. Raises MessageRefused."""
        for region in self:
            offset = user_addr - region.user_addr
            if 0 <= offset and offset + size <= region.size:
                return Addr(region.addr + offset)
        raise MessageRefused(f"no memory region has {size} bytes at address {user_addr:#x} of the front end")

    def close(self) -> None:
        """Unmap everything."""
        self.memory.close()
        while self._slots:
            self._slots.pop().shared.close()
