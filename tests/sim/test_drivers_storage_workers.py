"""Workers: what they leave behind, and how much they do between two turns of other tasks."""

from __future__ import annotations

import errno
import weakref
from collections.abc import Sequence

import attrs
import pytest
import trio

from drivers.storage.workers import GATHER_PARTS, IoKind, Job, Workers
from vnet.ports.disk.store import MemoryStore

MIB = 1 << 20


class Broken(MemoryStore):
    """A store on which nothing works."""

    async def read(self, into: memoryview, offset: int, /) -> None:
        raise OSError(errno.EIO, "broken")

    async def write(self, parts: Sequence[tuple[int, memoryview]], /) -> None:
        raise OSError(errno.ENOSPC, "full")

    async def flush(self) -> None:
        raise OSError(errno.EIO, "broken")


class Counting(MemoryStore):
    """A store that counts the pieces of each write."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.writes: list[int] = []

    async def write(self, parts: Sequence[tuple[int, memoryview]], /) -> None:
        self.writes.append(sum(len(part) for _, part in parts))
        await super().write(parts)


async def serve(jobs: Sequence[Job[None]], ended: list[Job[None]]) -> None:
    """Give jobs to one worker, and return once all have ended."""
    workers = Workers()
    async with trio.open_nursery() as nursery:
        for job in jobs:
            workers.submit(job)
        nursery.start_soon(workers.work)
        with trio.fail_after(10):
            while len(ended) < len(jobs):  # noqa: ASYNC110  nothing else tells
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("kind", [IoKind.READ, IoKind.WRITE, IoKind.FLUSH])
@pytest.mark.usefixtures("uncollected")
async def test_a_job_that_failed_is_gone_with_its_last_user(kind: IoKind) -> None:
    ended: list[Job[None]] = []
    store, data = Broken(MIB), memoryview(bytearray(1024))
    jobs = [Job(kind, store, lambda: True, ended.extend, None, 512 * i, 512, [data[:512]]) for i in range(3)]
    await serve(jobs, ended)
    assert {job.cause for job in ended} == {"full" if kind is IoKind.WRITE else "broken"}
    assert {job.error.errno for job in ended if job.error} == {errno.ENOSPC if kind is IoKind.WRITE else errno.EIO}
    left = [weakref.ref(job) for job in jobs]
    jobs.clear()
    ended.clear()
    assert [ref() for ref in left] == [None] * 3


async def test_writes_in_many_pieces_go_a_few_at_a_time() -> None:
    ended: list[Job[None]] = []
    store = Counting(MIB)
    byte = memoryview(bytearray(b"x"))
    jobs = [Job(IoKind.WRITE, store, lambda: True, ended.extend, None, 512 * i, 512, [byte] * 512) for i in range(64)]
    await serve(jobs, ended)
    assert store.data[: 64 * 512] == b"x" * 64 * 512
    assert max(store.writes) <= GATHER_PARTS


@pytest.mark.parametrize("at", [0, 1, 511, 512, 4096, MIB - 1, MIB, 3 * MIB - 1])
async def test_a_comparison_finds_the_first_byte_that_differs(at: int) -> None:
    ended: list[Job[None]] = []
    store = MemoryStore(4 * MIB)
    sent = bytearray(3 * MIB)
    sent[at] = 1
    sent[-1] = 1
    job = Job(IoKind.COMPARE, store, lambda: True, ended.extend, None, 512, 3 * MIB, [memoryview(sent)])
    await serve([job], ended)
    assert job.differs == at
    ended.clear()
    again = attrs.evolve(job, data=[memoryview(bytearray(3 * MIB))], done=0, differs=None)
    await serve([again], ended)
    assert (again.differs, again.done) == (None, 3 * MIB)


async def test_jobs_that_no_worker_began_are_withdrawn_together() -> None:
    workers, store, other = Workers(), MemoryStore(MIB), MemoryStore(MIB)
    kinds = (IoKind.READ, IoKind.WRITE, IoKind.FLUSH)
    jobs = [Job(kind, where, lambda: True, lambda _: None, None) for kind in kinds for where in (store, other)]
    for job in jobs[1:]:
        workers.submit(job)
    assert set(workers.withdraw(jobs[:4])) == set(jobs[1:4])
    assert workers.withdraw(jobs[:4]) == []
    assert set(workers.withdraw(jobs)) == set(jobs[4:])
