"""The foreign driver's memory, as its front end shares it. Nothing that it says is believed."""

from __future__ import annotations

import os
from collections.abc import Sequence

from drivers.transports.vhost_user.payloads import MemRegion
from vnet.linux.ipc import Mapping

__all__ = ["DriverError", "SharedRegions"]


class DriverError(Exception):
    """The driver did what no device can go on after; the message says what."""


class SharedRegions:
    """Mapped regions of memory."""

    def __init__(self, regions: Sequence[MemRegion] = (), fds: Sequence[int] = ()) -> None:
        """Map the regions of these files, which the caller still owns. Raises DriverError."""
        self._parts: list[tuple[MemRegion, memoryview]] = []
        for region, fd in zip(regions, fds, strict=True):
            try:
                if region.mmap_offset + region.size > os.fstat(fd).st_size:
                    raise DriverError(f"shared a region of {region.size:#x} bytes that ends behind its file")
                view = Mapping(fd, region.size, region.mmap_offset).view
            except (OSError, ValueError, OverflowError) as exc:
                raise DriverError(f"shared memory that can't be mapped: {exc}") from None
            self._parts.append((region, view))

    def view(self, addr: int, size: int, *, user: bool = False) -> memoryview:
        """Return a view at one of the driver's addresses, or of its front end's own. Raises DriverError."""
        for region, part in self._parts:
            low = addr - (region.user_addr if user else region.addr)
            if 0 <= low and low + size <= region.size:
                return part[low : low + size]
        raise DriverError(f"named {size} bytes at {addr:#x}, which it did not share")
