"""A request queue at the device's side: commands, done at once or by a worker, and their answers."""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

from drivers.bus.vhost import DeviceQueue
from drivers.devices.scsi.device.disk import LogicalUnit
from drivers.devices.scsi.device.request import Request
from drivers.devices.scsi.device.tasks import Task
from drivers.devices.scsi.device.unit import Io, Unit
from drivers.devices.scsi.layout import (
    Response,
    ScsiFeature,
    Status,
)
from drivers.devices.scsi.sense import Asc, Key, Sense
from drivers.flow.figures import RequestFigures
from drivers.flow.pump import Need
from drivers.storage.job_flow import AT_ONCE, JobFlow
from drivers.storage.workers import Job, Kind
from rings.chain import Chain, copy_in, take
from rings.queue import Vringh

if TYPE_CHECKING:
    from drivers.devices.scsi.device.device import BoundVhostScsi

__all__ = ["RequestFlow"]

FAILURES: dict[int, Response] = {
    errno.ENOLINK: Response.TRANSPORT_FAILURE,
    errno.ENODEV: Response.TRANSPORT_FAILURE,
    errno.ENOTCONN: Response.TRANSPORT_FAILURE,
    errno.EREMOTEIO: Response.TARGET_FAILURE,
    errno.EBADE: Response.NEXUS_FAILURE,
    errno.EBUSY: Response.BUSY,
    errno.ENOMEM: Response.BUSY,
}
"""What says that a store could not be reached, by the errors that Linux's block layer has for it."""


class RequestFlow(JobFlow):
    """One request queue."""

    def __init__(self, queue: DeviceQueue, bound: BoundVhostScsi, figures: RequestFigures) -> None:
        super().__init__(queue, bound.workers, figures)
        self._bound = bound
        self._domain = bound.plug.domain
        self._looks: deque[tuple[int, Callable[[], None]]] = deque()

    async def run(self, settle: Callable[[], Awaitable[None]] | None) -> None:
        try:
            await super().run(settle)
        finally:
            self._bound.tasks.lose()

    def served(self) -> None:
        super().served()
        self._end_looks(len(self._looks))

    def finished(self, jobs: Sequence[Job]) -> None:
        _end(jobs)
        super().finished(jobs)
        if not self.held():
            self._bound.tasks.lose()

    def withdrawn(self, jobs: Sequence[Job]) -> None:
        _end(jobs)
        super().withdrawn(jobs)
        if not self.held():
            self._bound.tasks.lose()

    def look(self, over: Callable[[], None]) -> None:
        """Call ``over`` once all that the driver made available so far was taken, by this flow in its own turns."""
        ring = self._ring
        if ring is None or not self.serving or not self.held():
            over()
        else:
            self._looks.append((self.figures.taken + ring.num, over))
            self.queue.signal.wake()

    def move(self) -> tuple[int, Need]:
        moved, need = super().move()
        if self._looks:
            empty = need is Need.QUEUE and (self._ring is None or not self._ring.paused)
            self._end_looks(sum(empty or self.figures.taken >= enough for enough, _ in self._looks))
        return moved, need

    def _end_looks(self, count: int) -> None:
        for _ in range(count):
            self._looks.popleft()[1]()

    def begin(self, ring: Vringh, chain: Chain) -> int:
        request = Request.parse(chain, self._bound.config)
        self.figures.taken += 1
        if not request.whole:
            return self._refuse(ring, request, Response.FAILURE)
        if request.in_size and request.out_size and not self._bound.has(ScsiFeature.INOUT):
            return self._refuse(ring, request, Response.FAILURE)
        unit = None if request.lun is None else self._domain.find(request.lun)
        if unit is None:
            return self._refuse(ring, request, Response.BAD_TARGET)
        outcome = unit.perform(request.cdb, request.out, request.in_size)
        if isinstance(outcome, Response):
            return self._refuse(ring, request, outcome)
        if isinstance(outcome, Io):
            return self._do(ring, request, unit, outcome)
        given = copy_in(request.data, outcome.data)
        self._end(ring, request, outcome.sense, given, outcome.taken)
        return given + outcome.taken

    def _do(self, ring: Vringh, request: Request, unit: Unit, io: Io) -> int:
        """At once where the store lets it, straight between it and the driver's memory; else by a worker."""
        assert isinstance(unit, LogicalUnit)
        store, got = unit.store, 0
        data = take(request.data, io.given) if io.given else io.out
        try:
            small = io.size <= AT_ONCE and not io.stable
            if io.given and small:
                got = store.preadv(data, io.offset)
            elif io.kind is Kind.WRITE and small:
                got = store.pwritev(data, io.offset)
        except OSError as error:
            self._fail(ring, request, io, error, 0)
            return io.size
        if got and got == io.size:
            self._end(ring, request, None, io.given, io.taken)
            return got
        task = Task(request, unit, io, self)
        task.job = Job(
            io.kind,
            store,
            task.wanted,
            self.finished,
            task,
            io.offset,
            io.size,
            data,
            io.extents,
            io.pattern,
            io.stable,
            got,
        )
        self._bound.tasks.add(task)
        self.hand_over(task.job)
        return io.size

    def end(self, ring: Vringh, job: Job) -> None:
        task = job.request
        assert isinstance(task, Task)
        request, io = task.request, task.io
        given = job.done if io.given else 0
        if task.verdict is not None:
            self._answer(ring, request, task.verdict, Status.GOOD, None, given, given)
            self.figures.fail(task.verdict.name.lower())
        elif job.error is not None:
            self._fail(ring, request, io, job.error, given)
        elif job.differs is not None:
            self._end(ring, request, _miscompare(task.unit, io, job.differs), 0, io.taken)
        else:
            self._end(ring, request, None, given, io.taken)
        self._bound.tasks.ended(task)

    def _fail(self, ring: Vringh, request: Request, io: Io, error: OSError, given: int) -> None:
        response = FAILURES.get(error.errno or 0)
        if response is not None:
            self.figures.fail(response.name.lower())
            self._answer(ring, request, response, Status.GOOD, None, given, given)
        else:
            self.figures.fail(error.strerror or "short")
            sense = sense_of(io, error)
            self._bound.plug.check(sense)
            self._answer(ring, request, Response.OK, Status.CHECK_CONDITION, sense, given, given)

    def _refuse(self, ring: Vringh, request: Request, response: Response) -> int:
        self.figures.fail(response.name.lower())
        self._answer(ring, request, response, Status.GOOD, None, 0, 0)
        return 0

    def _end(self, ring: Vringh, request: Request, sense: Sense | None, given: int, taken: int) -> None:
        # A residual below the size of data-in says that all of data-out was processed, and so it was: nobody needs it.
        moved = given + (request.out_size if given else taken)
        self.figures.done += 1
        self.figures.bytes += moved
        status = Status.GOOD
        if sense is not None:
            status = Status.CHECK_CONDITION
            self._bound.plug.check(sense)
        self._answer(ring, request, Response.OK, status, sense, given, moved)

    def _answer(
        self,
        ring: Vringh,
        request: Request,
        response: Response,
        status: Status,
        sense: Sense | None,
        given: int,
        moved: int,
    ) -> None:
        """``given`` bytes of data-in stand behind the response, which is written last and as a whole."""
        request.answer(response, status, sense, moved)
        ring.complete(request.head, request.response_size + given)


def _end(jobs: Sequence[Job]) -> None:
    for job in jobs:
        assert isinstance(job.request, Task)
        job.request.over = True


def sense_of(io: Io, error: OSError) -> Sense:
    """What an initiator is told of what went wrong in a store."""
    if io.kind in (Kind.READ, Kind.COMPARE):
        return Sense(Key.MEDIUM_ERROR, Asc.UNRECOVERED_READ_ERROR)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Sense(Key.DATA_PROTECT, Asc.SPACE_ALLOCATION_FAILED)
    if error.errno in (errno.EROFS, errno.EPERM, errno.EACCES):
        return Sense(Key.DATA_PROTECT, Asc.WRITE_PROTECTED)
    return Sense(Key.MEDIUM_ERROR, Asc.WRITE_ERROR)


def _miscompare(unit: Unit, io: Io, at: int) -> Sense:
    """INFORMATION is the offset in the data-out buffer (SBC-3 section 4.18)."""
    return Sense(Key.MISCOMPARE, Asc.MISCOMPARE_DURING_VERIFY, information=at % max(1, io.taken))
