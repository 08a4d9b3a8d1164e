"""The task set: commands in progress, and the task management functions on them (SAM-5 section 7)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import attrs

from drivers.devices.scsi.device.domain import ScsiDomain
from drivers.devices.scsi.device.request import VhostScsiRequest
from drivers.devices.scsi.device.unit import Io, Unit
from drivers.devices.scsi.layout import Lun, Response, Tmf
from drivers.devices.scsi.sense import Asc
from drivers.storage.workers import Job, Workers

__all__ = ["Task", "TaskFlow", "TaskSet"]


class TaskFlow(Protocol):
    """The request queue of a task."""

    def attached(self) -> bool:
        """Return whether the ring of the task is still there."""

    def on_withdrawn(self, jobs: Sequence[Job[Task]], /) -> None:
        """Answer the tasks of these jobs, which no worker has begun."""


@attrs.define(eq=False)
class _Waiter:
    """A task management function that waits for a number of tasks."""

    left: int
    callback: Callable[[], None]


@attrs.define(eq=False)
class Task:
    """A command whose I/O is queued for a worker or in progress."""

    request: VhostScsiRequest
    unit: Unit
    io: Io
    flow: TaskFlow
    io_ended: bool = False
    """Whether the I/O has ended or was withdrawn before it began."""
    job: Job[Task] | None = None
    verdict: Response | None = None
    """Response from a task management function; it overrides the result of the I/O."""
    waiters: list[_Waiter] = attrs.field(init=False, factory=list)

    def unfinished(self) -> bool:
        """Return whether the I/O is still needed and the driver's memory may be touched."""
        return self.verdict is None and self.flow.attached()


class TaskSet:
    """All tasks of a running device.

    A task that a worker has begun ends only when its I/O has ended: a write of an aborted command must not follow a
    later write of the same initiator.
    """

    def __init__(self, domain: ScsiDomain, workers: Workers) -> None:
        self._domain = domain
        self._workers = workers
        self._tasks: dict[Unit, dict[Task, None]] = {}
        self._waiters: dict[_Waiter, None] = {}

    def add(self, task: Task) -> None:
        self._tasks.setdefault(task.unit, {})[task] = None

    def forget(self, task: Task) -> None:
        """Remove a task that was answered, or never will be."""
        own = self._tasks[task.unit]
        del own[task]
        if not own:
            del self._tasks[task.unit]
        for waiter in task.waiters:
            waiter.left -= 1
            if not waiter.left and waiter in self._waiters:
                del self._waiters[waiter]
                waiter.callback()

    def of(self, unit: Unit, tag: int | None = None) -> list[Task]:
        """Return the tasks of a unit, or only those with this tag."""
        return [task for task in self._tasks.get(unit, ()) if tag is None or task.request.tag == tag]

    def cancel(self, tasks: Iterable[Task], verdict: Response, callback: Callable[[], None]) -> None:
        """End the tasks with response ``verdict``, and call ``callback`` when all are answered."""
        waiter = _Waiter(0, callback)
        jobs: dict[Job[Task], Task] = {}
        for task in tasks:
            waiter.left += 1
            task.waiters.append(waiter)
            if task.verdict is None:
                task.verdict = verdict
                assert task.job is not None
                jobs[task.job] = task
        if not waiter.left:
            callback()
            return
        self._waiters[waiter] = None
        by_flow: dict[TaskFlow, list[Job[Task]]] = {}
        for job in self._workers.withdraw(jobs) if jobs else ():
            by_flow.setdefault(jobs[job].flow, []).append(job)
        for flow, withdrawn in by_flow.items():
            flow.on_withdrawn(withdrawn)

    def forget_detached(self) -> None:
        """Remove tasks of queues that are gone, without a response, if their I/O has ended."""
        tasks = [task for own in self._tasks.values() for task in own]
        for task in [task for task in tasks if task.io_ended and not task.flow.attached()]:
            self.forget(task)

    def drop(self) -> None:
        """Remove all tasks and release the waiters after a reset, when the workers are idle."""
        self._tasks.clear()
        while self._waiters:
            self._waiters.popitem()[0].callback()

    def manage(self, function: int, lun: Lun | None, tag: int, callback: Callable[[Response], None]) -> None:
        """Perform a task management function, and call ``callback`` with its response."""
        unit = None if lun is None else self._domain.find(lun)
        if lun is None or unit is None:
            callback(Response.BAD_TARGET)
            return
        if function == Tmf.I_T_NEXUS_RESET:
            self._nexus_reset(lun.target, callback)
            return
        disk = self._domain.disk(lun)
        if disk is None:
            callback(Response.INCORRECT_LUN)
            return
        if function in (Tmf.QUERY_TASK, Tmf.QUERY_TASK_SET):
            tasks = self.of(disk, tag if function == Tmf.QUERY_TASK else None)
            callback(Response.FUNCTION_SUCCEEDED if tasks else Response.OK)
        elif function in _ABORTS:
            tasks = self.of(disk, tag if function == Tmf.ABORT_TASK else None)
            self.cancel(tasks, Response.ABORTED, lambda: callback(Response.OK))
        elif function == Tmf.LOGICAL_UNIT_RESET:
            disk.reset(Asc.BUS_DEVICE_RESET)
            self.cancel(self.of(disk), Response.RESET, lambda: callback(Response.OK))
        else:  # CLEAR_ACA: there is no ACA, because NACA is refused
            callback(Response.FUNCTION_REJECTED)

    def _nexus_reset(self, target: int, callback: Callable[[Response], None]) -> None:
        disks = [unit for lun, unit in self._domain.units.items() if lun.target == target]
        for disk in disks:
            disk.attention(Asc.I_T_NEXUS_LOSS)
        tasks = [task for disk in disks for task in self.of(disk)]
        self.cancel(tasks, Response.RESET, lambda: callback(Response.OK))


_ABORTS = frozenset((Tmf.ABORT_TASK, Tmf.ABORT_TASK_SET, Tmf.CLEAR_TASK_SET))
