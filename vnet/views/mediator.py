"""View of the device end of a mediated device."""

from __future__ import annotations

import attrs

from drivers.mediator import MediatorStatistics
from vnet.views.ends import EndView
from vnet.views.plain import INLINE

__all__ = ["MediatorView"]


@attrs.frozen
class MediatorView(EndView):
    """One of the two sides of a mediator."""

    TYPE = "mediator"
    behind: str
    """Name of the device on the other side."""
    figures: MediatorStatistics = attrs.field(metadata=INLINE)
    """Buffers and bytes taken from this side's driver."""
