"""Tasks that run for as long as a context lasts, and the errors that come out of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial

import pytest
import trio
import trio.testing

from vnet.linux.background import Shelter, gather, open_background, open_shelter, start, start_soon


async def fail_when_cancelled(error: Exception) -> None:
    try:
        await trio.sleep_forever()
    finally:
        raise error


async def test_tasks_are_cancelled_at_the_end() -> None:
    async with open_background() as nursery:
        nursery.start_soon(trio.sleep_forever)


async def test_an_error_of_the_body_comes_out_as_it_is() -> None:
    cause = KeyError("cause")
    error = ValueError("body")
    with pytest.raises(ValueError, match="body") as caught:
        async with open_background():
            raise error from cause
    assert caught.value is error
    assert error.__cause__ is cause


async def test_an_error_of_the_body_is_kept_if_a_task_fails_while_it_is_cancelled() -> None:
    with pytest.RaisesGroup(pytest.RaisesExc(ValueError, match="body"), pytest.RaisesExc(KeyError, match="task")):
        async with open_background() as nursery:
            nursery.start_soon(fail_when_cancelled, KeyError("task"))
            await trio.testing.wait_all_tasks_blocked()
            raise ValueError("body")


async def test_a_group_that_the_body_raises_comes_out_as_it_is() -> None:
    group = ExceptionGroup("body", [ValueError("one"), ValueError("two")])
    with pytest.RaisesGroup(ValueError, ValueError) as caught:
        async with open_background():
            raise group
    assert caught.value is group


async def test_the_error_of_a_task_ends_the_body() -> None:
    async def fail() -> None:
        raise KeyError("task")

    with pytest.RaisesGroup(KeyError):
        async with open_background() as nursery:
            nursery.start_soon(fail)
            await trio.sleep_forever()


async def test_a_cancelled_body_is_no_error() -> None:
    with trio.CancelScope() as scope:
        async with open_background() as nursery:
            nursery.start_soon(trio.sleep_forever)
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught


# Calls and contexts at the same time


async def take(seconds: float, error: Exception | None = None) -> float:
    await trio.sleep(seconds)
    if error is not None:
        raise error
    return seconds


async def test_calls_run_at_the_same_time_and_their_results_are_in_order(
    autojump_clock: trio.testing.MockClock,
) -> None:
    start = trio.current_time()
    assert await gather([partial(take, 3), partial(take, 1), partial(take, 2)]) == [3, 1, 2]
    assert trio.current_time() - start == 3


async def test_the_first_error_ends_all_calls(autojump_clock: trio.testing.MockClock) -> None:
    start = trio.current_time()
    with pytest.raises(KeyError, match="second"):
        await gather([partial(take, 3), partial(take, 1, KeyError("second")), partial(take, 2)])
    assert trio.current_time() - start == 1


@asynccontextmanager
async def opened(name: str, log: list[str], seconds: float = 1, error: Exception | None = None) -> AsyncIterator[str]:
    await take(seconds, error)
    log.append(f"+{name}")
    try:
        yield name
    finally:
        with trio.CancelScope(shield=True):
            await trio.sleep(1)
        log.append(f"-{name}")


async def enter_all(shelter: Shelter, contexts: Sequence[AbstractAsyncContextManager[str]]) -> list[str | None]:
    held = await gather([partial(shelter.enter, context) for context in contexts])
    return [each.value for each in held]


async def test_contexts_are_entered_and_left_at_the_same_time(autojump_clock: trio.testing.MockClock) -> None:
    log: list[str] = []
    start = trio.current_time()
    async with open_shelter() as shelter:
        assert await enter_all(shelter, [opened(name, log) for name in "abc"]) == ["a", "b", "c"]
        assert trio.current_time() - start == 1
    assert trio.current_time() - start == 2
    assert sorted(log) == ["+a", "+b", "+c", "-a", "-b", "-c"]


async def test_a_context_that_can_not_be_entered_ends_the_others(autojump_clock: trio.testing.MockClock) -> None:
    log: list[str] = []
    contexts = [opened("a", log), opened("b", log, 2, KeyError("b")), opened("c", log, 3)]
    with pytest.raises(KeyError, match="b"):
        async with open_shelter() as shelter:
            await enter_all(shelter, contexts)
    assert log == ["+a", "-a"]


async def test_contexts_are_left_after_a_cancelled_body(autojump_clock: trio.testing.MockClock) -> None:
    log: list[str] = []
    with trio.CancelScope() as scope:
        async with open_shelter() as shelter:
            await shelter.enter(opened("a", log))
            scope.cancel()
            try:
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(shield=True):
                    await trio.sleep(10)
                log.append("body")
    assert log == ["+a", "body", "-a"]


async def test_a_shelter_that_is_opened_after_its_cancellation_is_closed(
    autojump_clock: trio.testing.MockClock,
) -> None:
    log: list[str] = []
    with trio.CancelScope() as scope:
        scope.cancel()
        async with open_shelter() as shelter:
            await shelter.enter(opened("a", log))
    assert scope.cancelled_caught
    assert log == []


async def test_a_cancelled_opening_leaves_what_was_entered(autojump_clock: trio.testing.MockClock) -> None:
    log: list[str] = []
    with trio.move_on_after(2) as scope:
        async with open_shelter() as shelter:
            await enter_all(shelter, [opened("a", log), opened("b", log, 60)])
    assert scope.cancelled_caught
    assert log == ["+a", "-a"]


async def test_the_error_of_a_task_of_a_context_ends_the_body(autojump_clock: trio.testing.MockClock) -> None:
    @asynccontextmanager
    async def failing() -> AsyncIterator[None]:
        async with open_background() as nursery:
            nursery.start_soon(take, 5, KeyError("task"))
            yield

    with pytest.RaisesGroup(KeyError, flatten_subgroups=True):
        async with open_shelter() as shelter:
            await shelter.enter(failing())
            await trio.sleep_forever()


async def test_a_context_can_be_left_before_the_others(autojump_clock: trio.testing.MockClock) -> None:
    log: list[str] = []
    async with open_shelter() as shelter:
        first, _ = [await shelter.enter(opened(name, log)) for name in "ab"]
        await shelter.leave(first)
        assert log == ["+a", "+b", "-a"]
    assert log == ["+a", "+b", "-a", "-b"]


async def test_the_error_of_a_contexts_end_is_that_of_the_task_that_leaves_it() -> None:
    @asynccontextmanager
    async def failing() -> AsyncIterator[None]:
        yield
        raise KeyError("end")

    async with open_shelter() as shelter:
        held = await shelter.enter(failing())
        with pytest.raises(KeyError, match="end"):
            await shelter.leave(held)


async def test_a_task_is_stopped_alone() -> None:
    async def report(task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        task_status.started()
        try:
            await trio.sleep_forever()
        finally:
            log.append("report")

    log: list[str] = []
    async with open_background() as nursery:
        tasks = [await start(nursery, report), start_soon(nursery, report)]
        for count, task in enumerate(tasks, 1):
            await trio.testing.wait_all_tasks_blocked()
            await task.stop()
            assert len(log) == count
            await task.stop()
