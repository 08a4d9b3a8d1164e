"""Views of the ends of a block device."""

from __future__ import annotations

import attrs

from drivers.contracts.ports import StoreInfo
from drivers.devices.blk.driver.geometry import Geometry
from vnet.ports.disk.nbd_connection import NbdStatistics
from vnet.views.ends import EndView

__all__ = ["DiskView", "StoreView"]


@attrs.frozen
class DiskView(EndView):
    """The driver's end: a disk."""

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

    path: str | None
    store: StoreInfo
    serial: str
    in_worker: int
    """Requests that waited for a worker."""
