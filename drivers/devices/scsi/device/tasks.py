"""The task set: commands that units have begun and not ended, and the functions that manage them (SAM-5 section 7)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import attrs

from drivers.devices.scsi.device.domain import ScsiDomain
from drivers.devices.scsi.device.request import Request
from drivers.devices.scsi.device.unit import Io, Unit
from drivers.devices.scsi.layout import Lun, Response, Tmf
from drivers.devices.scsi.sense import Asc
from drivers.storage.workers import Job, Workers

__all__ = ["Task", "TaskFlow", "TaskSet"]


class TaskFlow(Protocol):
    """The queue that a task came from."""

    def held(self) -> bool:
        """Whether it is still there."""

    def withdrawn(self, jobs: Sequence[Job], /) -> None:
        """Answer tasks by their jobs, which no worker began."""


@attrs.define(eq=False)
class _Waiter:
    """A task management function that waits until a number of tasks have ended."""

    left: int
    over: Callable[[], None]


@attrs.define(eq=False)
class Task:
    """A command that a worker has, or will have."""

    request: Request
    unit: Unit
    io: Io
    flow: TaskFlow
    over: bool = False
    """Whether its I/O has ended, or never begins."""
    job: Job | None = None
    verdict: Response | None = None
    """How it ends whatever the worker says, once a task management function ended it."""
    waiters: list[_Waiter] = attrs.field(init=False, factory=list)

    def wanted(self) -> bool:
        return self.verdict is None and self.flow.held()


class TaskSet:
    """All tasks of a device that runs. One that a worker has begun ends only when its I/O has: no write of an aborted
    command may come after one that its initiator made since."""

    def __init__(self, domain: ScsiDomain, workers: Workers) -> None:
        self._domain = domain
        self._workers = workers
        self._tasks: dict[Unit, dict[Task, None]] = {}
        self._waiters: dict[_Waiter, None] = {}

    def add(self, task: Task) -> None:
        self._tasks.setdefault(task.unit, {})[task] = None

    def ended(self, task: Task) -> None:
        """Forget a task that was answered, or never will be."""
        own = self._tasks[task.unit]
        del own[task]
        if not own:
            del self._tasks[task.unit]
        for waiter in task.waiters:
            waiter.left -= 1
            if not waiter.left and waiter in self._waiters:
                del self._waiters[waiter]
                waiter.over()

    def of(self, unit: Unit, tag: int | None = None) -> list[Task]:
        """The tasks of a unit, or those with that tag."""
        return [task for task in self._tasks.get(unit, ()) if tag is None or task.request.tag == tag]

    def cancel(self, tasks: Iterable[Task], verdict: Response, over: Callable[[], None]) -> None:
        """End them with that response, and call ``over`` when all are answered."""
        waiter = _Waiter(0, over)
        jobs: dict[Job, Task] = {}
        for task in tasks:
            waiter.left += 1
            task.waiters.append(waiter)
            if task.verdict is None:
                task.verdict = verdict
                assert task.job is not None
                jobs[task.job] = task
        if not waiter.left:
            over()
            return
        self._waiters[waiter] = None
        by_flow: dict[TaskFlow, list[Job]] = {}
        for job in self._workers.withdraw(jobs) if jobs else ():
            by_flow.setdefault(jobs[job].flow, []).append(job)
        for flow, withdrawn in by_flow.items():
            flow.withdrawn(withdrawn)

    def lose(self) -> None:
        """End the tasks of queues that are gone, unanswered, each as soon as its I/O has ended."""
        for task in [task for own in self._tasks.values() for task in own if task.over and not task.flow.held()]:
            self.ended(task)

    def drop(self) -> None:
        """The device was reset, and its workers are idle: nobody is answered, and nobody waits for that any more."""
        self._tasks.clear()
        while self._waiters:
            self._waiters.popitem()[0].over()

    def manage(self, function: int, lun: Lun | None, tag: int, over: Callable[[Response], None]) -> None:
        """Do a task management function, and call ``over`` with what it is answered with."""
        unit = None if lun is None else self._domain.find(lun)
        if lun is None or unit is None:
            over(Response.BAD_TARGET)
            return
        if function == Tmf.I_T_NEXUS_RESET:
            self._nexus_reset(lun.target, over)
            return
        disk = self._domain.disk(lun)
        if disk is None:
            over(Response.INCORRECT_LUN)
            return
        if function in (Tmf.QUERY_TASK, Tmf.QUERY_TASK_SET):
            found = self.of(disk, tag if function == Tmf.QUERY_TASK else None)
            over(Response.FUNCTION_SUCCEEDED if found else Response.OK)
        elif function in _SELECTS:
            tasks = self.of(disk, tag if function == Tmf.ABORT_TASK else None)
            self.cancel(tasks, Response.ABORTED, lambda: over(Response.OK))
        elif function == Tmf.LOGICAL_UNIT_RESET:
            disk.reset(Asc.BUS_DEVICE_RESET)
            self.cancel(self.of(disk), Response.RESET, lambda: over(Response.OK))
        else:  # there is no ACA, since NACA is refused
            over(Response.FUNCTION_REJECTED)

    def _nexus_reset(self, target: int, over: Callable[[Response], None]) -> None:
        disks = [unit for lun, unit in self._domain.units.items() if lun.target == target]
        for disk in disks:
            disk.attention(Asc.I_T_NEXUS_LOSS)
        tasks = [task for disk in disks for task in self.of(disk)]
        self.cancel(tasks, Response.RESET, lambda: over(Response.OK))


_SELECTS = frozenset((Tmf.ABORT_TASK, Tmf.ABORT_TASK_SET, Tmf.CLEAR_TASK_SET))
