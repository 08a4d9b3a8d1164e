"""The checker's connection: it sends any bytes, writes them down, and validates every reply."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator

import pytest

from drivers.transports.vhost_user.constants import FrontendRequest
from support.rigs.toy_back import check_verdict
from vnet.check.verdicts import Verdict
from vnet.check.wire import SHOWN, Answer, BadReply, HungUp, Journal, Silence, Wire, emit, name_of

R = FrontendRequest
REPLY = 5
"""Flags of a reply: version 1, and bit 2."""


@pytest.fixture
def ends() -> Iterator[tuple[Wire, socket.socket]]:
    """A connection, and the other end of its socket."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    wire = Wire(ours, Journal(), 2.0)
    yield wire, theirs
    wire.close()
    theirs.close()


Ends = tuple[Wire, socket.socket]


def test_messages_have_names_and_any_size() -> None:
    assert (name_of(R.SET_OWNER), name_of(999)) == ("SET_OWNER", "request 999")
    assert emit(R.SET_OWNER, b"ab") == struct.pack("<III", 3, 1, 2) + b"ab"
    assert emit(R.SET_OWNER, b"ab", flags=9, size=7) == struct.pack("<III", 3, 9, 7) + b"ab"


async def test_messages_are_written_down_with_their_bytes(ends: Ends) -> None:
    wire, theirs = ends
    await wire.send(emit(R.SET_OWNER))
    wire.journal.in_setup = True
    await wire.send(b"\1", note="one byte")
    await wire.send(emit(999, bytes(SHOWN)), [theirs.fileno()] * 2)
    assert wire.journal.sent == ["SET_OWNER: 030000000100000000000000"]
    assert wire.journal.setup == [
        "one byte: 01",
        f"request 999 with 2 file descriptors: {emit(999, bytes(SHOWN))[:SHOWN].hex()}…",
    ]


@pytest.mark.parametrize(("ack", "answer"), [(0, Answer.DONE), (1, Answer.REFUSED)])
async def test_with_acknowledgements_the_back_end_says_whether_it_accepts(ends: Ends, ack: int, answer: Answer) -> None:
    wire, theirs = ends
    wire.acks = True
    theirs.send(emit(R.SET_OWNER, struct.pack("<Q", ack), REPLY))
    assert await wire.tell(R.SET_OWNER) is answer
    assert theirs.recv(100) == emit(R.SET_OWNER, flags=9)


async def test_without_acknowledgements_a_back_end_that_goes_on_accepts(ends: Ends) -> None:
    wire, theirs = ends
    theirs.send(emit(R.GET_FEATURES, bytes(8), REPLY))
    assert await wire.tell(R.SET_OWNER) is Answer.DONE
    assert theirs.recv(100) == emit(R.SET_OWNER) + emit(R.GET_FEATURES)
    theirs.close()
    assert wire.hung_up()
    assert await wire.tell(R.SET_OWNER) is Answer.CLOSED
    with pytest.raises(HungUp, match="closed the connection after SET_OWNER"):
        await wire.must(R.SET_OWNER)


async def test_a_number_has_eight_bytes(ends: Ends) -> None:
    wire, theirs = ends
    theirs.send(emit(R.GET_QUEUE_NUM, struct.pack("<Q", 7), REPLY) + emit(R.GET_QUEUE_NUM, bytes(4), REPLY))
    assert await wire.ask_number(R.GET_QUEUE_NUM) == 7
    with pytest.raises(BadReply, match="replied to GET_QUEUE_NUM with 4 bytes instead of 8: 00000000"):
        await wire.ask_number(R.GET_QUEUE_NUM)


async def test_descriptors_of_a_reply_are_handed_on_or_closed(ends: Ends) -> None:
    wire, theirs = ends
    message = emit(R.GET_INFLIGHT_FD, bytes(24), REPLY)
    reading, writing = os.pipe()
    for _ in range(2):
        socket.send_fds(theirs, [message], [writing])
    os.close(writing)
    fds: list[int] = []
    await wire.reply(R.GET_INFLIGHT_FD, fds)
    await wire.reply(R.GET_INFLIGHT_FD)
    [fd] = fds
    os.close(fd)
    assert os.read(reading, 1) == b""  # no writer is left
    os.close(reading)


async def test_a_peer_that_reads_nothing_is_silent(ends: Ends) -> None:
    wire, _ = ends
    with pytest.raises(Silence, match="took no more bytes for 2 s"):
        await wire.send(bytes(1 << 24))


@pytest.mark.parametrize(
    ("fault", "case", "verdict", "words"),
    [
        ("flood", "SPLIT-DEV-9", Verdict.FAIL, "with a body of 1073741824 bytes"),
        ("flags", "SPLIT-DEV-9", Verdict.FAIL, "replied to GET_FEATURES with"),
        ("silent", "SPLIT-DEV-9", Verdict.FAIL, "did not answer within 2 s"),
    ],
)
async def test_a_peer_that_is_no_back_end_gets_its_verdict(fault: str, case: str, verdict: Verdict, words: str) -> None:
    await check_verdict(fault, case, verdict, words)
