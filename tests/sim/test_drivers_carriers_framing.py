"""Messages received from a unix socket: in pieces, at once, with descriptors, with an early end, or too late."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Never

import attrs
import pytest
import trio
import trio.testing

from drivers.carriers.framing import ProtocolError, receive_message, within
from drivers.contracts.ipc import FdSocket, Handle, Unusable
from drivers.errors import TransportLost
from support.rigs.framing import HEADER_SIZE, SIZE_MAX, Letter, LetterAssembler, emit
from vnet.linux.ipc import FileHandle, UnixSocket, socket_pair
from vnet.testing import fds

DEADLINE = 5.0


@attrs.frozen
class Receiver:
    """The receiving end, and the socket of its peer."""

    socket: FdSocket
    peer: UnixSocket
    assembler: LetterAssembler = attrs.field(factory=LetterAssembler)

    async def next(self, *, first: bool = False) -> Letter | None:
        return await receive_message(self.socket, self.assembler, DEADLINE, "peer", first=first)

    async def refuses(self, match: str, *, first: bool = False) -> None:
        with pytest.raises(ProtocolError, match=match):
            await self.next(first=first)


@asynccontextmanager
async def open_receiver() -> AsyncIterator[Receiver]:
    """No descriptor is left afterwards."""
    before = fds()
    ours, theirs = socket_pair()
    receiver = Receiver(ours, theirs)
    try:
        yield receiver
    finally:
        receiver.assembler.close()
        ours.close()
        theirs.close()
    assert fds() <= before


def take_inodes(handles: Sequence[Handle]) -> list[int]:
    """Return the inode of each file, and close the handles."""
    inodes = []
    for handle in handles:
        assert isinstance(handle, FileHandle)
        inodes.append(os.fstat(handle.fileno()).st_ino)
        handle.close()
    return inodes


async def test_a_message_in_several_reads() -> None:
    async with open_receiver() as receiver, trio.open_nursery() as nursery:

        async def send() -> None:
            for byte in emit(b"piece by piece"):
                await receiver.peer.send(bytes((byte,)))
                await trio.testing.wait_all_tasks_blocked()

        nursery.start_soon(send)
        got = await receiver.next(first=True)
        assert got is not None
        assert got.text == b"piece by piece"


async def test_several_messages_sent_at_once_are_received_one_by_one() -> None:
    async with open_receiver() as receiver:
        texts = [b"one", b"", b"two", bytes(SIZE_MAX)]
        await receiver.peer.send(b"".join(emit(text) for text in texts))
        for text in texts:
            got = await receiver.next()
            assert got is not None
            assert got.text == text
        assert not receiver.assembler.partial


async def test_descriptors_belong_to_the_message_that_they_came_with() -> None:
    files = [FileHandle(os.memfd_create(f"file {i}")) for i in range(3)]
    inodes = [os.fstat(file.fileno()).st_ino for file in files]
    async with open_receiver() as receiver:
        for text, given in ((b"a", files[:1]), (b"b", []), (b"c", files[1:])):
            await receiver.peer.send(emit(text, len(given)), given)
        for text, expected in ((b"a", inodes[:1]), (b"b", []), (b"c", inodes[1:])):
            got = await receiver.next()
            assert got is not None
            assert (got.text, take_inodes(got.handles)) == (text, expected)
    for file in files:
        file.close()


async def test_a_message_that_is_too_long_is_refused() -> None:
    file = FileHandle(os.memfd_create("file"))
    async with open_receiver() as receiver:
        await receiver.peer.send(bytes((SIZE_MAX + 1, 1)), [file])
        await receiver.refuses(f"a letter of {SIZE_MAX + 1} bytes")
    file.close()


async def test_a_stream_that_ends_between_messages_gives_none() -> None:
    async with open_receiver() as receiver:
        await receiver.peer.send(emit(b"last"))
        receiver.peer.close()
        assert await receiver.next(first=True) is not None
        assert await receiver.next() is None
        assert await receiver.next() is None


@pytest.mark.parametrize("part", [1, HEADER_SIZE, HEADER_SIZE + 1])
async def test_a_stream_that_ends_within_a_message_is_an_error(part: int) -> None:
    file = FileHandle(os.memfd_create("file"))
    async with open_receiver() as receiver:
        await receiver.peer.send(emit(b"end", 1)[:part], [file])
        receiver.peer.close()
        await receiver.refuses("the connection ended in the middle of a message")
        assert receiver.assembler.partial
    file.close()


async def test_the_first_message_has_a_deadline(autojump_clock: trio.testing.MockClock) -> None:
    async with open_receiver() as receiver:
        start = trio.current_time()
        with trio.fail_after(3 * DEADLINE):
            await receiver.refuses("the peer made no progress for 5 s", first=True)
        assert trio.current_time() - start == pytest.approx(DEADLINE)


@pytest.mark.parametrize("part", [1, HEADER_SIZE, HEADER_SIZE + 1])
async def test_a_message_that_began_has_a_deadline(part: int, autojump_clock: trio.testing.MockClock) -> None:
    async with open_receiver() as receiver:
        await receiver.peer.send(emit(b"late")[:part])
        start = trio.current_time()
        with trio.fail_after(3 * DEADLINE):
            await receiver.refuses("the peer made no progress for 5 s")
        assert trio.current_time() - start == pytest.approx(DEADLINE)


@pytest.mark.hostile("V15", "W13")
@pytest.mark.parametrize("first", [True, False])
async def test_a_peer_that_sends_a_byte_at_a_time_has_no_more_time(
    first: bool, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_receiver() as receiver, trio.open_nursery() as nursery:

        async def send() -> None:
            for byte in emit(bytes(SIZE_MAX)):
                await receiver.peer.send(bytes((byte,)))
                await trio.sleep(0.5 * DEADLINE)

        nursery.start_soon(send)
        start = trio.current_time()
        with trio.fail_after(3 * DEADLINE):
            await receiver.refuses("the peer made no progress for 5 s", first=first)
        assert trio.current_time() - start == pytest.approx(DEADLINE)
        nursery.cancel_scope.cancel()


async def test_later_messages_may_take_any_time_to_begin(autojump_clock: trio.testing.MockClock) -> None:
    async with open_receiver() as receiver, trio.open_nursery() as nursery:

        async def send() -> None:
            await trio.sleep(1000 * DEADLINE)
            await receiver.peer.send(emit(b"at last"))

        nursery.start_soon(send)
        got = await receiver.next()
        assert got is not None
        assert got.text == b"at last"


@attrs.frozen
class FailingSocket:
    """A socket whose every use raises an error."""

    error: Exception

    async def receive(self, limit: int) -> tuple[bytes, list[Handle]]:
        await trio.lowlevel.checkpoint()
        raise self.error

    async def send(self, data: bytes, handles: Sequence[Handle] = ()) -> Never:
        await trio.lowlevel.checkpoint()
        raise self.error

    def hung_up(self) -> bool:
        return False

    def close(self) -> None:
        pass


async def test_lost_descriptors_are_an_error_of_the_protocol_and_a_broken_connection_is_none() -> None:
    async def receive(error: Exception) -> None:
        await receive_message(FailingSocket(error), LetterAssembler(), DEADLINE, "peer", first=False)

    with pytest.raises(ProtocolError, match="descriptors were lost"):
        await receive(Unusable("descriptors were lost"))
    with pytest.raises(TransportLost, match="reset by peer"):
        await receive(TransportLost("reset by peer"))


async def test_within_returns_what_the_call_returns_or_names_the_slow_peer(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def answer(after: float) -> str:
        await trio.sleep(after)
        return "done"

    assert await within(2, "peer", lambda: answer(1.9)) == "done"
    with pytest.raises(ProtocolError, match=r"the device made no progress for 0\.5 s"):
        await within(0.5, "device", lambda: answer(0.6))
