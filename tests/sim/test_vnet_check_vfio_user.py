"""The checker's vfio-user connection: replies that can't be, refusals, and the server's accesses to memory."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator

import pytest

from vnet.check.memory import Arena
from vnet.check.vfio_user import HEADER, FunctionWire, Refusal
from vnet.check.wire import BadReply, HungUp, Journal, Silence
from vnet.vfio_user.constants import Command, HeaderFlag

C = Command
REPLY, ERROR = HeaderFlag.REPLY, HeaderFlag.REPLY | HeaderFlag.ERROR
Ends = tuple[FunctionWire, socket.socket]


@pytest.fixture
def ends(arena: Arena) -> Iterator[Ends]:
    """Yield a connection whose first command has the number 1, and the server's end of it."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.settimeout(5)
    wire = FunctionWire(ours, Journal(), 0.2, arena)
    yield wire, theirs
    wire.close()
    theirs.close()


def message(number: int, command: int, body: bytes = b"", flags: int = REPLY, error: int = 0) -> bytes:
    return HEADER.pack(number, command, HEADER.size + len(body), flags, error) + body


async def test_a_read_is_one_message_and_takes_the_reply_of_its_number(ends: Ends) -> None:
    wire, theirs = ends
    fields = struct.pack("<QII", 0x14, 7, 2)
    theirs.send(message(9, C.REGION_READ, b"of another") + message(1, C.REGION_READ, fields + b"ab"))
    assert await wire.read(7, 0x14, 2) == b"ab"
    assert theirs.recv(100) == message(1, C.REGION_READ, fields, 0)
    assert wire.journal.sent == [f"read region 7+0x14: {fields.hex()}"]


@pytest.mark.parametrize(
    ("reply", "kind", "words"),
    [
        (message(1, C.REGION_READ, b"", ERROR, errno.EINVAL), Refusal, "refuses REGION_READ: Invalid argument"),
        (message(1, C.REGION_WRITE), BadReply, "replied to REGION_READ with command 10"),
        (message(1, C.REGION_READ, bytes(17)), BadReply, "replied to a read of 2 bytes of region 7"),
        (HEADER.pack(1, C.REGION_READ, 3, REPLY, 0), BadReply, "sent a message of 3 bytes"),
        (b"", Silence, "did not answer REGION_READ within 0.2 s"),
    ],
)
async def test_a_reply_that_is_none_is_named(ends: Ends, reply: bytes, kind: type[Exception], words: str) -> None:
    wire, theirs = ends
    theirs.send(reply)
    with pytest.raises(kind, match=words):
        await wire.read(7, 0, 2)


async def test_the_server_reaches_the_memory_and_nothing_else(ends: Ends, arena: Arena) -> None:
    wire, theirs = ends
    inside, outside = struct.pack("<QQ", arena.base, 3), struct.pack("<QQ", arena.end - 2, 3)
    theirs.send(message(1, C.DMA_WRITE, inside + b"abc", 0) + message(2, C.DMA_READ, inside, 0))
    theirs.send(message(3, C.DMA_READ, outside, 0) + message(4, C.DEVICE_RESET, b"", 0))
    assert not wire.hung_up()
    assert arena.read(arena.base, 3) == b"abc"
    assert theirs.recv(1000) == (
        message(1, C.DMA_WRITE, inside)
        + message(2, C.DMA_READ, inside + b"abc")
        + message(3, C.DMA_READ, b"", ERROR, errno.EINVAL)
        + message(4, C.DEVICE_RESET, b"", ERROR, errno.EINVAL)
    )


async def test_a_posted_write_asks_for_no_reply(ends: Ends) -> None:
    wire, theirs = ends
    wire.post(0, 4, b"ab")
    assert theirs.recv(100) == message(1, C.REGION_WRITE, struct.pack("<QII", 4, 0, 2) + b"ab", HeaderFlag.NO_REPLY)
    theirs.close()
    assert wire.hung_up()
    wire.post(0, 4, b"ab")  # the next wait finds that the server is gone
    with pytest.raises(HungUp, match="closed the connection"):
        await wire.read(7, 0, 2)
