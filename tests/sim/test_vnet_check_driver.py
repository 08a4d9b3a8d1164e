"""The watching back end: a driver by hand keeps each clause, then breaks it."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest
import trio

from drivers.transports.vhost_user.constants import FrontendRequest
from vnet.check.driver.back import WatchingBack
from vnet.check.driver.clauses import Observations
from vnet.check.driver.devices import DEVICES
from vnet.check.front import EVENT_IDX, INDIRECT_DESC, FrontEnd, Vring
from vnet.check.kinds import KINDS, Request
from vnet.check.kinds.blk import DISCARD, FLUSH, GET_ID, IN, OUT, SECTOR, make
from vnet.check.kinds.net import RECEIVE, frame, transmit
from vnet.check.memory import Arena
from vnet.check.split import INDIRECT, NEXT, Buffer, Desc
from vnet.check.verdicts import Result, Verdict, exit_status
from vnet.check.wire import HungUp, Journal
from vnet.linux.ipc import UnixSocket


class Watch:
    """A driver by hand, and the back end that watches it."""

    def __init__(self, kind: str, without: Sequence[int]) -> None:
        self.kind = KINDS[kind]
        self.seen = Observations(kind)
        self.back = WatchingBack(DEVICES[kind](self.seen), self.seen, without)
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        self.theirs = theirs
        self.front = FrontEnd(ours, Journal(), 5.0)

    @property
    def main(self) -> Vring:
        return self.front.rings[self.kind.main]

    async def up(self, features: Sequence[int], change: Callable[[FrontEnd], None] = lambda front: None) -> None:
        front = self.front
        await front.negotiate(features)
        change(front)
        await front.accept()
        for index in self.kind.rings:
            await front.start(front.new_ring(index, 16))
        self.kind.prepare(front)

    async def serve(self, request: Request) -> str:
        """Make a request; return what is wrong with its answer."""
        self.main.ring.submit(request.buffers)
        self.main.kick()
        _, used = await self.front.answer(self.main)
        return request.judge(used)

    def results(self) -> dict[str, Result]:
        return {result.id: result for result in self.seen.results(["vnet", "check", "driver"])}


@asynccontextmanager
async def watching(
    kind: str, *features: int, without: Sequence[int] = (), change: Callable[[FrontEnd], Any] = lambda front: None
) -> AsyncIterator[Watch]:
    watch = Watch(kind, without)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch.back.serve, UnixSocket(watch.theirs))
        await watch.up(features, change)
        yield watch
        await trio.sleep(1)
        watch.front.close()


@pytest.mark.parametrize("features", [(), (INDIRECT_DESC,), (EVENT_IDX,), (INDIRECT_DESC, EVENT_IDX)])
@pytest.mark.parametrize("kind", list(DEVICES))
async def test_an_honest_driver_breaks_nothing(kind: str, features: tuple[int, ...]) -> None:
    async with watching(kind, *features) as watch:
        for _ in range(40):
            assert await watch.serve(watch.kind.request(watch.front)) == ""
    results = watch.results()
    assert exit_status(results.values(), strict=True) == 0
    assert results["SPLIT-DRV-3"].seen == f"kept {watch.seen.requests} times"
    assert results["SPLIT-DRV-25" if EVENT_IDX in features else "SPLIT-DRV-23"].verdict is Verdict.PASS
    assert watch.back.ended == "the front end closed the connection"


async def test_a_disk_keeps_what_is_written_and_forgets_what_is_discarded() -> None:
    async with watching("blk") as watch:
        front = watch.front
        data = bytes(range(256)) * 8
        assert await watch.serve(make(front, OUT, 5, data)) == ""
        read = make(front, IN, 5, room=len(data))
        assert await watch.serve(read) == ""
        assert front.arena.read(read.buffers[1].addr, len(data)) == data
        assert await watch.serve(make(front, DISCARD, 0, struct.pack("<QII", 5, 4, 0))) == ""
        read = make(front, IN, 5, room=len(data))
        await watch.serve(read)
        assert not any(front.arena.read(read.buffers[1].addr, len(data)))
        config = await front.config(0, 60)
        assert struct.unpack_from("<QII", config) == (64 << 11, 0, 126)
        assert struct.unpack_from("<I", config, 20) == (SECTOR,)
        assert struct.unpack_from("<HIIIIIB", config, 34) == (1, 64 << 11, 1, 1, 64 << 11, 1, 1)


async def test_memory_that_is_shared_while_rings_run_is_reached() -> None:
    async with watching("blk") as watch:
        front = watch.front
        assert await watch.serve(watch.kind.request(front)) == ""
        first, front.arena = front.arena, Arena(base=0x8000_0000, user=0x7E00_0000_0000)
        regions = b"".join(
            struct.pack("<QQQQ", one.base, one.size, one.user, one.offset) for one in (first, front.arena)
        )
        await front.must(FrontendRequest.SET_MEM_TABLE, struct.pack("<II", 2, 0) + regions, [first.fd, front.arena.fd])
        assert await watch.serve(watch.kind.request(front)) == ""
        first.close()
    assert watch.back.ended == "the front end closed the connection"


def _broken(watch: Watch, ident: str, words: str, verdict: Verdict = Verdict.FAIL) -> None:
    result = watch.results()[ident]
    assert result.verdict is verdict
    assert any(words in text for text in result.sent), result.sent


@pytest.mark.parametrize(
    ("ident", "request_", "words"),
    [
        ("BLK-DRV-9", lambda front: make(front, IN, 64 << 11, room=SECTOR), "header 0000000000000000000002"),
        ("BLK-DRV-11", lambda front: make(front, FLUSH, 7), "header 0400000000000000070000"),
        ("BLK-DRV-13", lambda front: make(front, OUT, 0, bytes(100)), "100 bytes to the device"),
        ("BLK-DRV-14", lambda front: make(front, DISCARD, 0, bytes(15)), "15 bytes to the device"),
        ("BLK-DRV-15", lambda front: make(front, GET_ID, room=21), "21 from it"),
        ("BLK-DRV-16", lambda front: make(front, DISCARD, 0, bytes(32)), "32 bytes to the device"),
        ("BLK-DRV-20", lambda front: make(front, DISCARD, 0, struct.pack("<QII", 0, 1, 1)), "000100000001000000"),
    ],
)
async def test_a_bad_disk_request_is_a_finding(ident: str, request_: Callable[[FrontEnd], Request], words: str) -> None:
    async with watching("blk") as watch:
        await watch.serve(request_(watch.front))
        assert await watch.serve(watch.kind.request(watch.front)) == ""
    _broken(watch, ident, words)
    assert exit_status(watch.results().values()) == 1


async def test_a_flush_with_data_breaks_a_should() -> None:
    async with watching("blk") as watch:
        await watch.serve(make(watch.front, FLUSH, 0, bytes(SECTOR)))
    _broken(watch, "BLK-DRV-12", "512 bytes to the device", Verdict.WARN)


async def test_bad_frames_are_findings() -> None:
    async with watching("net") as watch:
        await watch.serve(transmit(watch.front, frame(), struct.pack("<BBHHHHH", 1, 1, 0, 0, 0, 0, 3)))
        watch.front.rings[RECEIVE].ring.submit([Buffer(watch.front.arena.alloc(100), 100, True)])
        watch.front.rings[RECEIVE].kick()
    for ident in ("NET-DRV-26", "NET-DRV-27", "NET-DRV-46"):
        _broken(watch, ident, "header 010100000000000000000300")
    _broken(watch, "NET-DRV-61", "a receive buffer of 100 bytes", Verdict.WARN)


def _two(first: int, second: int) -> Callable[[Watch], None]:
    def write(watch: Watch) -> None:
        ring, addr = watch.main.split, watch.front.arena.alloc(64)
        ring.write(0, Desc(addr, 16, first | NEXT, 1))
        ring.write(1, Desc(addr + 16, 16, second))
        ring.offer(0)

    return write


def _table(flags: int, inner: int = 0) -> Callable[[Watch], None]:
    def write(watch: Watch) -> None:
        ring, arena = watch.main.split, watch.front.arena
        table = arena.put(Desc(arena.alloc(16), 16, inner).emit(), 16)
        ring.write(0, Desc(table, 16, INDIRECT | flags, 1))
        ring.offer(0)

    return write


def _loop(watch: Watch) -> None:
    watch.main.split.write(0, Desc(watch.front.arena.base, 1, NEXT, 0))
    watch.main.split.offer(0)


def _backwards(watch: Watch) -> None:
    watch.main.split.avail_idx = 0xFFFF


@pytest.mark.parametrize(
    ("ident", "write", "features"),
    [
        ("SPLIT-DRV-3", _two(2, 0), ()),
        ("SPLIT-DRV-8", _table(0), ()),
        ("SPLIT-DRV-9", _table(0, INDIRECT), (INDIRECT_DESC,)),
        ("SPLIT-DRV-10", _loop, ()),
        ("SPLIT-DRV-11", _table(NEXT), (INDIRECT_DESC,)),
        ("SPLIT-DRV-13", _backwards, ()),
    ],
)
async def test_a_bad_chain_is_a_finding(ident: str, write: Callable[[Watch], None], features: tuple[int, ...]) -> None:
    async with watching("rng", *features) as watch:
        write(watch)
        watch.main.kick()
    _broken(watch, ident, "")


@pytest.mark.parametrize("features", [(), (EVENT_IDX,)])
async def test_a_missing_kick_is_a_finding_and_the_request_is_served(features: tuple[int, ...]) -> None:
    async with watching("rng", *features) as watch:
        await watch.serve(watch.kind.request(watch.front))
        watch.main.ring.submit(watch.kind.request(watch.front).buffers)
        await watch.front.answer(watch.main)
    _broken(watch, "SPLIT-DRV-25" if features else "SPLIT-DRV-23", "no kick within 0.5 s")


async def test_features_that_were_not_offered_are_a_finding() -> None:
    def change(front: FrontEnd) -> None:
        front.features |= 1 << 50

    async with watching("rng", change=change) as watch:
        await watch.serve(watch.kind.request(watch.front))
    _broken(watch, "FEAT-DRV-1", "offered")


async def test_flags_and_areas_of_a_ring_are_judged() -> None:
    async with watching("rng", EVENT_IDX) as watch:
        watch.main.split.avail_flags = 1
        await watch.serve(watch.kind.request(watch.front))
    _broken(watch, "SPLIT-DRV-15", "available flags 0x1")
    assert watch.results()["SPLIT-DRV-1"].verdict is Verdict.PASS


@pytest.mark.parametrize("addr", [0, 1 << 60])
async def test_memory_that_was_not_shared_ends_the_watch_with_the_reason(addr: int) -> None:
    async with watching("rng") as watch:
        watch.main.split.write(0, Desc(addr, 64, 2))
        watch.main.split.offer(0)
        watch.main.kick()
        with pytest.raises(HungUp):
            await watch.front.answer(watch.main)
    assert watch.back.ended == f"named 64 bytes at {addr:#x}, which it did not share"


async def test_a_ring_goes_on_with_another_kick_and_after_a_stop() -> None:
    async with watching("rng") as watch:
        for _ in range(3):
            assert await watch.serve(watch.kind.request(watch.front)) == ""
            await watch.front.give_kick(watch.main)
        reply = await watch.front.ask(FrontendRequest.GET_VRING_BASE, bytes(8))
        assert int.from_bytes(reply[4:], "little") == 3
        await watch.front.start(watch.main, 3)
        assert await watch.serve(watch.kind.request(watch.front)) == ""
    assert exit_status(watch.results().values()) == 0


@pytest.mark.parametrize("request_", [FrontendRequest.SET_VRING_KICK, FrontendRequest.SET_VRING_CALL])
async def test_an_event_that_is_none_ends_the_watch_with_the_reason(request_: FrontendRequest) -> None:
    async with watching("rng") as watch:
        with open_folder() as folder:
            await watch.front.must(request_, bytes(8), [folder])
        watch.main.ring.submit(watch.kind.request(watch.front).buffers)
        watch.main.kick()
        await trio.sleep(1)
    assert "that is no event" in watch.back.ended


@contextmanager
def open_folder() -> Iterator[int]:
    fd = os.open("/", os.O_RDONLY)
    yield fd
    os.close(fd)


@pytest.mark.parametrize("data", [b"\xff" * 12, struct.pack("<III", 5, 1, 1 << 30), b"GET / HTTP/1.1\r\n\r\n"])
async def test_a_peer_that_is_no_front_end_ends_the_watch(data: bytes) -> None:
    watch = Watch("rng", ())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch.back.serve, UnixSocket(watch.theirs))
        await watch.front.send(data)
    watch.front.close()
    assert "message" in watch.back.ended
    assert not watch.seen.requests
