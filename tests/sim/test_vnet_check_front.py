"""The checker's front end: what it negotiates, and how it names the reactions of a device."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator

import pytest

from drivers.transports.vhost_user.constants import FrontendRequest, ProtocolFeature
from vnet.check.front import EVENT_IDX, Reaction
from vnet.check.split import Buffer
from vnet.check.verdicts import Broken, Skipped
from vnet.check.vhost_user import VhostUserFront, pair
from vnet.check.wire import BadReply, HungUp, Journal, emit

R = FrontendRequest
Ends = tuple[VhostUserFront, socket.socket]


@pytest.fixture
def ends() -> Iterator[Ends]:
    """A front end with a ring of 4 descriptors, and the other end of its socket."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    front = VhostUserFront(ours, Journal(), 2.0)
    front.new_ring(0, 4)
    yield front, theirs
    front.close()
    theirs.close()


def _replies(theirs: socket.socket, *replies: tuple[FrontendRequest, bytes]) -> None:
    theirs.send(b"".join(emit(request, body, 5) for request, body in replies))


async def test_a_feature_that_is_not_offered_skips_the_case(ends: Ends) -> None:
    front, theirs = ends
    _replies(theirs, (R.GET_FEATURES, struct.pack("<Q", 1 << 32)), (R.GET_FEATURES, struct.pack("<Q", 1 << 32)))
    with pytest.raises(Skipped, match="EVENT_IDX is not offered"):
        await front.negotiate([EVENT_IDX])
    with pytest.raises(Skipped, match="feature bit 50 is not offered"):
        await front.negotiate([50])


async def test_only_protocol_features_that_the_checker_knows_are_accepted(ends: Ends) -> None:
    front, theirs = ends
    offered = struct.pack("<Q", 1 << 63 | 1 << ProtocolFeature.REPLY_ACK | 1 << ProtocolFeature.CONFIG)
    _replies(
        theirs,
        (R.GET_FEATURES, struct.pack("<Q", 1 << 32 | 1 << 30)),
        (R.GET_PROTOCOL_FEATURES, offered),
        (R.SET_OWNER, bytes(8)),
    )
    await front.negotiate()
    assert front.features == 1 << 32 | 1 << 30
    assert front.protocol == 1 << ProtocolFeature.REPLY_ACK | 1 << ProtocolFeature.CONFIG
    assert front.acks
    with pytest.raises(Skipped, match="the protocol feature STATUS is not offered"):
        front.need(ProtocolFeature.CONFIG, ProtocolFeature.STATUS)
    assert await front.status() is None


async def test_a_reply_with_another_size_is_no_configuration(ends: Ends) -> None:
    front, theirs = ends
    with pytest.raises(Skipped, match="CONFIG is not offered"):
        await front.config(0, 4)
    front.protocol = 1 << ProtocolFeature.CONFIG
    _replies(theirs, (R.GET_CONFIG, bytes(12) + b"abcdef"), (R.GET_CONFIG, bytes(12)))
    assert await front.config(2, 4) == b"cdef"
    with pytest.raises(BadReply, match="GET_CONFIG of 6 bytes at 0 with 000000"):
        await front.config(2, 4)


async def test_reactions_have_names(ends: Ends) -> None:
    front, theirs = ends
    vring = front.rings[0]
    assert await front.reaction(vring) is Reaction.SILENT
    os.eventfd_write(vring.err_fd, 1)
    assert await front.reaction(vring) is Reaction.ERROR
    assert vring.errors() == 0
    front.protocol = 1 << ProtocolFeature.STATUS
    _replies(theirs, (R.GET_STATUS, struct.pack("<Q", 15)), (R.GET_STATUS, struct.pack("<Q", 15 | 64)))
    assert await front.reaction(vring) is Reaction.SILENT
    assert await front.reaction(vring) is Reaction.ERROR
    theirs.close()
    assert await front.reaction(vring) is Reaction.CLOSED
    vring.split.used_idx = 1
    assert await front.reaction(vring) is Reaction.ANSWERED


async def test_answers_are_counted(ends: Ends) -> None:
    front, theirs = ends
    vring = front.rings[0]
    vring.split.used_idx = 1
    with pytest.raises(Broken, match="answered 1 of 2 requests"):
        await front.answers(vring, 2)
    vring.split.used_idx = 3
    with pytest.raises(Broken, match="used 2 buffers for one request"):
        await front.answer(vring)
    theirs.close()
    with pytest.raises(HungUp, match="instead of an answer"):
        await front.answer(vring)


def test_addresses_of_a_ring_are_those_of_the_front_end(ends: Ends) -> None:
    front, _ = ends
    ring, offset = front.rings[0].ring, front.arena.user - front.arena.base
    areas = (ring.desc + offset, ring.device + offset, ring.driver + offset)
    assert front.addrs(front.rings[0], 1, 7) == struct.pack("<IIQQQQ", 0, 1, *areas, 7)
    assert pair(-1, 1 << 32) == b"\xff" * 4 + bytes(4)


def test_a_request_is_written_into_the_report(ends: Ends) -> None:
    front, _ = ends
    read = front.arena.put(b"abc")
    front.submit(front.rings[0], [Buffer(read, 3), Buffer(1 << 40, 9), Buffer(read, 2, True)])
    assert front.journal.sent == [f"ring 0: request {read:#x}+3r 0x10000000000+9r {read:#x}+2w; readable bytes 616263"]
