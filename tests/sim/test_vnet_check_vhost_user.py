"""The checker's vhost-user front end: protocol features, the messages that start a ring, replies that can't be."""

from __future__ import annotations

import struct

import pytest

from drivers.transports.vhost_user.constants import FrontendRequest, ProtocolFeature
from support.rigs.vhost_front import FrontEnds, send_replies
from vnet.check.verdicts import Skipped
from vnet.check.vhost_user import pair
from vnet.check.wire import BadReply

R = FrontendRequest


async def test_only_protocol_features_that_the_checker_knows_are_accepted(front_ends: FrontEnds) -> None:
    front, theirs = front_ends
    offered = struct.pack("<Q", 1 << 63 | 1 << ProtocolFeature.REPLY_ACK | 1 << ProtocolFeature.CONFIG)
    send_replies(
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


async def test_a_reply_with_another_size_is_no_configuration(front_ends: FrontEnds) -> None:
    front, theirs = front_ends
    with pytest.raises(Skipped, match="CONFIG is not offered"):
        await front.config(0, 4)
    front.protocol = 1 << ProtocolFeature.CONFIG
    send_replies(theirs, (R.GET_CONFIG, bytes(12) + b"abcdef"), (R.GET_CONFIG, bytes(12)))
    assert await front.config(2, 4) == b"cdef"
    with pytest.raises(BadReply, match="GET_CONFIG of 6 bytes at 0 with 000000"):
        await front.config(2, 4)


def test_addresses_of_a_ring_are_those_of_the_front_end(front_ends: FrontEnds) -> None:
    front, _ = front_ends
    ring, offset = front.rings[0].ring, front.arena.user - front.arena.base
    areas = (ring.desc + offset, ring.device + offset, ring.driver + offset)
    assert front.addrs(front.rings[0], 1, 7) == struct.pack("<IIQQQQ", 0, 1, *areas, 7)
    assert pair(-1, 1 << 32) == b"\xff" * 4 + bytes(4)


def test_memory_regions_adjoin_and_make_up_the_arena(front_ends: FrontEnds) -> None:
    front, _ = front_ends
    arena, half = front.arena, front.arena.size // 2
    assert front.table(2) == struct.pack(
        "<II8Q", 2, 0,
        arena.base, half, arena.user, arena.offset,
        arena.base + half, half, arena.user + half, arena.offset + half,
    )  # fmt: skip


async def test_an_inflight_area_without_a_file_descriptor_is_no_reply(front_ends: FrontEnds) -> None:
    front, theirs = front_ends
    with pytest.raises(Skipped, match="INFLIGHT_SHMFD is not offered"):
        await front.make_inflight(1, 4)
    front.protocol = 1 << ProtocolFeature.INFLIGHT_SHMFD
    send_replies(theirs, (R.GET_INFLIGHT_FD, bytes(24)))
    with pytest.raises(BadReply, match="GET_INFLIGHT_FD with 0 file descriptors"):
        await front.make_inflight(1, 4)
