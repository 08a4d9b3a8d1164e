"""Views of the ends of a block device."""

from __future__ import annotations

import attrs

from drivers.contracts.ports import StoreInfo
from drivers.devices.blk.driver.geometry import Geometry
from vnet.views.ends import EndView

__all__ = ["DiskView", "NbdStatistics", "StoreView"]


@attrs.define(eq=False)
class NbdStatistics:
    """Counters of an NBD server since its start."""

    clients: int = 0
    """Clients connected now."""
    connections: int = 0
    commands: int = 0
    errors: int = 0
    """Commands that failed."""
    refused: int = 0
    """Clients beyond the limit, or too slow in the negotiation."""


@attrs.frozen
class DiskView(EndView):
    """The driver's end: a disk."""

    TYPE = "disk"
    uri: str | None
    """URI of the NBD export; None without one."""
    disk: Geometry | None
    """None while the device is down."""
    nbd: NbdStatistics | None
    resubmitted: int
    """Requests submitted again after a reset."""


@attrs.frozen
class StoreView(EndView):
    """The device's end: a store."""

    TYPE = "store"
    path: str | None
    store: StoreInfo
    serial: str
    in_worker: int
    """Requests that waited for a worker."""
