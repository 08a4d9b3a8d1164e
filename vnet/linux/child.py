"""A child process that ends with this one, also if this one is killed."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial

import attrs
import trio

from vnet.linux.syscalls import LIBC, check
from vnet.linux.waits import wait_readable

__all__ = ["Child", "open_child"]

PR_SET_PDEATHSIG = 1


@attrs.frozen(eq=False)
class Child:
    """A running child process."""

    pid: int
    output: trio.lowlevel.FdStream
    """Its standard output."""
    _process: subprocess.Popen[bytes]
    _pidfd: int

    async def wait(self) -> int:
        """Wait for its end. Returns its exit status, or the negative number of the signal that killed it."""
        await wait_readable(self._pidfd)
        return self._process.wait()

    async def end(self, patience: float) -> int:
        """Send SIGTERM, after ``patience`` seconds SIGKILL, and wait as `wait` does."""
        self._process.terminate()
        with trio.move_on_after(patience):
            return await self.wait()
        self._process.kill()
        return await self.wait()


@asynccontextmanager
async def open_child(argv: Sequence[str], patience: float) -> AsyncIterator[Child]:
    """Start a program for the context, at whose end it is ended as `Child.end` does. Raises OSError.

    It is in a process group of its own, so that Ctrl-C at a terminal does not reach it; its standard input is empty.
    If this process ends first, however it does, the child gets SIGTERM.
    """
    # From this thread: the kernel sends the signal when the thread ends that has started the child.
    process = subprocess.Popen(  # noqa: ASYNC220
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        process_group=0,
        preexec_fn=partial(_end_with, os.getpid()),  # noqa: PLW1509  it takes no lock, and imports nothing
    )
    assert process.stdout is not None
    output = trio.lowlevel.FdStream(os.dup(process.stdout.fileno()))
    process.stdout.close()
    pidfd = os.pidfd_open(process.pid)
    child = Child(process.pid, output, process, pidfd)
    try:
        yield child
    finally:
        with trio.CancelScope(shield=True):
            if process.poll() is None:
                await child.end(patience)
            await output.aclose()
        os.close(pidfd)


def _end_with(parent: int) -> None:
    """Have the kernel send SIGTERM to this process when its parent ends; exit if it has ended already."""
    check(LIBC.prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0))
    if os.getppid() != parent:
        os._exit(1)
