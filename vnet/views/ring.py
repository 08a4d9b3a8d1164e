"""The view of one ring, a query of its own: it has the bytes of the ring, and every outstanding chain."""

from __future__ import annotations

import attrs

from rings.queue import QueueState
from rings.view import RingView

__all__ = ["RingReport"]


@attrs.frozen
class RingReport:
    """The ring of a queue, as it stands in the driver's memory, and the indices that each side keeps for itself."""

    driver: QueueState | None
    """None while the driver has no ring."""
    device: QueueState | None
    """None while the device has no ring, or if the device is in another process."""
    ring: RingView | None
    """None while the driver has no ring."""
    waited: float | None = None
    """Seconds that the oldest chain has been outstanding at least, according to earlier looks; 0 at a first look. None
    if no chain is outstanding."""

    @property
    def age(self) -> str:
        """How long the oldest chain has been outstanding, as far as looks can tell; empty if no chain is."""
        if self.waited is None:
            return ""
        if self.waited:
            return f"the oldest chain has been outstanding for at least {self.waited:.1f} s: an earlier look saw it"
        return "the oldest chain: outstanding for an unknown time; the next look will tell more"
