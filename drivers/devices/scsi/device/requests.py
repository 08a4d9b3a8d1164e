"""A request queue of a vhost-scsi device: commands, run at once or by a worker, and their responses."""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from drivers.bus.vhost import DeviceQueue
from drivers.devices.scsi.device.request import VhostScsiRequest
from drivers.devices.scsi.device.session import ScsiSession
from drivers.devices.scsi.device.tasks import Task
from drivers.devices.scsi.device.unit import Io, Unit
from drivers.devices.scsi.layout import (
    Response,
    ScsiFeature,
    ScsiStatus,
)
from drivers.devices.scsi.sense import Asc, Sense, SenseKey
from drivers.flow.figures import RequestFigures
from drivers.flow.pump import QUEUE, Wait
from drivers.storage.job_flow import AT_ONCE, JobFlow
from drivers.storage.workers import IoKind, Job
from rings.chain import Chain, copy_in, take

__all__ = ["VhostScsiRequestFlow"]

FAILURES: dict[int, Response] = {
    errno.ENOLINK: Response.TRANSPORT_FAILURE,
    errno.ENODEV: Response.TRANSPORT_FAILURE,
    errno.ENOTCONN: Response.TRANSPORT_FAILURE,
    errno.EREMOTEIO: Response.TARGET_FAILURE,
    errno.EBADE: Response.NEXUS_FAILURE,
    errno.EBUSY: Response.BUSY,
    errno.ENOMEM: Response.BUSY,
}
"""Response per store error that means "unreachable" or "busy"; the errno values are those of Linux's block layer."""


class VhostScsiRequestFlow(JobFlow[Task]):
    """One request queue."""

    def __init__(self, queue: DeviceQueue, session: ScsiSession, figures: RequestFigures) -> None:
        super().__init__(queue, session.workers, figures)
        self._session = session
        self._domain = session.plug.domain
        self._catch_ups: deque[tuple[int, Callable[[], None]]] = deque()
        """(number of requests taken at which the flow has caught up, callback)."""

    async def run(self, settle: Callable[[], Awaitable[None]] | None) -> None:
        try:
            await super().run(settle)
        finally:
            self._session.tasks.forget_detached()

    def stop(self) -> None:
        super().stop()
        self._end_catch_ups(len(self._catch_ups))

    def on_finished(self, jobs: Sequence[Job[Task]]) -> None:
        _mark_io_ended(jobs)
        super().on_finished(jobs)
        if not self.attached():
            self._session.tasks.forget_detached()

    def on_withdrawn(self, jobs: Sequence[Job[Task]]) -> None:
        _mark_io_ended(jobs)
        super().on_withdrawn(jobs)
        if not self.attached():
            self._session.tasks.forget_detached()

    def catch_up(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` once this flow, in its own turns, has taken all requests available now."""
        ring = self._ring
        if ring is None or not self.serving or not self.attached():
            callback()
        else:
            self._catch_ups.append((self.figures.taken + ring.num, callback))
            self.queue.signal.wake()

    def move(self) -> tuple[int, Wait]:
        moved, wait = super().move()
        if self._catch_ups:
            empty = wait is QUEUE and (self._ring is None or not self._ring.paused)
            self._end_catch_ups(sum(empty or self.figures.taken >= target for target, _ in self._catch_ups))
        return moved, wait

    def _end_catch_ups(self, count: int) -> None:
        for _ in range(count):
            self._catch_ups.popleft()[1]()

    def begin(self, chain: Chain) -> int:
        request = VhostScsiRequest.parse(chain, self._session.config)
        self.figures.taken += 1
        if not request.complete:
            return self._refuse(request, Response.FAILURE)
        if request.in_size and request.out_size and not self._session.has(ScsiFeature.INOUT):
            return self._refuse(request, Response.FAILURE)
        unit = None if request.lun is None else self._domain.find(request.lun)
        if unit is None:
            return self._refuse(request, Response.BAD_TARGET)
        outcome = unit.perform(request.cdb, request.out, request.in_size)
        if isinstance(outcome, Response):
            return self._refuse(request, outcome)
        if isinstance(outcome, Io):
            return self._start_io(request, unit, outcome)
        data_in = copy_in(request.data, outcome.data)
        self._end(request, outcome.sense, data_in, outcome.out_used)
        return data_in + outcome.out_used

    def _start_io(self, request: VhostScsiRequest, unit: Unit, io: Io) -> int:
        """Copy between store and driver memory at once if the store can, else submit a job. Returns its bytes."""
        store, moved = io.store, 0
        data = take(request.data, io.in_size) if io.in_size else io.out
        try:
            small = io.size <= AT_ONCE and not io.stable
            if io.kind is IoKind.READ and io.in_size and small:
                moved = store.preadv(data, io.offset)
            elif io.kind is IoKind.WRITE and small and not self._session.workers.excludes(store):
                moved = store.pwritev(data, io.offset)
        except OSError as error:
            self._fail(request, io, error, 0)
            return io.size
        if moved and moved == io.size:
            self._end(request, None, io.in_size, io.out_used)
            return moved
        task = Task(request, unit, io, self)
        task.job = Job(
            io.kind,
            store,
            task.unfinished,
            self.on_finished,
            task,
            offset=io.offset,
            size=io.size,
            data=data,
            extents=io.extents,
            pattern=io.pattern,
            stable=io.stable,
            render=io.render,
            done=moved,
        )
        self._session.tasks.add(task)
        self.submit_job(task.job)
        return io.size

    def end(self, job: Job[Task]) -> None:
        task = job.request
        request, io = task.request, task.io
        data_in = job.done if io.in_size else 0
        if task.verdict is not None:
            self._answer(request, task.verdict, data_in=data_in, moved=data_in)
            self.figures.fail(task.verdict.name.lower())
        elif job.error is not None:
            self._fail(request, io, job.error, data_in)
        elif job.differs is not None:
            self._end(request, _miscompare(task.unit, io, job.differs), 0, io.out_used)
        else:
            self._end(request, None, data_in, io.out_used)
        self._session.tasks.forget(task)

    def _fail(self, request: VhostScsiRequest, io: Io, error: OSError, data_in: int) -> None:
        response = FAILURES.get(error.errno or 0)
        if response is not None:
            self.figures.fail(response.name.lower())
            self._answer(request, response, data_in=data_in, moved=data_in)
        else:
            self.figures.fail(error.strerror or "short")
            sense = sense_of(io, error)
            self._session.plug.count_check(sense)
            self._answer(request, Response.OK, sense, data_in=data_in, moved=data_in)

    def _refuse(self, request: VhostScsiRequest, response: Response) -> int:
        self.figures.fail(response.name.lower())
        self._answer(request, response)
        return 0

    def _end(self, request: VhostScsiRequest, sense: Sense | None, data_in: int, out_used: int) -> None:
        # After data-in, all of data-out counts as moved: a residual below the size of data-in implies it.
        moved = data_in + (request.out_size if data_in else out_used)
        self.figures.done += 1
        self.figures.bytes += moved
        if sense is not None:
            self._session.plug.count_check(sense)
        self._answer(request, Response.OK, sense, data_in=data_in, moved=moved)

    def _answer(
        self,
        request: VhostScsiRequest,
        response: Response,
        sense: Sense | None = None,
        *,
        data_in: int = 0,
        moved: int = 0,
    ) -> None:
        """Write the response last and as a whole, and complete the chain. ``data_in``: bytes of data-in written."""
        status = ScsiStatus.GOOD if sense is None else ScsiStatus.CHECK_CONDITION
        request.answer(response, status, sense, moved)
        self.complete(request.head, request.response_size + data_in)


def _mark_io_ended(jobs: Sequence[Job[Task]]) -> None:
    for job in jobs:
        job.request.io_ended = True


def sense_of(io: Io, error: OSError) -> Sense:
    """Return the sense data that reports a store's error."""
    if io.kind in (IoKind.READ, IoKind.COMPARE):
        return Sense(SenseKey.MEDIUM_ERROR, Asc.UNRECOVERED_READ_ERROR)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Sense(SenseKey.DATA_PROTECT, Asc.SPACE_ALLOCATION_FAILED)
    if error.errno in (errno.EROFS, errno.EPERM, errno.EACCES):
        return Sense(SenseKey.DATA_PROTECT, Asc.WRITE_PROTECTED)
    return Sense(SenseKey.MEDIUM_ERROR, Asc.WRITE_ERROR)


def _miscompare(unit: Unit, io: Io, at: int) -> Sense:
    """Return the sense of a miscompare. INFORMATION is the offset in the data-out buffer (SBC-3 section 4.18)."""
    return Sense(SenseKey.MISCOMPARE, Asc.MISCOMPARE_DURING_VERIFY, information=at % max(1, io.out_used))
