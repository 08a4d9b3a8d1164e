"""What went one way, and what did not; what was asked for, and what came of it."""

from __future__ import annotations

import attrs

__all__ = ["RequestFigures", "Traffic"]


class Traffic:
    """Figures of one direction since the device exists: in = out + dropped."""

    __slots__ = ("bytes", "drops", "packets")

    def __init__(self) -> None:
        self.packets = 0
        """Frames or messages passed on."""
        self.bytes = 0
        """Bytes of these, without their headers of virtio's."""
        self.drops: dict[str, int] = {}
        """Those not passed on, by cause."""

    def drop(self, cause: str, count: int = 1) -> None:
        if count:
            self.drops[cause] = self.drops.get(cause, 0) + count


@attrs.define(eq=False)
class RequestFigures:
    """Requests of one queue since the device exists: taken = done + the sum of errors + still under way."""

    taken: int = 0
    done: int = 0
    """Ended with OK."""
    bytes: int = 0
    """Of data that these read and wrote."""
    queued: int = 0
    """Device: had to wait for a worker. Driver: were given to the device once more, after a reset."""
    errors: dict[str, int] = attrs.field(factory=dict)
    """Ended with an error, by cause."""

    def fail(self, cause: str) -> None:
        self.errors[cause] = self.errors.get(cause, 0) + 1
