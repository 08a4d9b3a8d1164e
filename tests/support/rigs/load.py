"""Load on a storage pair while its device is reset."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import attrs
import trio
import trio.testing

from vnet.testing import Pair

__all__ = ["reset_under_load"]

TASKS = 16


async def reset_under_load(pair: Pair, transfer: Callable[[int], Awaitable[None]], resets: int) -> int:
    """Reset the device so many times while 16 tasks repeat ``transfer``, each with its number.

    Returns how often they did; nothing is left over then.
    """
    done, over = 0, False

    async def work(at: int) -> None:
        nonlocal done
        while not over:
            await transfer(at)
            done += 1
            await trio.sleep(0.003)

    before = pair.footprint()
    async with trio.open_nursery() as nursery:
        for at in range(TASKS):
            nursery.start_soon(work, at)
        for _ in range(resets):
            await trio.sleep(0.005)
            await pair.reset()
        over = True
    await trio.testing.wait_all_tasks_blocked()
    # Descriptors of earlier tests may go meanwhile.
    assert attrs.evolve(pair.footprint(), fds=before.fds) == before
    return done
