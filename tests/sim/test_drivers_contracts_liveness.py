"""Liveness: tasks wait for its beginning."""

from __future__ import annotations

import trio
import trio.testing

from drivers.contracts.liveness import Liveness


async def test_a_wait_ends_when_it_begins_and_not_before() -> None:
    liveness, ended = Liveness(), 0

    async def wait() -> None:
        nonlocal ended
        await liveness.wait()
        assert liveness.live
        ended += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        liveness.set(True)
        liveness.set(False)  # over before the task runs
        await trio.testing.wait_all_tasks_blocked()
        assert ended == 0
        liveness.set(True)
        await trio.testing.wait_all_tasks_blocked()
        assert ended == 1
    await liveness.wait()
