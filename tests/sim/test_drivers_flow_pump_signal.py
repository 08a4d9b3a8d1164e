"""The signal that wakes a flow: what was set is seen by a wait, also after one that was cancelled."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from drivers.flow.pump import Signal


@pytest.mark.parametrize("every", [None, 0.01])
async def test_a_wait_that_is_cancelled_loses_no_wake_up(every: float | None) -> None:
    signal = Signal(every)
    signal.set()
    with trio.CancelScope() as scope:
        scope.cancel()
        await signal.wait()
    assert scope.cancelled_caught
    with trio.fail_after(1):
        assert await signal.wait() is True


@pytest.mark.parametrize("set_first", [True, False])
async def test_a_wait_that_is_cancelled_while_it_is_woken_returns(set_first: bool) -> None:
    """A consumed notification is reported: the wait returns, and the next checkpoint is cancelled."""
    signal, returned, scope = Signal(), [], trio.CancelScope()

    async def wait() -> None:
        with scope:
            returned.append(await signal.wait())
            await trio.lowlevel.checkpoint()
            raise AssertionError("it was not cancelled")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        for step in (signal.set, scope.cancel) if set_first else (scope.cancel, signal.set):
            step()
    if returned:
        assert not signal._set
    else:
        with trio.fail_after(1):
            assert await signal.wait() is True


async def test_any_order_of_setting_and_cancelling_ends_in_one_last_return() -> None:
    """A waiter in a loop, cancelled at random turns: whenever it stands still, nothing is set that it did not see."""
    seen = work = 0
    signal = Signal()

    async def follow() -> None:
        nonlocal seen
        while True:
            await signal.wait()
            seen = work

    for turns in range(205):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(follow)
            for _ in range(turns % 4):
                await trio.lowlevel.checkpoint()
            work += 1
            signal.set()
            for _ in range(turns % 3):
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow)
        await trio.testing.wait_all_tasks_blocked()
        assert seen == work
        nursery.cancel_scope.cancel()


async def test_a_second_waiter_is_refused_and_the_first_is_woken() -> None:
    signal, woken = Signal(), []

    async def wait() -> None:
        woken.append(await signal.wait())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            await signal.wait()
        signal.set()
    assert woken == [True]


async def test_a_wait_with_serve_ends_only_once_that_returns_false() -> None:
    """Between two waits nothing is served, and the flag is kept."""
    signal, served = Signal(), 0

    def serve() -> bool:
        nonlocal served
        served += 1
        return served % 2 == 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(signal.wait, serve)
        await trio.testing.wait_all_tasks_blocked()
        signal.set()
        await trio.testing.wait_all_tasks_blocked()
        assert (signal.awaited, served) == (True, 1)
        signal.set()
        assert (signal.awaited, served) == (False, 2)
    signal.set()
    assert served == 2
    with trio.fail_after(1):
        await signal.wait()


@pytest.mark.parametrize("set_first", [True, False])
async def test_a_cancelled_wait_with_serve_loses_no_wake_up(set_first: bool) -> None:
    """A signal set before the cancellation is served; one set after it is kept for the next wait."""
    signal, scope, served = Signal(), trio.CancelScope(), 0

    def serve() -> bool:
        nonlocal served
        served += 1
        return True

    async def wait() -> None:
        with scope:
            await signal.wait(serve)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        for step in (signal.set, scope.cancel) if set_first else (scope.cancel, signal.set):
            step()
    assert scope.cancelled_caught
    assert served == set_first
    with trio.move_on_after(1) as late:
        await signal.wait(serve)
    assert late.cancelled_caught == set_first
