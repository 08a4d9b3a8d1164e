"""The pool for blocking I/O: under any load, every job gets its turn."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import trio

from drivers.storage.workers import IoKind, Job, Workers
from vnet.testing.blk import StubbornStore

BLOCK = 512


class SlowStore(StubbornStore):
    async def _wait(self, name: str) -> None:
        await trio.sleep(0.001)


@pytest.mark.parametrize(("flood", "other"), [(IoKind.READ, IoKind.WRITE), (IoKind.WRITE, IoKind.READ)])
async def test_a_flood_of_the_one_kind_does_not_keep_the_other_waiting(flood: IoKind, other: IoKind) -> None:
    workers, store, over = Workers(), SlowStore(BLOCK), trio.Event()

    def job(kind: IoKind, finished: object) -> Job[None]:
        return Job(kind, store, lambda: True, finished, None, size=BLOCK, data=[memoryview(bytearray(BLOCK))])  # type: ignore[arg-type]

    def once_more(jobs: Sequence[Job[None]]) -> None:
        for _ in jobs:
            workers.submit(job(flood, once_more))

    async with trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(workers.work)
        once_more([job(flood, once_more)] * 8)
        workers.submit(job(other, lambda _: over.set()))
        with trio.fail_after(1):
            await over.wait()
        nursery.cancel_scope.cancel()
