"""Which message is legal when: the same tables for both halves, one refuses by them what the other must not send.

A session belongs to one connection. The protocol prescribes hardly any order, and front ends differ: QEMU sets up
eventfds and enables rings before features and memory; DPDK's virtio-user disables and stops rings first, when it comes
back. Only what can't be carried out is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from drivers.transports.vhost_user.constants import FrontendRequest
from drivers.transports.vhost_user.messages import FRONTEND_MESSAGES

__all__ = ["LEGAL", "RING_LEGAL", "RingState", "SessionState"]

R = FrontendRequest


class SessionState(Enum):
    """How far a front end has come."""

    NEW = "without features"
    """Connected; the driver's features are not known."""
    FEATURES = "stopped"
    """SET_FEATURES came; no ring is started."""
    RUNNING = "running"
    """At least one ring is started."""


class RingState(Enum):
    """Of one ring; whether it is enabled is another matter, and remembered in both."""

    STOPPED = "stopped"
    STARTED = "started"


_EVERY = frozenset(R(request) for request in FRONTEND_MESSAGES)
LEGAL: Mapping[SessionState, frozenset[FrontendRequest]] = {
    SessionState.NEW: _EVERY - {R.SET_VRING_KICK, R.VRING_KICK},
    SessionState.FEATURES: _EVERY,
    # Protocol features and features may be said again, as they are.
    SessionState.RUNNING: _EVERY - {R.SET_INFLIGHT_FD, R.SET_VRING_ENDIAN},
}
RING_LEGAL: Mapping[RingState, frozenset[FrontendRequest]] = {
    RingState.STOPPED: _EVERY - {R.VRING_KICK},
    # A started ring's addresses may be said again, as they are but for the log: that is how logging is switched.
    RingState.STARTED: _EVERY - {R.SET_VRING_NUM, R.SET_VRING_BASE, R.SET_VRING_ENDIAN},
}
