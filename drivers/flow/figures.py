"""Counters of one direction's traffic, and of the requests of one queue."""

from __future__ import annotations

from collections import Counter

import attrs

__all__ = ["RequestFigures", "Traffic"]


class Traffic:
    """Counters of one direction over the device's lifetime: in = out + dropped."""

    __slots__ = ("bytes", "drops", "packets")

    def __init__(self) -> None:
        self.packets = 0
        """Frames or messages passed on."""
        self.bytes = 0
        """Bytes passed on, without virtio headers."""
        self.drops: Counter[str] = Counter()
        """Dropped frames or messages, by cause."""

    def drop(self, cause: str, count: int = 1) -> None:
        if count:
            self.drops[cause] += count


@attrs.define(eq=False)
class RequestFigures:
    """Request counters of one queue over the device's lifetime: taken = done + errors + in flight."""

    taken: int = 0
    done: int = 0
    """Requests that ended with OK."""
    bytes: int = 0
    """Data bytes read and written by these."""
    queued: int = 0
    """Device: requests that waited for a worker. Driver: requests submitted again after a reset."""
    errors: Counter[str] = attrs.field(factory=Counter)
    """Requests that ended with an error, by cause."""

    def fail(self, cause: str) -> None:
        self.errors[cause] += 1
