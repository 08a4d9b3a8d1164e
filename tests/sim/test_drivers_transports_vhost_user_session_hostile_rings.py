"""Rings and connections of a hostile vhost-user front end: each row of the list has its outcome."""

from __future__ import annotations

import os
import struct
from typing import Any

import attrs
import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from drivers.carriers.framing import receive_message
from drivers.errors import TransportLost
from drivers.transports.vhost_user import back
from drivers.transports.vhost_user.constants import F_PROTOCOL_FEATURES, ProtocolFeature
from drivers.transports.vhost_user.messages import FRONTEND_MESSAGES, emit
from drivers.transports.vhost_user.payloads import (
    U64,
    Config,
    VringAddr,
    VringFd,
    VringState,
)
from drivers.transports.vhost_user.session import PROTOCOL_FEATURES, Session
from drivers.transports.vhost_user.states import SessionState
from rings.features import mask
from support.rigs.session_hostile import bench_, header, lead_to, message_body, state_of, works
from support.rigs.vhost_user import MIB, NUM, USER, HungUp, R, begin, finish, request
from vnet.testing import fds, maps
from vnet.testing.blk import StubbornStore

SIZE = MIB


async def _say(lead: SessionState, acts: list[tuple[R, int]], reached: set[tuple[SessionState, R]]) -> None:
    async with bench_() as bench:
        async with bench.front() as front:
            await lead_to(front, lead)
            try:
                for request_, variant in acts:
                    payload, descriptors = message_body(front, request_, variant)
                    asks = FRONTEND_MESSAGES[request_].answer is None
                    reached.add((state_of(bench), request_))
                    await front.send(emit(request_, payload, need_reply=asks), descriptors)
                    with trio.fail_after(60):
                        await front.answer(request_)
                    while front.passed:
                        front.passed.pop().close()
            except (HungUp, TransportLost):
                pass
        await works(bench)


@pytest.mark.hostile("V12")
def test_any_messages_in_any_order_are_answered_or_end_the_connection() -> None:
    reached: set[tuple[SessionState, R]] = set()

    @settings(max_examples=60)
    @given(
        st.sampled_from(SessionState),
        st.lists(st.tuples(st.sampled_from(sorted(Session._HANDLERS)), st.integers(0, 3)), min_size=1, max_size=30),
    )
    def run(lead: SessionState, acts: list[tuple[R, int]]) -> None:
        trio.run(_say, lead, acts, reached, clock=trio.testing.MockClock(autojump_threshold=0))

    run()
    # Pairs of state and message are chosen at random here; test_..._session_states.py has each of them.
    assert {state for state, _ in reached} == set(SessionState)


@pytest.mark.hostile("V13")
async def test_a_ring_that_runs_is_not_moved() -> None:
    async with bench_() as bench, bench.front() as front:
        await front.bring_up()
        [ring] = front.rings
        before = fds(), maps()
        for _ in range(50):
            assert not await front.tell(R.SET_VRING_NUM, VringState(0, 4))
            assert not await front.tell(R.SET_VRING_BASE, VringState(0, 1))
            assert await front.tell(R.SET_VRING_ADDR, front.addrs(ring))
            assert not await front.tell(R.SET_VRING_ADDR, VringAddr(0, 0, USER, USER, USER))
            assert not await front.tell(R.SET_VRING_ADDR, attrs.evolve(front.addrs(ring), flags=2))
            assert await front.tell(R.SET_VRING_KICK, VringFd(0), [ring.kick_fd])
            assert await front.tell(R.SET_VRING_CALL, VringFd(0), [ring.call_fd])
        assert (fds(), maps()) == before
        assert (await request(front, ring, 1, 0, bytes(512)))[-1] == 0


@pytest.mark.hostile("V13")
@pytest.mark.parametrize("base", [0x10000, 0xFFFFFFFF])
async def test_a_ring_that_starts_where_it_can_not(base: int) -> None:
    """Bits 16 to 31 are reserved. Any index is taken, since the ring's own used index decides."""
    async with bench_() as bench, bench.front() as front:
        await front.negotiate()
        assert await front.tell(R.SET_FEATURES, U64(front.features | 1 << F_PROTOCOL_FEATURES))
        assert await front.share()
        assert not await front.tell(R.SET_VRING_BASE, VringState(0, base))
        assert await front.start(front.rings[0], 0)


@pytest.mark.hostile("V13")
@pytest.mark.parametrize("shift", [1, 1 << 20, 1 << 40])
async def test_a_ring_that_is_nowhere(shift: int) -> None:
    async with bench_() as bench, bench.front() as front:
        await front.negotiate()
        assert await front.tell(R.SET_FEATURES, U64(front.features | 1 << F_PROTOCOL_FEATURES))
        assert await front.share()
        addrs = front.addrs(front.rings[0])
        assert await front.tell(R.SET_VRING_NUM, VringState(0, NUM))
        for bad in (
            VringAddr(0, 0, addrs.desc + shift, addrs.used, addrs.avail),
            VringAddr(0, 0, addrs.desc, addrs.used + shift, addrs.avail),
            VringAddr(0, 0, addrs.desc, addrs.used, addrs.avail + shift),
        ):
            assert not await front.tell(R.SET_VRING_ADDR, bad)
            assert not await front.tell(R.SET_VRING_KICK, VringFd(0), [front.rings[0].kick_fd])
        assert await front.start(front.rings[0])


@pytest.mark.hostile("V14")
async def test_configuration_beyond_its_end() -> None:
    async with bench_() as bench, bench.front() as front:
        await front.negotiate()
        assert len((await front.ask(R.GET_CONFIG, Config(0, 0, bytes(60)))).data) == 60
        for offset, size in ((250, 7), (257, 1), (0xFFFFFFFF, 1), (0xFFFFFF00, 256)):
            assert (await front.ask(R.GET_CONFIG, Config(offset, 0, bytes(size)))).data == b"", (
                "an error, as it is said"
            )
            assert not await front.tell(R.SET_CONFIG, Config(offset, 0, bytes(size)))
        assert not await front.tell(R.SET_CONFIG, Config(0, 0, b"\xff")), "the capacity is not the driver's to write"
        await front.send(header(R.SET_CONFIG, 9, 14) + struct.pack("<III", 0, 9, 0) + b"\0\0")
        assert await front.answer(R.SET_CONFIG) == U64(1)


@pytest.mark.hostile("V15")
@pytest.mark.parametrize("size", [0, 1, 11, 12, 19])
async def test_a_front_end_that_stops_in_the_middle_of_a_message_or_says_nothing(size: int) -> None:
    async with bench_() as bench, bench.front() as front:
        await front.send(emit(R.SET_FEATURES, U64(0))[:size])
        with trio.fail_after(10):
            assert await front.hung_up()
        await works(bench)


@pytest.mark.hostile("V15")
async def test_a_front_end_that_hears_no_answers() -> None:
    async with bench_() as bench:
        async with bench.front() as front:
            with trio.fail_after(60):
                try:
                    while True:
                        await front.post(R.GET_FEATURES)
                except TransportLost:
                    pass
        await works(bench)


@pytest.mark.hostile("C03", "V16")
async def test_a_front_end_that_goes_while_requests_are_under_way() -> None:
    async with bench_() as bench:
        store = bench.plug.store
        assert isinstance(store, StubbornStore)
        async with bench.front() as front:
            await front.bring_up()
            store.at_once, store.gate = False, trio.Event()
            for sector in range(2):
                begin(front, front.rings[0], 1, sector, bytes(512))
            while store.inside < 1:  # noqa: ASYNC110
                await trio.sleep(0.01)
            front.socket.close()
            await trio.sleep(1)
            assert bench.back.connected, "what was begun ends before its memory goes"
            store.gate.set()
            await bench.idle()
        store.at_once, store.gate = True, None
        await works(bench)


@pytest.mark.hostile("C03", "V16")
@pytest.mark.parametrize("after", range(14))
async def test_a_front_end_that_goes_after_any_message(after: int) -> None:
    async with bench_() as bench:
        async with bench.front() as front:
            sent = 0
            real = front.send

            async def send(data: bytes, descriptors: object = ()) -> None:
                nonlocal sent
                if sent == after:
                    front.socket.close()
                    raise HungUp
                sent += 1
                await real(data, descriptors)  # type: ignore[arg-type]

            front.send = send  # type: ignore[method-assign,assignment]
            with pytest.raises(HungUp):
                await front.bring_up()
        await works(bench)


@pytest.mark.hostile("V17")
async def test_a_second_front_end_is_refused_and_the_first_goes_on() -> None:
    async with bench_() as bench, bench.front() as front:
        await front.bring_up()
        for _ in range(100):
            async with bench.another() as other:
                with trio.fail_after(1):
                    assert await other.hung_up()
        assert bench.back.statistics.refused == 100
        assert (await request(front, front.rings[0], 1, 0, bytes(512)))[-1] == 0


async def test_a_message_that_arrives_as_the_device_is_withdrawn_is_not_served(monkeypatch: pytest.MonkeyPatch) -> None:
    async with bench_() as bench, bench.front() as front:
        await front.bring_up()

        async def receive(*args: Any, **options: Any) -> Any:
            message = await receive_message(*args, **options)
            bench.back.device.withdraw()
            return message

        monkeypatch.setattr(back, "receive_message", receive)
        await front.ask(R.GET_FEATURES)  # the call that waits is still the real one
        await front.send(emit(R.SET_VRING_NUM, VringState(0, NUM)))
        assert await front.hung_up()
        await bench.idle()
        assert bench.errors == []


@pytest.mark.hostile("V18")
async def test_a_kick_that_never_comes_and_one_that_never_ends() -> None:
    async with bench_() as bench, bench.front() as front:
        await front.negotiate()
        assert await front.tell(R.SET_FEATURES, U64(front.features | 1 << F_PROTOCOL_FEATURES))
        assert await front.share()
        [ring] = front.rings
        os.eventfd_write(ring.kick_fd, 1 << 60)  # it is never read
        begin(front, ring, 1, 0, bytes(512))  # before the ring is started: no kick will follow
        assert await front.start(ring)
        assert await front.tell(R.SET_STATUS, U64(15))
        assert (await finish(front, ring))[-1] == 0
        with trio.fail_after(1):  # there is no busy loop: the clock only advances while all tasks wait
            await trio.sleep(0.5)
        ring.called()
        os.eventfd_write(ring.call_fd, 0xFFFFFFFFFFFFFFFE)  # full: to tell must not wait
        begin(front, ring, 0, 0, 512)
        assert (await finish(front, ring))[-1] == 0


@pytest.mark.hostile("V18")
async def test_a_front_end_that_does_not_kick_at_all() -> None:
    async with bench_() as bench, bench.front() as front:
        await front.bring_up()
        [ring] = front.rings
        assert await front.tell(R.SET_VRING_KICK, VringFd(0, has_fd=False))
        begin(front, ring, 1, 0, bytes(512), kick=False)
        assert (await finish(front, ring))[-1] == 0


async def test_a_broken_ring_is_reported_by_its_error_event_and_in_the_status() -> None:
    async with bench_() as bench, bench.front() as front:
        await front.bring_up()
        [ring] = front.rings
        front.memory.view(ring.addrs.driver, 4, True)[2:] = b"\xff\xff"
        ring.kick()
        with trio.fail_after(1):
            while not (await front.ask(R.GET_STATUS)).value & 64:  # noqa: ASYNC110
                await trio.sleep(0.01)
        assert os.eventfd_read(ring.err_fd)
        await front.ask(R.GET_VRING_BASE, VringState(0, 0))
        assert await front.tell(R.SET_STATUS, U64(0))
        ring.queue = ring.driver()
        assert await front.tell(R.SET_FEATURES, U64(front.features | 1 << F_PROTOCOL_FEATURES))
        assert await front.start(ring)
        assert await front.tell(R.SET_STATUS, U64(15))
        assert (await request(front, ring, 1, 0, bytes(512)))[-1] == 0, "a reset recovers"


def test_only_what_is_complete_is_offered() -> None:
    F = ProtocolFeature  # noqa: N806
    never = mask((F.PAGEFAULT, F.INBAND_NOTIFICATIONS, F.HOST_NOTIFIER, F.CRYPTO_SESSION, F.XEN_MMAP))
    assert not PROTOCOL_FEATURES & never
    assert {kind.needs for kind in FRONTEND_MESSAGES.values()} >= {F.MQ, F.CONFIG, F.STATUS}
