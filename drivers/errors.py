"""What can go wrong between a driver, its bus and its transport."""

from __future__ import annotations

__all__ = [
    "CommandRefused",
    "DriverError",
    "FeatureMismatch",
    "MessageTooLong",
    "NeedsReset",
    "NoBuffer",
    "NotBound",
    "NothingOffered",
    "PortGone",
    "ProbeDeferred",
    "ProbeError",
    "RpmsgError",
    "SendTimeout",
    "TransportLost",
]


class DriverError(Exception):
    """The root of what drivers raise; each has one sentence that says what was wrong."""


class ProbeError(DriverError):
    """The driver can't run this device; the device stays unbound, with FAILED set where it has a status."""


class ProbeDeferred(DriverError):
    """Something this driver needs is not there yet; the bus tries again when it changes."""


class NothingOffered(ProbeDeferred):
    """The device is there, and has no driver at its own end that would make something of it."""


class FeatureMismatch(ProbeError):
    """The two sides have no workable set of features in common."""


class NeedsReset(DriverError):
    """The device set DEVICE_NEEDS_RESET, or broke a ring; only a reset helps."""


class TransportLost(DriverError):
    """The device can't be reached any more: link down, removed, or it never answers."""


class CommandRefused(DriverError):
    """A device, or its driver, can't be made to do what was asked of it; it goes on as before."""


class PortGone(DriverError):
    """What a device was plugged into was taken away while it ran, such as a deleted TUN interface."""


class RpmsgError(DriverError):
    """The root of what an rpmsg endpoint raises: a name or an address that can't be, too many endpoints."""


class MessageTooLong(RpmsgError):
    """A message that no buffer of this device holds."""


class NoBuffer(RpmsgError):
    """Every buffer is under way to the other side; `send` would have waited."""


class SendTimeout(RpmsgError):
    """The other side gave no buffer back, or showed no endpoint to send to, in all the time there was."""


class NotBound(RpmsgError):
    """The endpoint knows of none at the other side, and no address was given; `send` would have waited."""
