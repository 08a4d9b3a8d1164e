"""One watch over many ports: who waits for one is told, served in place where it can be, and nothing is missed."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator

import pytest
import trio
import trio.lowlevel

from vnet.ports.poller import Poller


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    first, second = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with first, second:
        first.setblocking(False)
        yield first, second


@pytest.fixture
def poller() -> Iterator[Poller]:
    poller = Poller()
    yield poller
    poller.close()


async def test_what_comes_in_wakes_who_waits_and_is_remembered_for_who_does_not(
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


async def test_whoever_can_be_served_in_place_is_not_woken(
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
        signal.here = serve
        await signal.wait()
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
