"""Errors of drivers, buses and transports."""

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
    """Root of all errors that drivers raise; its message is one sentence with the cause."""


class ProbeError(DriverError):
    """The driver can't run this device; the device stays unbound, with FAILED set if it has a status."""


class ProbeDeferred(DriverError):
    """A resource that the driver needs is missing; the bus probes again when resources change."""


class NothingOffered(ProbeDeferred):
    """The device exists, but no driver at its own end offers features."""


class FeatureMismatch(ProbeError):
    """The two sides have no workable set of features in common."""


class NeedsReset(DriverError):
    """The device set DEVICE_NEEDS_RESET or broke a ring, and needs a reset."""


class TransportLost(DriverError):
    """The device is unreachable: its link is down, it was removed, or it does not answer."""


class CommandRefused(DriverError):
    """The device or its driver rejected a command and continues as before."""


class PortGone(DriverError):
    """The port of a running device was removed, such as a deleted TUN interface."""


class RpmsgError(DriverError):
    """Root of all errors of rpmsg endpoints: an invalid name or address, or too many endpoints."""


class MessageTooLong(RpmsgError):
    """The message is larger than the device's buffers."""


class NoBuffer(RpmsgError):
    """All buffers are in flight; `send` would have waited."""


class SendTimeout(RpmsgError):
    """The other side returned no buffer, or announced no endpoint, before the timeout."""


class NotBound(RpmsgError):
    """The endpoint is not bound, and the caller gave no address; `send` would have waited."""
