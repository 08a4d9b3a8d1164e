"""What can go wrong between a driver, its bus and its transport."""

from __future__ import annotations

__all__ = ["DriverError", "FeatureMismatch", "NeedsReset", "PortGone", "ProbeDeferred", "ProbeError", "TransportLost"]


class DriverError(Exception):
    """The root of what drivers raise; each has one sentence that says what was wrong."""


class ProbeError(DriverError):
    """The driver can't run this device; the device stays unbound, with FAILED set where it has a status."""


class ProbeDeferred(DriverError):
    """Something this driver needs is not there yet; the bus tries again when it changes."""


class FeatureMismatch(ProbeError):
    """The two sides have no workable set of features in common."""


class NeedsReset(DriverError):
    """The device set DEVICE_NEEDS_RESET, or broke a ring; only a reset helps."""


class TransportLost(DriverError):
    """The device can't be reached any more: link down, removed, or it never answers."""


class PortGone(DriverError):
    """What a device was plugged into was taken away while it ran, such as a deleted TUN interface."""
