"""The common part of all front ends of the checker: negotiation, reactions by name, and requests in the report."""

from __future__ import annotations

import os
import struct

import pytest

from drivers.transports.vhost_user.constants import FrontendRequest, ProtocolFeature
from support.rigs.vhost_front import FrontEnds, send_replies
from vnet.check.front import EVENT_IDX, Reaction
from vnet.check.split import Buffer
from vnet.check.verdicts import Broken, Skipped
from vnet.check.wire import HungUp

R = FrontendRequest


async def test_a_feature_that_is_not_offered_skips_the_case(front_ends: FrontEnds) -> None:
    front, theirs = front_ends
    send_replies(theirs, (R.GET_FEATURES, struct.pack("<Q", 1 << 32)), (R.GET_FEATURES, struct.pack("<Q", 1 << 32)))
    with pytest.raises(Skipped, match="EVENT_IDX is not offered"):
        await front.negotiate([EVENT_IDX])
    with pytest.raises(Skipped, match="feature bit 50 is not offered"):
        await front.negotiate([50])


async def test_reactions_have_names(front_ends: FrontEnds) -> None:
    front, theirs = front_ends
    vring = front.rings[0]
    assert await front.reaction(vring) is Reaction.SILENT
    os.eventfd_write(vring.err_fd, 1)
    assert await front.reaction(vring) is Reaction.ERROR
    assert vring.errors() == 0
    front.protocol = 1 << ProtocolFeature.STATUS
    send_replies(theirs, (R.GET_STATUS, struct.pack("<Q", 15)), (R.GET_STATUS, struct.pack("<Q", 15 | 64)))
    assert await front.reaction(vring) is Reaction.SILENT
    assert await front.reaction(vring) is Reaction.ERROR
    theirs.close()
    assert await front.reaction(vring) is Reaction.CLOSED
    vring.split.used_idx = 1
    assert await front.reaction(vring) is Reaction.ANSWERED


async def test_answers_are_counted(front_ends: FrontEnds) -> None:
    front, theirs = front_ends
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


def test_a_request_is_written_into_the_report(front_ends: FrontEnds) -> None:
    front, _ = front_ends
    read = front.arena.put(b"abc")
    front.submit(front.rings[0], [Buffer(read, 3), Buffer(1 << 40, 9), Buffer(read, 2, True)])
    assert front.journal.sent == [f"ring 0: request {read:#x}+3r 0x10000000000+9r {read:#x}+2w; readable bytes 616263"]
