"""The checker's memory: a sealed memfd that the device maps, with canaries around the part that it is granted."""

from __future__ import annotations

import fcntl
import mmap
import os

__all__ = ["Arena", "sealed_file"]

PAGE = 4096
MARGIN = 16 * PAGE
"""Bytes of canaries before and behind the granted memory, in the same file."""
CANARY = b"\xc5" * MARGIN


def sealed_file(size: int) -> int:
    """Return a new memfd of ``size`` zeroed bytes that can neither shrink nor grow. Raises OSError."""
    fd = os.memfd_create("vnet-check", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    return fd


class Arena:
    """Memory at driver address ``base``. Each allocation is new; all of it ends with the arena."""

    def __init__(self, size: int = 4 << 20, base: int = 0x4000_0000, user: int = 0x7F00_0000_0000) -> None:
        """Map ``size`` bytes; ``user`` is the address that the front end states for its own process. Raises OSError."""
        self.base, self.size, self.user = base, size, user
        self.offset = MARGIN
        self.fd = sealed_file(size + 2 * MARGIN)
        self._map = mmap.mmap(self.fd, size + 2 * MARGIN)
        whole = memoryview(self._map)
        whole[:MARGIN] = whole[MARGIN + size :] = CANARY
        self._whole, self._view = whole, whole[MARGIN : MARGIN + size]
        self._next = 0

    @property
    def end(self) -> int:
        """The driver's address behind the last granted byte."""
        return self.base + self.size

    def alloc(self, size: int, align: int = 64) -> int:
        """Return the driver's address of ``size`` zeroed bytes."""
        start = -(-self._next // align) * align
        if start + size > self.size:
            raise MemoryError(f"the checker's memory of {self.size} bytes has no room for another {size}")
        self._next = start + size
        return self.base + start

    def rewind(self) -> None:
        """Give all memory to new allocations, zeroed."""
        self._view[:] = bytes(self.size)
        self._next = 0

    def put(self, data: bytes, align: int = 64) -> int:
        """Return the driver's address of a new copy of ``data``."""
        addr = self.alloc(len(data), align)
        self.write(addr, data)
        return addr

    def view(self, addr: int, size: int) -> memoryview:
        """Return a writable view of granted memory."""
        return self._view[addr - self.base : addr - self.base + size]

    def read(self, addr: int, size: int) -> bytes:
        return bytes(self.view(addr, size))

    def write(self, addr: int, data: bytes) -> None:
        self.view(addr, len(data))[:] = data

    def to_user(self, addr: int) -> int:
        """Return the front end's own address for one of the driver's."""
        return self.user + addr - self.base

    def intact(self) -> bool:
        """Return whether no byte outside the granted memory was written."""
        return self._whole[:MARGIN] == CANARY and self._whole[MARGIN + self.size :] == CANARY

    def close(self) -> None:
        """Close the file and unmap it, once the last view of it is released."""
        if self.fd < 0:
            return
        os.close(self.fd)
        self.fd = -1
        self._view.release()
        self._whole.release()
        try:
            self._map.close()
        except BufferError:
            pass  # a ring still has views: the mapping ends with the last of them
