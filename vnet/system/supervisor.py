"""A process for each served device, and their supervisor, which starts a process again when it fails."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Mapping, Sequence

import attrs
import trio

from vnet.errors import ControlError
from vnet.linux.child import Child, open_child
from vnet.system.claim import clean_up
from vnet.system.log import log_line
from vnet.system.state import read_state, system_names
from vnet.views.system import ProcessView

__all__ = ["Supervised", "Supervisor", "next_pause"]

STEADY = 10.0
"""Seconds of life after which the next start does not wait."""
PAUSE_MIN, PAUSE_MAX = 0.5, 30.0
"""Seconds between the end of a process that lived for less, and its next start."""
END = 5.0
"""Seconds that a process may take to end before it is killed."""
READ_MAX = 1 << 16
"""Bytes of one read of a process's output."""


def next_pause(pause: float, lived: float) -> float:
    """Return the seconds until the next start of a process that has lived so long, started after ``pause``."""
    return 0.0 if lived >= STEADY else min(max(2 * pause, PAUSE_MIN), PAUSE_MAX)


@attrs.define(eq=False)
class Supervised:
    """The process of a device."""

    name: str
    """Name of the device."""
    argv: Sequence[str]
    """Command that serves it. It prints its first text once it serves."""
    served: trio.Event = attrs.field(factory=trio.Event)
    """Set once it serves for the first time."""
    _pid: int | None = None
    _system: str = ""
    _starts: int = 0
    _since: float = 0.0
    _last_end: str = ""

    def view(self) -> ProcessView:
        """Return its state now."""
        age = 0.0 if self._pid is None else trio.current_time() - self._since
        return ProcessView(self._pid, self._system, age, max(0, self._starts - 1), self._last_end)

    async def supervise(self, show: Callable[[str], None], report: Callable[[str], None]) -> None:
        """Run the process, again after each failure, until it ends with status 0.

        Raises ControlError if it ends before it serves for the first time.
        """
        pause = 0.0
        while status := await self._run(show):
            self._last_end = _ending(status)
            if not self.served.is_set():
                raise ControlError(f"{self.name}: its process {self._last_end} before it served")
            pause = next_pause(pause, trio.current_time() - self._since)
            when = f" in {pause:g} s" if pause else ""
            report(f"{self.name}: its process {self._last_end}; it starts again{when}")
            await trio.sleep(pause)
        self._last_end = "ended"
        self.served.set()

    async def _run(self, show: Callable[[str], None]) -> int:
        """Start the process, and wait for its end. Returns its status, see `Child.wait`. Raises OSError."""
        self._starts += 1
        self._since = trio.current_time()
        status = None
        try:
            async with open_child(self.argv, END) as child, trio.open_nursery() as nursery:
                self._pid = child.pid
                nursery.start_soon(self._relay, child, show)
                status = await child.wait()
                nursery.cancel_scope.cancel()
            return status
        finally:
            self._pid = None
            if status != 0 and self._system:
                _clean_up(self._system)  # in no thread: a process that has one cannot start children safely

    async def _relay(self, child: Child, show: Callable[[str], None]) -> None:
        """Show what the first process prints, which later ones repeat, and note when one serves."""
        first = not self.served.is_set()
        async for text in child.output:
            if first:
                show(text.decode(errors="replace"))
            self._system = _system_of(child.pid) or self._system
            self.served.set()


class Supervisor:
    """The processes of some devices."""

    def __init__(self, commands: Mapping[str, Sequence[str]]) -> None:
        """``commands`` serve a device each, by its name."""
        self.processes = tuple(Supervised(name, argv) for name, argv in commands.items())

    async def run(
        self,
        show: Callable[[str], None],
        report: Callable[[str], None] = log_line,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Run all processes until each has ended with status 0; started once all serve.

        ``show`` takes what the first process of each device prints, ``report`` a line for each process that failed.
        If cancelled, end them all. Raises ControlError if one ends before it serves, OSError.
        """
        async with trio.open_nursery() as nursery:
            for process in self.processes:
                nursery.start_soon(process.supervise, show, report)
            for process in self.processes:
                await process.served.wait()
            task_status.started()


def _ending(status: int) -> str:
    return f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"


def _system_of(pid: int) -> str | None:
    """Return the name of the system that a process runs; None if it has none."""
    for name in system_names():
        state = read_state(name)
        if state is not None and state.pid == pid:
            return name
    return None


def _clean_up(system: str) -> None:
    """Remove what a killed process left, unless its keeper does, or another system has its name now."""
    with contextlib.suppress(ControlError, OSError):
        clean_up(system)
