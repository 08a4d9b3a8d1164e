"""Tasks that run for as long as a context lasts, and tasks that run at the same time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any, Generic, TypeVar

import attrs
import trio

__all__ = ["Held", "Shelter", "Task", "gather", "open_background", "open_shelter", "start"]
__all__ += ["start_shielded", "start_soon"]

T = TypeVar("T")


@asynccontextmanager
async def open_background() -> AsyncIterator[trio.Nursery]:
    """Open a nursery that is cancelled at the end instead of waited for.

    An error of the body alone comes out as it is. If tasks fail too, all errors come out in a group.
    """
    error: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            try:
                yield nursery
            except BaseException as exc:  # noqa: BLE001  raised again below, outside of any group if it is the only one
                error = exc
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        # The failure of a task cancels the body, which is no error of the body's.
        if error is None or isinstance(error, trio.Cancelled):
            raise
        raise BaseExceptionGroup(group.message, [error, *group.exceptions]) from None
    if error is not None:
        raise error


async def gather(calls: Sequence[Callable[[], Awaitable[T]]]) -> list[T]:
    """Run all ``calls`` at the same time, and return their results in order.

    An error cancels the other calls. If several fail, the error of the first in order is raised.
    """
    results: dict[int, T] = {}
    errors: dict[int, Exception] = {}
    async with trio.open_nursery() as nursery:

        async def run(index: int, call: Callable[[], Awaitable[T]]) -> None:
            try:
                results[index] = await call()
            except Exception as error:  # noqa: BLE001  raised again below
                errors[index] = error
                nursery.cancel_scope.cancel()

        for index, call in enumerate(calls):
            nursery.start_soon(run, index, call)
    if errors:
        raise errors[min(errors)]
    return [results[index] for index in range(len(calls))]


@attrs.define(eq=False)
class Held(Generic[T]):
    """A context that a task of its own holds, see `Shelter`."""

    value: T | None = None
    error: Exception | None = None
    """Error of the context's end."""
    requested: bool = False
    """Whether `leave` was called."""
    _leave: trio.Event = attrs.field(factory=trio.Event)
    _left: trio.Event = attrs.field(factory=trio.Event)

    async def leave(self) -> None:
        """Leave the context, and return once it is left. Raises the error of its end."""
        self.requested = True
        self.end()
        await self._left.wait()
        if self.error is not None:
            raise self.error

    def end(self) -> None:
        """Leave the context soon."""
        self._leave.set()

    async def hold(
        self, context: AbstractAsyncContextManager[T], task_status: trio.TaskStatus[T] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Hold ``context`` until it is to be left."""
        try:
            async with context as self.value:
                task_status.started(self.value)
                await self._leave.wait()
        except Exception as error:
            if not self.requested:
                raise
            self.error = error
        finally:
            self._left.set()


class Shelter:
    """Contexts, each held by a task of its own, so that any task may enter and leave one at any time."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._all: set[Held[Any]] = set()

    async def enter(self, context: AbstractAsyncContextManager[T]) -> Held[T]:
        """Enter ``context``. Raises its error."""
        held = Held[T]()
        self._all.add(held)
        try:
            await self._nursery.start(held.hold, context)
        except BaseException:
            self._all.discard(held)
            raise
        return held

    async def leave(self, held: Held[Any]) -> None:
        """Leave a context, and return once it is left. Raises the error of its end."""
        try:
            await held.leave()
        finally:
            self._all.discard(held)

    def end(self) -> None:
        """Leave all contexts soon."""
        for held in self._all:
            held.end()


@asynccontextmanager
async def open_shelter() -> AsyncIterator[Shelter]:
    """Open a shelter. Contexts in it are left at the same time, at the end of this one.

    If this context is cancelled, they are left no earlier than its body ends.
    """
    leave = trio.Event()

    async def run(task_status: trio.TaskStatus[trio.Nursery]) -> None:
        with trio.CancelScope(shield=True):
            async with trio.open_nursery() as holders:
                task_status.started(holders)
                await leave.wait()

    async with open_background() as nursery:
        shelter = Shelter(await start_shielded(nursery, run))
        try:
            yield shelter
        finally:
            shelter.end()
            leave.set()


class Task:
    """A task that can be ended alone."""

    def __init__(self) -> None:
        self._scope = trio.CancelScope()
        self._ended = trio.Event()

    async def stop(self) -> None:
        """Cancel the task, and return once it has ended."""
        self._scope.cancel()
        await self._ended.wait()

    async def run(self, function: Callable[[], Awaitable[object]]) -> None:
        try:
            with self._scope:
                await function()
        finally:
            self._ended.set()

    async def run_started(
        self,
        function: Callable[..., Awaitable[object]],
        task_status: trio.TaskStatus[Any] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        await self.run(partial(function, task_status=task_status))


def start_soon(nursery: trio.Nursery, function: Callable[[], Awaitable[object]]) -> Task:
    """Start a task in ``nursery``, and return it."""
    task = Task()
    nursery.start_soon(task.run, function)
    return task


async def start(nursery: trio.Nursery, function: Callable[..., Awaitable[object]]) -> Task:
    """Start a task in ``nursery`` that reports its start, and return it after that. Raises the error of its start."""
    task = Task()
    await nursery.start(task.run_started, function)
    return task


async def start_shielded(nursery: trio.Nursery, function: Callable[..., Awaitable[object]], *args: object) -> Any:
    """Start a task that shields itself from cancellation, and return what it reports at its start, uncancelled.

    Trio leaves a task that reports to a cancelled caller with this caller, who would then wait for the task's end.
    """
    with trio.CancelScope(shield=True):
        return await nursery.start(function, *args)
