"""Which message is legal when: the same tables for both halves, one refuses by them what the other must not send.

A session belongs to one connection. The tables say what real front ends do (QEMU sets up eventfds and enables rings
before features and memory, and asks for protocol features before it owns anything), and no more.
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

    NEW = "new"
    """Connected, and nobody owns the device."""
    OWNED = "owned"
    """SET_OWNER came; no ring is started."""
    FEATURES = "features"
    """SET_FEATURES came as well."""
    RUNNING = "running"
    """At least one ring is started."""


class RingState(Enum):
    """Of one ring; whether it is enabled is another matter, and remembered in both."""

    STOPPED = "stopped"
    STARTED = "started"


_ASKED_BEFORE_OWNED = frozenset(
    (
        R.GET_FEATURES,
        R.GET_PROTOCOL_FEATURES,
        R.SET_PROTOCOL_FEATURES,
        R.GET_QUEUE_NUM,
        R.GET_MAX_MEM_SLOTS,
        R.SET_BACKEND_REQ_FD,
        R.SET_OWNER,
        R.GET_CONFIG,
        R.GET_STATUS,
    )
)
_EVERY = frozenset(R(request) for request in FRONTEND_MESSAGES)
_OWNED = _EVERY - {R.SET_OWNER}
LEGAL: Mapping[SessionState, frozenset[FrontendRequest]] = {
    SessionState.NEW: _ASKED_BEFORE_OWNED,
    SessionState.OWNED: _OWNED - {R.SET_VRING_KICK, R.VRING_KICK},
    SessionState.FEATURES: _OWNED,
    SessionState.RUNNING: _OWNED - {R.SET_PROTOCOL_FEATURES, R.SET_INFLIGHT_FD, R.SET_VRING_ENDIAN},
}
RING_LEGAL: Mapping[RingState, frozenset[FrontendRequest]] = {
    RingState.STOPPED: _EVERY - {R.VRING_KICK},
    # A started ring's addresses may be said again, as they are but for the log: that is how logging is switched.
    RingState.STARTED: _EVERY - {R.SET_VRING_NUM, R.SET_VRING_BASE, R.SET_VRING_ENDIAN},
}
