"""Tables of the messages allowed in each state of a session and of a ring.

A session belongs to one connection. The protocol prescribes hardly any order, and front ends differ: QEMU sets up
eventfds and enables rings before features and memory; DPDK's virtio-user disables and stops rings first when it
reconnects. Only impossible requests are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from drivers.transports.vhost_user.constants import FrontendRequest
from drivers.transports.vhost_user.messages import FRONTEND_MESSAGES

__all__ = ["LEGAL", "RING_LEGAL", "RingState", "SessionState"]

R = FrontendRequest


class SessionState(Enum):
    """States of a session."""

    NEW = "without features"
    """Connected; the driver's features are unknown."""
    FEATURES = "stopped"
    """Features are set; no ring is started."""
    RUNNING = "running"
    """At least one ring is started."""


class RingState(Enum):
    """States of a ring. The enable flag is independent of them."""

    STOPPED = "stopped"
    STARTED = "started"


_EVERY = frozenset(R(request) for request in FRONTEND_MESSAGES)
LEGAL: Mapping[SessionState, frozenset[FrontendRequest]] = {
    SessionState.NEW: _EVERY - {R.SET_VRING_KICK, R.VRING_KICK},
    SessionState.FEATURES: _EVERY,
    # Features and protocol features may be repeated unchanged.
    SessionState.RUNNING: _EVERY - {R.SET_INFLIGHT_FD, R.SET_VRING_ENDIAN},
}
RING_LEGAL: Mapping[RingState, frozenset[FrontendRequest]] = {
    RingState.STOPPED: _EVERY - {R.VRING_KICK},
    # The addresses of a started ring may be repeated with another log flag, which switches logging.
    RingState.STARTED: _EVERY - {R.SET_VRING_NUM, R.SET_VRING_BASE, R.SET_VRING_ENDIAN},
}
