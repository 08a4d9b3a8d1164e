"""The watching back end: it serves an honest driver, and says how a watch ends."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import trio

from drivers.transports.vhost_user.constants import FrontendRequest
from support.rigs.watching import Watch, check_broken, watching
from vnet.check.driver.types import DEVICES
from vnet.check.front import EVENT_IDX, INDIRECT_DESC, RING_PACKED
from vnet.check.memory import Arena
from vnet.check.split import Desc
from vnet.check.verdicts import Verdict, exit_status
from vnet.check.vhost_user import VhostUserFront
from vnet.check.wire import HungUp
from vnet.linux.ipc import UnixSocket


@pytest.mark.parametrize(
    "features",
    [(), (INDIRECT_DESC,), (EVENT_IDX,), (INDIRECT_DESC, EVENT_IDX), (RING_PACKED,), (RING_PACKED, EVENT_IDX)],
)
@pytest.mark.parametrize("kind", list(DEVICES))
async def test_an_honest_driver_breaks_nothing(kind: str, features: tuple[int, ...]) -> None:
    async with watching(kind, *features) as watch:
        for _ in range(40):
            assert await watch.serve(watch.kind.request(watch.front)) == ""
    results = watch.results()
    assert exit_status(results.values(), strict=True) == 0
    packed = RING_PACKED in features
    assert results["PACKED-DRV-14" if packed else "SPLIT-DRV-3"].seen == f"kept {watch.seen.requests} times"
    kicks = "PACKED-DRV-23" if packed else "SPLIT-DRV-25" if EVENT_IDX in features else "SPLIT-DRV-23"
    assert results[kicks].verdict is Verdict.PASS
    assert ("PACKED-DRV-1" in results) is packed
    assert watch.back.ended == "the front end closed the connection"


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


@pytest.mark.parametrize("features", [(), (EVENT_IDX,), (RING_PACKED,)])
async def test_a_missing_kick_is_a_finding_and_the_request_is_served(features: tuple[int, ...]) -> None:
    async with watching("rng", *features) as watch:
        await watch.serve(watch.kind.request(watch.front))
        watch.main.ring.submit(watch.kind.request(watch.front).buffers)
        await watch.front.answer(watch.main)
    ident = {(): "SPLIT-DRV-23", (EVENT_IDX,): "SPLIT-DRV-25", (RING_PACKED,): "PACKED-DRV-23"}[features]
    check_broken(watch, ident, "no kick within 0.5 s")


async def test_features_that_were_not_offered_are_a_finding() -> None:
    def change(front: VhostUserFront) -> None:
        front.features |= 1 << 50

    async with watching("rng", change=change) as watch:
        await watch.serve(watch.kind.request(watch.front))
    check_broken(watch, "FEAT-DRV-1", "offered")


async def test_packed_rings_that_were_not_offered_are_a_finding_and_read_as_split_ones() -> None:
    def change(front: VhostUserFront) -> None:
        front.features |= 1 << RING_PACKED

    async with watching("rng", change=change) as watch:
        pass
    check_broken(watch, "FEAT-DRV-1", "SET_FEATURES 0x540000000, offered 0x170000000")
    check_broken(watch, "SPLIT-DRV-13", "available index 0x8000 -> 0x0000")
    assert watch.back.ended == "moved the available index from 32768 to 0 in a ring of 16"


@pytest.mark.parametrize("addr", [0, 1 << 60])
async def test_memory_that_was_not_shared_ends_the_watch_with_the_reason(addr: int) -> None:
    async with watching("rng") as watch:
        watch.main.split.write(0, Desc(addr, 64, 2))
        watch.main.split.offer(0)
        watch.main.kick()
        with pytest.raises(HungUp):
            await watch.front.answer(watch.main)
    assert watch.back.ended == f"named 64 bytes at {addr:#x}, which it did not share"


@pytest.mark.parametrize("features", [(), (RING_PACKED,)])
async def test_a_ring_goes_on_with_another_kick_and_after_a_stop(features: tuple[int, ...]) -> None:
    async with watching("rng", *features) as watch:
        for _ in range(3):
            assert await watch.serve(watch.kind.request(watch.front)) == ""
            await watch.front.give_kick(watch.main)
        reply = await watch.front.ask(FrontendRequest.GET_VRING_BASE, bytes(8))
        base = int.from_bytes(reply[4:], "little")
        assert base == (0x8006_8006 if features else 3)  # three requests of two descriptors, wrap counters 1
        await watch.front.start(watch.main, base)
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
