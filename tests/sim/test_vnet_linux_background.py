"""Tasks that run for as long as a context lasts, and the errors that come out of it."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from vnet.linux.background import open_background


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
