"""The dirty log: shared memory in which a back end marks the pages that it wrote, for live migration."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from drivers.contracts.ipc import Handle, Ipc, Notifier, SharedMemory, Unusable
from drivers.transports.vhost_user.payloads import Log, MessageRefused
from rings.observers.dirty import DirtyLog, Range

__all__ = ["DirtyArea", "DirtyPages"]

MAX_LOG = 1 << 37
"""Most bytes of a log: enough for 52-bit addresses, the most that processors have."""


class DirtyArea:
    """A log area from a front end."""

    def __init__(self, shared: SharedMemory, on_mark: Callable[[], None]) -> None:
        self._shared = shared
        self.log = DirtyLog(shared.view, on_mark)

    @classmethod
    def take(cls, ipc: Ipc, log: Log, handle: Handle, on_mark: Callable[[], None]) -> DirtyArea:
        """Map a log area; ``on_mark`` is called after pages were marked. The caller may close the handle.

        Raises MessageRefused.
        """
        if log.size > MAX_LOG:
            raise MessageRefused(f"a dirty log of {log.size:#x} bytes")
        try:
            return cls(ipc.map(handle, log.size, log.offset), on_mark)
        except Unusable as exc:
            raise MessageRefused(f"the dirty log: {exc}") from None

    def check(self, ranges: Iterable[Range]) -> None:
        """Raise MessageRefused if the log is too small for one of ``ranges``."""
        for addr, size in ranges:
            if not self.log.covers(addr, size):
                raise MessageRefused(f"the dirty log ends before {addr + size:#x}")

    def close(self) -> None:
        self._shared.close()


class DirtyPages:
    """A front end's settings for dirty logging."""

    def __init__(self) -> None:
        self.enabled = False
        """Whether to log writes."""
        self._area: DirtyArea | None = None
        self._event: Notifier | None = None

    @property
    def log(self) -> DirtyLog | None:
        """The log, or None before SET_LOG_BASE."""
        return self._area.log if self._area is not None else None

    def check(self, ranges: Iterable[Range]) -> None:
        """Raise MessageRefused if there is a log that is too small for one of ``ranges``."""
        if self._area is not None:
            self._area.check(ranges)

    def set_area(self, area: DirtyArea | None) -> None:
        """Use ``area`` from now on. No ring may still use the former area, which is closed."""
        if self._area is not None:
            self._area.close()
        self._area = area

    def set_event(self, event: Notifier) -> None:
        """Use ``event`` to notify the front end of marked pages."""
        if self._event is not None:
            self._event.close()
        self._event = event

    def notify(self) -> None:
        """Notify the front end of marked pages, if it wants to be notified."""
        if self._event is not None:
            self._event.notify()

    def close(self) -> None:
        self.set_area(None)
        if self._event is not None:
            self._event.close()
            self._event = None
