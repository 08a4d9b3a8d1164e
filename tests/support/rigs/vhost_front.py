"""The checker's vhost-user front end, with the other end of its socket in the hands of a test."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from drivers.transports.vhost_user.constants import FrontendRequest
from vnet.check.vhost_user import VhostUserFront
from vnet.check.wire import Journal, emit

__all__ = ["FrontEnds", "front_ends", "send_replies"]

FrontEnds = tuple[VhostUserFront, socket.socket]


@pytest.fixture
def front_ends() -> Iterator[FrontEnds]:
    """Yield a front end with a ring of 4 descriptors, and the other end of its socket."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    front = VhostUserFront(ours, Journal(), 2.0)
    front.new_ring(0, 4)
    yield front, theirs
    front.close()
    theirs.close()


def send_replies(theirs: socket.socket, *replies: tuple[FrontendRequest, bytes]) -> None:
    """Send replies, of which the front end takes each after its request."""
    theirs.send(b"".join(emit(request, body, 5) for request, body in replies))
