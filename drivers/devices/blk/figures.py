"""What both sides count of a queue."""

from __future__ import annotations

import attrs

__all__ = ["RequestFigures"]


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
