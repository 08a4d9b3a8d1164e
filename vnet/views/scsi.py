"""Views of the ends of a SCSI host."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from drivers.contracts.ports import StoreInfo
from drivers.devices.scsi.layout import ScsiConfig
from vnet.views.ends import EndView
from vnet.views.plain import INLINE

__all__ = ["InitiatorView", "TargetsView", "UnitView"]


@attrs.frozen
class InitiatorView(EndView):
    """The driver's end: an initiator."""

    TYPE = "initiator"
    config: ScsiConfig | None
    """None while the device is down."""
    resubmitted: int
    """Commands submitted again after a reset."""
    resets: int


@attrs.frozen
class UnitView:
    """A logical unit."""

    lun: str
    """Target and LUN."""
    serial: str
    info: StoreInfo = attrs.field(metadata=INLINE)
    write_cache: bool
    attentions: str | None
    """Pending unit attentions; None without any."""


@attrs.frozen
class TargetsView(EndView):
    """The device's end: logical units."""

    TYPE = "targets"
    in_worker: int
    """Commands that waited for a worker."""
    checks: Mapping[str, int]
    """Number of CHECK CONDITIONs by sense."""
    luns: tuple[UnitView, ...]
