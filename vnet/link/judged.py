"""The windows of a link whose accesses are judged while a rule of faults is about them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from weakref import WeakSet

import trio

from rings.errors import MemoryFault
from rings.memory import Addr, no_region
from rings.observers.overlay import Overlay
from vnet.errors import CompleterAbort, CompletionTimeout, LinkDown, PoisonedData, UnsupportedRequest
from vnet.link.base import Window
from vnet.link.faults import Action

__all__ = ["JudgedWindows"]

SAME_REQUEST = 0.001
"""Seconds in which a repetition of a failed access fails again: shorter than any recovery takes."""
ERRORS: dict[Action, tuple[type[MemoryFault], str]] = {
    Action.TIME_OUT: (CompletionTimeout, "no completion came in time"),
    Action.REFUSE: (UnsupportedRequest, "the other end does not support the request"),
    Action.ABORT: (CompleterAbort, "the other end gave the request up"),
    Action.POISON: (PoisonedData, "the data was poisoned on its way"),
    Action.FLAP: (LinkDown, "the link went down during the request"),
}
Judge = Callable[[bool], Action | None]
"""Decides whether an access, a write or a read, fails."""


class JudgedWindows:
    """All open windows of a link. Only while they are judged do their views differ from those of other links."""

    def __init__(self, link: str, judge: Judge) -> None:
        """``link`` is the name of the link, for errors."""
        self._link = link
        self._judge = judge
        self._windows: WeakSet[Window] = WeakSet()
        self._judged: WeakSet[_JudgedWindow] = WeakSet()
        self._on = False

    def add(self, window: Window) -> Window:
        """Return ``window``, which is judged from now on whenever the others are."""
        self._windows.add(window)
        if self._on:
            self._judged.add(_JudgedWindow(window, self._link, self._judge))
        return window

    def switch(self, on: bool) -> None:
        """Begin or end to judge accesses."""
        if on == self._on:
            return
        self._on = on
        if on:
            self._judged.update([_JudgedWindow(window, self._link, self._judge) for window in self._windows])
        else:
            for judged in self._judged:
                judged.overlay.remove()
            self._judged.clear()


class _JudgedWindow:
    """A window whose views may fail. Pinned views are memory that stays mapped: no request, and no fault."""

    def __init__(self, window: Window, link: str, judge: Judge) -> None:
        self._view, self._segments, self._pin = window.view, window.segments, window.pin
        self._link = link
        self._judge = judge
        self._pinning = False
        # The last failed access, and the time until which it fails again. Not the error: its traceback keeps frames.
        self._failed: tuple[int, int, bool, Action] | None = None
        self._until = -math.inf
        # The window holds this object by these attributes, and ends its life.
        self.overlay = Overlay(
            window, {"view": self.view, "segments": self.segments, "pin": self.pin, "region": no_region}
        )

    def view(self, addr: Addr, size: int, writable: bool = False, /) -> memoryview:
        view = self._view(addr, size, writable)
        self._accessed(addr, size, writable, (view,))
        return view

    def segments(self, addr: Addr, size: int, writable: bool = False, /) -> list[memoryview]:
        views = self._segments(addr, size, writable)
        self._accessed(addr, size, writable, views)
        return views

    def pin(self, addr: Addr, size: int, form: str, /) -> memoryview:
        self._pinning = True
        try:
            return self._pin(addr, size, form)
        finally:
            self._pinning = False

    def _accessed(self, addr: int, size: int, write: bool, views: Sequence[memoryview]) -> None:
        if self._pinning:
            return
        repeated = self._repeated(addr, size, write)
        action = repeated or self._judge(write)
        if action is None:
            return
        if repeated is None:
            self._failed, self._until = (addr, size, write, action), trio.current_time() + SAME_REQUEST
        for view in views:
            view.release()
        error, reason = ERRORS[action]
        raise error(addr, size, write=write, reason=f"{reason} (link {self._link})")

    def _repeated(self, addr: int, size: int, write: bool) -> Action | None:
        """Return the last access's fault if this is the same access: a ring can repeat one request, because it took
        the error for fragmented memory, or deferred it to the end of a batch."""
        if self._failed is None:
            return None
        if trio.current_time() > self._until:
            self._failed = None
            return None
        return self._failed[3] if self._failed[:3] == (addr, size, write) else None
