"""The memory in which a back end marks the pages that it wrote, while its front end copies them to somewhere else."""

from __future__ import annotations

from collections.abc import Iterable

from drivers.contracts.ipc import Handle, Ipc, Notifier, SharedMemory, Unusable
from drivers.transports.vhost_user.payloads import Log, MessageRefused
from rings.observers.dirty import DirtyLog, Range

__all__ = ["DirtyArea", "DirtyPages"]

MAX_LOG = 1 << 37
"""Bytes: for addresses of 52 bits, which is all that processors have."""


class DirtyArea:
    """One log that a front end gave."""

    def __init__(self, shared: SharedMemory) -> None:
        self._shared = shared
        self.log = DirtyLog(shared.view)

    @classmethod
    def take(cls, ipc: Ipc, given: Log, handle: Handle) -> DirtyArea:
        """Raises MessageRefused. The handle may be closed afterwards."""
        if given.size > MAX_LOG:
            raise MessageRefused(f"a dirty log of {given.size:#x} bytes")
        try:
            return cls(ipc.map(handle, given.size, given.offset))
        except Unusable as exc:
            raise MessageRefused(f"the dirty log: {exc}") from None

    def check(self, ranges: Iterable[Range]) -> None:
        """Raises MessageRefused where it is too small for one of these."""
        for addr, size in ranges:
            if not self.log.covers(addr, size):
                raise MessageRefused(f"the dirty log ends before {addr + size:#x}")

    def close(self) -> None:
        self._shared.close()


class DirtyPages:
    """What a front end said of logging."""

    def __init__(self) -> None:
        self.on = False
        """Whether writes are to be logged."""
        self._area: DirtyArea | None = None
        self._event: Notifier | None = None

    @property
    def log(self) -> DirtyLog | None:
        """Where; None while it has not been said."""
        return self._area.log if self._area is not None else None

    def check(self, ranges: Iterable[Range]) -> None:
        """Raises MessageRefused where there is a log, and it is too small for one of these."""
        if self._area is not None:
            self._area.check(ranges)

    def use(self, area: DirtyArea | None) -> None:
        """Log there from now on. Nobody may still mark anything in the one before."""
        if self._area is not None:
            self._area.close()
        self._area = area
        self._tell_by(self._event)

    def tell(self, event: Notifier) -> None:
        """Tell by this event whenever something was marked."""
        if self._event is not None:
            self._event.close()
        self._tell_by(event)

    def _tell_by(self, event: Notifier | None) -> None:
        self._event = event
        if event is not None and self._area is not None:
            self._area.log.on_mark = event.notify

    def close(self) -> None:
        self.use(None)
        if self._event is not None:
            self._event.close()
            self._event = None
