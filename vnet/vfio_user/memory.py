"""The client's memory as the device accesses it: the mappings that are made and ended while it runs."""

from __future__ import annotations

import errno
from collections.abc import Callable

import attrs

from drivers.contracts.hw import DmaBuffer
from drivers.contracts.ipc import Handle, SharedMemory, Unusable
from rings.errors import MemoryFault
from rings.memory import ADDRESS_END, Addr, MappedMemory
from vnet.link.remote_memory import RemoteRange
from vnet.linux.ipc import LocalIpc
from vnet.vfio_user.constants import MAPS_MAX, DmaFlag
from vnet.vfio_user.dma import ClientDma
from vnet.vfio_user.payloads import DmaMap, DmaUnmap, Refused

__all__ = ["ClientMemory"]

FILES_MAX = 64
"""Most files."""
MAX_BYTES = 1 << 42
"""Most bytes of all files. Sparse files could otherwise exhaust this process's address space."""
FileId = tuple[int, int, int]


@attrs.frozen
class _Mapping:
    request: DmaMap
    file: FileId | None
    """None: the client passed no file descriptor, so that accesses are messages."""


class ClientMemory(MappedMemory):
    """Implements `vnet.pcie.rc.RootMemory`, at the client's DMA addresses. It allocates nothing.

    Each file is mapped once and as a whole, so that memory that the client unmaps and maps again is the same memory
    for the rings in it. Memory without a file descriptor is accessed by messages.
    """

    def __init__(self, ipc: LocalIpc, changed: Callable[[int, int], object], reserved: tuple[int, int]) -> None:
        """``changed`` is called by `settle`, with the range of addresses whose mappings changed.

        ``reserved`` is the start and the end of a range that no mapping may touch.
        """
        super().__init__(ipc.fence)
        self._ipc = ipc
        self._report = changed
        self._reserved = reserved
        self._mappings: dict[int, _Mapping] = {}
        self._files: dict[FileId, SharedMemory] = {}
        self._changed: tuple[int, int] | None = None
        self.dma: ClientDma | None = None
        """Access by messages; None without a client."""

    @property
    def mappings(self) -> int:
        """Number of mappings."""
        return len(self._mappings)

    @property
    def unsettled(self) -> bool:
        """Whether mappings changed since `settle`."""
        return self._changed is not None

    def map(self, request: DmaMap, handle: Handle | None) -> None:
        """Add a mapping. Raises Refused. The caller may close the handle."""
        start, end = request.address, request.address + request.size
        if len(self._mappings) >= MAPS_MAX:
            raise Refused(f"DMA_MAP: more than {MAPS_MAX} mappings", errno.ENOSPC)
        others = [mapping.request for mapping in self._mappings.values()]
        if any(start < other.address + other.size and other.address < end for other in others):
            raise Refused(f"DMA_MAP: {request.size:#x} bytes at {start:#x} overlap a mapping", errno.EEXIST)
        if start < self._reserved[1] and self._reserved[0] < end:
            raise Refused(f"DMA_MAP: {request.size:#x} bytes at {start:#x} reach into the interrupt window")
        file: FileId | None = None
        content: memoryview | RemoteRange
        writable = bool(request.flags & DmaFlag.WRITABLE)
        if handle is not None:
            try:
                file, view = self._open(handle, request)
            except Unusable as exc:
                raise Refused(f"DMA_MAP: {request.size:#x} bytes at {start:#x}: {exc}") from None
            content = view if writable else view.toreadonly()
        elif self.dma is not None:
            content = RemoteRange(self.dma, self.dma.copies, start, request.size, readonly=not writable)
        else:
            raise Refused(f"DMA_MAP: {request.size:#x} bytes at {start:#x}: no file descriptor")
        self.add(Addr(start), content, writable=writable)
        self._note(start, end)
        self._mappings[start] = _Mapping(request, file)

    def unmap(self, request: DmaUnmap) -> None:
        """End the mapping with this address and size, or all. Raises Refused."""
        if request.flags:
            self.clear()
            return
        mapping = self._mappings.get(request.address)
        if mapping is None or mapping.request.size != request.size:
            raise Refused(f"DMA_UNMAP: no mapping of {request.size:#x} bytes at {request.address:#x}", errno.ENOENT)
        self._end(mapping)

    def clear(self) -> None:
        """End all mappings."""
        for mapping in list(self._mappings.values()):
            self._end(mapping)

    def settle(self) -> None:
        """Show the device the mappings as they are now, and unmap files that no mapping uses.

        Clients change mappings by several messages: QEMU unmaps all memory and maps it in other parts when its BIOS
        locks a few pages, while rings in it run.
        """
        if self._changed is None:
            return
        (start, end), self._changed = self._changed, None
        self._report(start, end - start)
        used = {mapping.file for mapping in self._mappings.values()}
        for file in [file for file in self._files if file not in used]:
            self._files.pop(file).close()

    def synchronize(self) -> None:
        """Settle the mappings, and flush: what a doorbell does before anything else."""
        if self._changed is not None:
            self.settle()
        if self.dma is not None and self.dma.copies.held:
            self.dma.copies.flush()

    def flush(self) -> None:
        """Send what was written to memory that is accessed by messages."""
        if self.dma is not None and self.dma.copies.held:
            self.dma.copies.flush()

    def _open(self, handle: Handle, request: DmaMap) -> tuple[FileId, memoryview]:
        """Return the file and the view of a new mapping. Raises Unusable, Refused."""
        file = self._ipc.identify(handle)
        if request.offset + request.size > file[2]:
            raise Unusable(f"offset {request.offset:#x} is too large for memory of {file[2]:#x} bytes")
        if file not in self._files:
            if len(self._files) >= FILES_MAX or file[2] + sum(size for _, _, size in self._files) > MAX_BYTES:
                raise Refused(f"DMA_MAP: more than {FILES_MAX} files, or {MAX_BYTES:#x} bytes", errno.ENOMEM)
            self._files[file] = self._ipc.map(handle, file[2], 0)
        return file, self._files[file].view[request.offset : request.offset + request.size]

    def _end(self, mapping: _Mapping) -> None:
        start = mapping.request.address
        del self._mappings[start]
        self.remove(Addr(start))
        self._note(start, start + mapping.request.size)

    def _note(self, start: int, end: int) -> None:
        low, high = self._changed or (ADDRESS_END, 0)
        self._changed = min(low, start), max(high, end)

    # DmaMemory

    def alloc(self, size: int, align: int = 64) -> DmaBuffer:
        raise MemoryError("the memory is the client's")

    def free(self, buffer: DmaBuffer) -> None:
        raise ValueError("the memory is the client's")

    def _fail(self, addr: int, size: int, write: bool, reason: str) -> MemoryFault:
        return super()._fail(addr, size, write, "the client did not share the memory")
