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
