"""A foreign program: its start, life and end, its use of CPU and memory, and its output."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from pathlib import Path

import attrs
import trio

from vnet.check.wire import PeerError

__all__ = ["Figures", "Program"]

END = 3.0
"""Seconds that it has to end before it is killed."""
OUTPUT = 2000
"""Most characters of its output in a report."""


@attrs.frozen
class Figures:
    """Use of a process."""

    cpu: float
    """Seconds of CPU of all its threads so far."""
    rss: int
    """Resident memory in bytes."""
    fds: int
    """Open file descriptors."""


def _session(leader: int) -> list[int]:
    """Return the processes of a session."""
    members = []
    for place in Path("/proc").glob("[0-9]*/stat"):
        try:
            session = place.read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()[3]
        except (OSError, IndexError):
            continue  # it ended meanwhile
        if int(session) == leader:
            members.append(int(place.parent.name))
    return members


class Program:
    """A process that is spawned, known by its id, or unknown."""

    def __init__(self, *, pid: int | None = None, command: list[str] | None = None) -> None:
        self._pid = pid
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None
        self._output = tempfile.TemporaryFile() if command else None  # noqa: SIM115  closed by `close`
        self._mark = 0

    @property
    def spawned(self) -> bool:
        return self._command is not None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else self._pid

    def spawn(self) -> None:
        """Start the process. Raises PeerError."""
        assert self._command is not None
        try:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=self._output,
                start_new_session=True,
            )
        except OSError as exc:
            raise PeerError(f"{self._command[0]} can't be started: {exc.strerror}") from None

    async def stop(self) -> None:
        """End the spawned process, by force if it does not end in time. Harmless if there is none."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        with trio.move_on_after(END, shield=True):
            while process.poll() is None:  # noqa: ASYNC110  there is no event for it
                await trio.sleep(0.01)
        for pid in _session(process.pid):  # its descendants too, in any process group
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        process.wait()

    def kill(self) -> None:
        """End the spawned process at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def alive(self) -> bool:
        """Return whether the process lives; True if it is unknown."""
        if self._process is not None:
            return self._process.poll() is None
        if self._pid is None:
            return True
        try:
            return Path(f"/proc/{self._pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] not in "ZX"
        except OSError:
            return False

    def end(self) -> str:
        """Return how the process ended."""
        code = None if self._process is None else self._process.poll()
        if code is None:
            return "ended"
        if code >= 0:
            return f"ended with status {code}"
        return f"was killed by {signal.Signals(-code).name}"

    @property
    def status(self) -> int | None:
        """Exit status of the spawned process; negative for a signal, None while it runs."""
        return None if self._process is None else self._process.poll()

    def figures(self) -> Figures | None:
        """Return the use of the process; None if it is unknown or gone."""
        pid = self.pid
        if pid is None:
            return None
        place = Path(f"/proc/{pid}")
        try:
            threads = list((place / "task").iterdir())
            cpu = sum(int((thread / "schedstat").read_text(encoding="ascii").split()[0]) for thread in threads)
            pages = int((place / "statm").read_text(encoding="ascii").split()[1])
            return Figures(cpu / 1e9, pages * os.sysconf("SC_PAGE_SIZE"), len(list((place / "fd").iterdir())))
        except (OSError, IndexError):
            return None

    async def spins(self, window: float) -> bool:
        """Return whether the process uses most of a core for ``window`` seconds."""
        before, start = self.figures(), trio.current_time()
        await trio.sleep(window)
        after, end = self.figures(), trio.current_time()
        if before is None or after is None:
            return False
        return after.cpu - before.cpu > 0.6 * (end - start)

    def output(self) -> str:
        """Return the end of what the spawned process printed since the last call."""
        if self._output is None:
            return ""
        end = os.fstat(self._output.fileno()).st_size
        start, self._mark = max(self._mark, end - OUTPUT), end
        return os.pread(self._output.fileno(), end - start, start).decode(errors="replace").strip()

    def close(self) -> None:
        if self._output is not None:
            self._output.close()
