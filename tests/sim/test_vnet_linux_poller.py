"""One poller for many ports: a waiter is woken or served in place, and no event is missed."""

from __future__ import annotations

import contextlib
import itertools
import os
import select
import socket
from collections.abc import Iterator
from functools import partial

import pytest
import trio
import trio.lowlevel
import trio.testing

from vnet.linux.moderation import MAX_PAUSE, WINDOW
from vnet.linux.poller import EPOLL_PASSES_PER_POLL, Poller


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    first, second = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with first, second:
        first.setblocking(False)
        yield first, second


def jump(seconds: float) -> None:
    """Have the test's clock say so much later."""
    clock = trio.lowlevel.current_clock()
    assert isinstance(clock, trio.testing.MockClock)
    clock.jump(seconds)


@pytest.fixture
def poller() -> Iterator[Poller]:
    poller = Poller()
    yield poller
    poller.close()


async def test_an_event_wakes_a_waiter_or_is_kept_for_the_next_wait(
    poller: Poller, ends: tuple[socket.socket, socket.socket], nursery: trio.Nursery
) -> None:
    here, there = ends
    signal = poller.register(here.fileno())
    nursery.start_soon(poller.run)
    with trio.fail_after(5):
        for _ in range(3):
            there.send(b"frame")
            await signal.wait()
            assert here.recv(9) == b"frame"
    nursery.cancel_scope.cancel()
    poller.unregister(here.fileno())


async def test_a_waiter_that_can_be_served_in_place_is_not_woken(
    poller: Poller, ends: tuple[socket.socket, socket.socket], nursery: trio.Nursery
) -> None:
    here, there = ends
    signal = poller.register(here.fileno())
    served: list[bytes] = []
    done = trio.Event()

    def serve() -> bool:
        with contextlib.suppress(BlockingIOError):
            while True:
                served.append(here.recv(9))
        if len(served) == 3:
            done.set()
        return True

    async def wait() -> None:
        await signal.wait(serve)
        raise AssertionError("it was woken")

    nursery.start_soon(wait)
    nursery.start_soon(poller.run)
    await trio.testing.wait_all_tasks_blocked()
    with trio.fail_after(5):
        for number in range(3):
            there.send(bytes([number]))
            await trio.lowlevel.checkpoint()
        await done.wait()
    assert served == [b"\0", b"\1", b"\2"]
    nursery.cancel_scope.cancel()
    poller.unregister(here.fileno())


async def test_an_unwatched_descriptor_is_nobodys_and_may_be_forgotten_twice(
    poller: Poller, ends: tuple[socket.socket, socket.socket], nursery: trio.Nursery
) -> None:
    here, there = ends
    poller.register(here.fileno())
    poller.unregister(here.fileno())
    poller.unregister(here.fileno())
    there.send(b"frame")
    nursery.start_soon(poller.run)
    await trio.testing.wait_all_tasks_blocked()
    assert os.read(here.fileno(), 9) == b"frame"
    nursery.cancel_scope.cancel()


async def test_ports_are_read_after_what_other_processes_ask_for(
    poller: Poller, ends: tuple[socket.socket, socket.socket], nursery: trio.Nursery
) -> None:
    """The same poll then finds the packets that arrive at the ports."""
    here, there = ends
    order: list[str] = []
    port, kick = poller.register(here.fileno()), os.eventfd(0, os.EFD_NONBLOCK)
    try:
        poller.watch(kick, lambda: order.append("kick"))
        nursery.start_soon(port.wait, lambda: order.append("port") is None)  # type: ignore[func-returns-value]
        await trio.testing.wait_all_tasks_blocked()
        there.send(b"frame")
        os.eventfd_write(kick, 1)
        nursery.start_soon(poller.run)
        await trio.testing.wait_all_tasks_blocked()
        assert order == ["kick", "port"]
        nursery.cancel_scope.cancel()
        poller.unregister(kick)
        poller.unregister(here.fileno())
    finally:
        os.close(kick)


@pytest.mark.parametrize(
    ("moderate", "expected"), [(True, ["a", "b", "c", "tell"]), (False, ["a", "tell", "b", "c", "tell"])]
)
async def test_a_moderating_poller_notifies_others_once_at_the_end_of_a_poll(
    moderate: bool, expected: list[str], nursery: trio.Nursery
) -> None:
    poller, order = Poller(moderate=moderate), list[str]()
    first, second, third = kicks = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(3)]

    def tell() -> None:
        order.append("tell")

    def a() -> None:
        order.append("a")
        poller.at_end(tell)
        os.eventfd_write(second, 1)  # found by the same look

    def b() -> None:
        order.append("b")
        os.eventfd_write(third, 1)

    def c() -> None:
        order.append("c")
        poller.at_end(tell)

    try:
        for kick, events in zip(kicks, (a, b, c), strict=True):
            poller.watch(kick, events)
        os.eventfd_write(first, 1)
        nursery.start_soon(poller.run)
        await trio.testing.wait_all_tasks_blocked()
        assert order == expected
        poller.at_end(tell)
        assert order == [*expected, "tell"], "outside of a look it is told at once"
        nursery.cancel_scope.cancel()
    finally:
        for kick in kicks:
            poller.unregister(kick)
            os.close(kick)
        poller.close()


async def test_in_a_long_poll_others_are_notified_before_it_ends(nursery: trio.Nursery) -> None:
    poller, order = Poller(moderate=True), list[str]()
    kick = os.eventfd(0, os.EFD_NONBLOCK)

    def tell() -> None:
        order.append("tell")

    def events() -> None:
        order.append("told")
        poller.at_end(tell)
        if len(order) < 40:
            os.eventfd_write(kick, 1)

    try:
        poller.watch(kick, events)
        os.eventfd_write(kick, 1)
        nursery.start_soon(poller.run)
        await trio.testing.wait_all_tasks_blocked()
        assert order.count("told") > 30
        assert order[: EPOLL_PASSES_PER_POLL + 1] == [*["told"] * EPOLL_PASSES_PER_POLL, "tell"]
        assert order[-1] == "tell"
        nursery.cancel_scope.cancel()
    finally:
        poller.unregister(kick)
        os.close(kick)
        poller.close()


async def test_where_much_is_carried_there_are_pauses_and_what_comes_meanwhile_is_found_at_once(
    monkeypatch: pytest.MonkeyPatch, ends: tuple[socket.socket, socket.socket], nursery: trio.Nursery
) -> None:
    here, there = ends
    pauses: list[float] = []
    meanwhile: list[int] = []
    carried = 0
    actual: list[tuple[float, int]] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        jump(seconds)
        while meanwhile:
            there.send(bytes([meanwhile.pop()]))

    def events() -> bool:
        nonlocal carried
        frames = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                carried += 10_000 * here.recv(9)[0]
                frames += 1
        actual.append((trio.current_time() - began, frames))
        return True

    monkeypatch.setattr("vnet.linux.poller.sleep", pause)
    monkeypatch.setattr("vnet.linux.poller.monotonic", trio.current_time)
    poller = Poller(moderate=True)
    signal = poller.register(here.fileno(), lambda: carried)
    nursery.start_soon(signal.wait, events)
    nursery.start_soon(poller.run)

    async def send(much: int, after: float = 0.0) -> None:
        await trio.sleep(after)
        there.send(bytes([much]))
        await trio.testing.wait_all_tasks_blocked()

    began = trio.current_time()
    await send(10, after=2 * WINDOW)
    assert not pauses, "100 kB in 20 ms are little"
    meanwhile += [255, 255]
    await send(255, after=2 * WINDOW)
    assert pauses[0] == MAX_PAUSE, "2.55 MB are much"
    assert [frames for _, frames in actual] == [1, 1, 2], "two were found by one look"
    assert actual[-1][0] == pytest.approx(4 * WINDOW + MAX_PAUSE)
    assert len(pauses) * MAX_PAUSE < 3 * WINDOW, "it ends soon after the last of them"
    pauses.clear()
    await send(1, after=2 * WINDOW)
    assert (actual[-1][1], pauses) == (1, [])
    nursery.cancel_scope.cancel()
    poller.unregister(here.fileno())
    poller.close()


async def test_there_are_no_pauses_unless_requested(
    monkeypatch: pytest.MonkeyPatch, ends: tuple[socket.socket, socket.socket], nursery: trio.Nursery
) -> None:
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        jump(seconds)

    monkeypatch.setattr("vnet.linux.poller.sleep", pause)
    monkeypatch.setattr("vnet.linux.poller.monotonic", trio.current_time)
    for moderate in (True, False):
        poller = Poller(moderate=moderate)
        here, there = ends
        carried = [0]
        signal = poller.register(here.fileno(), partial(sum, carried))
        async with trio.open_nursery() as running:
            running.start_soon(poller.run)
            await trio.sleep(2 * WINDOW)
            carried[0] = 1 << 22
            there.send(b"frame")
            await signal.wait()
            await trio.testing.wait_all_tasks_blocked()
            assert here.recv(9) == b"frame"
            running.cancel_scope.cancel()
        assert bool(pauses) == moderate
        pauses.clear()
        poller.unregister(here.fileno())
        poller.close()


class Carrier:
    """Stands in for shuttles: waits, and carries nothing."""

    def __init__(self) -> None:
        self.waits: list[float] = []
        self.forgotten: list[int] = []
        self.worthwhile = True

    def wait(self, epoll: int, stop: int, seconds: float, /) -> list[int]:
        self.waits.append(seconds)
        with select.epoll.fromfd(os.dup(epoll)) as events:
            return [fd for fd, _ in events.poll(min(seconds, 60))]

    def forget(self, fd: int, /) -> None:
        self.forgotten.append(fd)


def test_a_poller_ahead_of_trio_serves_ports_and_lets_all_of_trio_go_on(
    poller: Poller, ends: tuple[socket.socket, socket.socket]
) -> None:
    """Events, deadlines, other threads and other descriptors: on a real clock, since Trio itself does not wait."""
    here, there = ends
    carrier, served, other = Carrier(), list[bytes](), socket.socketpair()

    def serve() -> bool:
        with contextlib.suppress(BlockingIOError):
            while True:
                served.append(here.recv(9))
        return len(served) < 3

    async def main() -> None:
        signal = poller.register(here.fileno())
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(poller.run)
                await trio.testing.wait_all_tasks_blocked(0.005)
                poller.carry(carrier)
                await trio.testing.wait_all_tasks_blocked(0.005)
                for number in range(3):
                    nursery.start_soon(trio.to_thread.run_sync, partial(there.send, bytes([number])))
                await signal.wait(serve)  # it is woken by the third
                await trio.sleep(0.01)
                assert await trio.to_thread.run_sync(int) == 0
                await trio.to_thread.run_sync(other[1].send, b"x")
                await trio.lowlevel.wait_readable(other[0])
                nursery.cancel_scope.cancel()
        poller.unregister(here.fileno())
        assert carrier.forgotten == [here.fileno()], "before the descriptor is another's"

    trio.run(main)
    assert sorted(served) == [b"\0", b"\1", b"\2"]
    assert max(carrier.waits) > 1, "it waited in place of Trio"
    for each in other:
        each.close()


def test_an_error_ahead_of_trio_ends_the_poller(poller: Poller, ends: tuple[socket.socket, socket.socket]) -> None:
    here, there = ends

    def fails() -> None:
        raise RuntimeError("a callback")

    async def main() -> None:
        poller.watch(here.fileno(), fails)
        there.send(b"frame")
        poller.carry(Carrier())
        with trio.fail_after(60), pytest.raises(RuntimeError, match="a callback"):
            await poller.run()
        poller.unregister(here.fileno())

    trio.run(main)


def test_a_moderating_poller_ahead_of_trio_serves_rings_and_pauses_between(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python moves much here, as for a guest's driver: what carriers carry is not counted."""
    poller, kick, order = Poller(moderate=True), os.eventfd(0, os.EFD_NONBLOCK), list[str]()
    carrier = Carrier()
    monkeypatch.setattr("vnet.linux.poller.sleep", lambda _: order.append("pause"))

    def call() -> None:
        order.append("call")

    def kicked() -> None:
        order.append("task" if trio.lowlevel.in_trio_task() else "kick")
        poller.at_end(call)
        poller.at_end(call)

    async def main() -> None:
        port = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        poller.register(port.fileno(), partial(next, itertools.count(0, 1 << 40)))
        poller.watch(kick, kicked, by_task=False)
        poller.carry(carrier)
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(poller.run)
                while "pause" not in order:
                    await trio.sleep(WINDOW)
                    await trio.to_thread.run_sync(os.eventfd_write, kick, 1)
                carrier.worthwhile = False
                while "task" not in order:  # the poller is a task like any other
                    await trio.sleep(WINDOW)
                    await trio.to_thread.run_sync(os.eventfd_write, kick, 1)
                nursery.cancel_scope.cancel()
        for fd in (kick, port.fileno()):
            poller.unregister(fd)
        port.close()

    trio.run(main)
    poller.close()
    os.close(kick)
    assert "kick,call,pause" in ",".join(order)
    assert "call,call" not in ",".join(order)


def test_a_moderating_poller_is_ahead_of_trio_whenever_that_is_worthwhile() -> None:
    """Between, Trio waits for its events, and keeps the descriptor in its own set."""
    poller, kick, carrier = Poller(moderate=True), os.eventfd(0, os.EFD_NONBLOCK), Carrier()

    async def look() -> bool:
        carrier.waits.clear()
        await trio.to_thread.run_sync(os.eventfd_write, kick, 1)
        await trio.sleep(WINDOW)
        return bool(carrier.waits)

    async def main() -> None:
        poller.watch(kick, lambda: os.eventfd_read(kick), by_task=False)
        carrier.worthwhile = False
        poller.carry(carrier)
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(poller.run)
                assert not await look()
                for worthwhile in (True, False, True):
                    carrier.worthwhile = worthwhile
                    while await look() != worthwhile:
                        pass
                nursery.cancel_scope.cancel()
        poller.unregister(kick)

    trio.run(main)
    poller.close()
    os.close(kick)
