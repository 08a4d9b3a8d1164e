"""Views of the ends of an rpmsg device."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from drivers.devices.rpmsg import EndpointStatistics
from vnet.views.ends import EndView
from vnet.views.plain import INLINE

__all__ = ["EndpointView", "RpmsgView", "ServiceView"]


@attrs.frozen
class ServiceView:
    """An endpoint that the other side announced."""

    name: str
    addr: int


@attrs.frozen
class EndpointView:
    """An endpoint, and the surface by which programs use it."""

    figures: EndpointStatistics = attrs.field(metadata=INLINE)
    surface: str | None
    """Kind of the surface; None if only the Python API uses the endpoint."""
    path: str | None
    untaken: Mapping[str, int]
    """Messages that no program took, by cause."""


@attrs.frozen
class RpmsgView(EndView):
    """One end of an rpmsg device."""

    TYPE = "rpmsg"
    max_payload: int
    """Bytes of the longest message."""
    services: tuple[ServiceView, ...]
    endpoints: tuple[EndpointView, ...]
    unsent: int
    """Messages waiting to be sent."""
    resets: int
    """Number of times that the device went away."""
