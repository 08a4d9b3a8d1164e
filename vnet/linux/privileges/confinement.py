"""Takes the rights of this process, of all its threads, for good; says what it is left with."""

from __future__ import annotations

import errno
import os
import resource
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import attrs
import trio

from vnet.errors import PrivilegeError
from vnet.linux.privileges.calls import Argument
from vnet.linux.privileges.capabilities import drop_capabilities
from vnet.linux.privileges.landlock import Ruleset, landlock_version
from vnet.linux.privileges.seccomp import filter_calls, why_no_filter
from vnet.linux.threads import run_in_thread

__all__ = ["DENIED", "OFF", "RESTART", "Rights", "confine", "is_confined", "name_sandbox", "rights_left"]
__all__ += ["why_impossible", "why_incomplete"]

ROUNDS = 100
"""Attempts to reach all threads; a thread that works is reached once it has finished."""
PAUSE = 0.05
"""Seconds between two attempts."""
PATIENCE = 10.0
"""Seconds that threads wait for one another in one attempt."""
LIMITS = {"core": resource.RLIMIT_CORE, "message queues": resource.RLIMIT_MSGQUEUE}
"""Limits that become 0. That of open files cannot be raised any more."""
TASKS = Path("/proc/self/task")
OFF = "--sandbox=off"
"""Option that leaves a process its rights."""
RESTART = f"start it with {OFF} for that"
DENIED = {errno.EACCES, errno.EPERM}
"""Errors with which the kernel refuses a right."""
_CONFINED = threading.Event()


@attrs.frozen
class Rights:
    """Rights that a process still has, as the kernel says."""

    capabilities: int
    """Number of capabilities of the thread that has most."""
    no_new_privs: bool
    filtered: bool
    """Whether a filter forbids system calls."""


def is_confined() -> bool:
    """Return whether `confine` has taken the rights of this process."""
    return _CONFINED.is_set()


def name_sandbox(message: str) -> str:
    """Return an error message, with the sandbox named if it may be why the kernel refused something."""
    if is_confined() and any(os.strerror(number) in message for number in DENIED):
        return f"{message}: the sandbox of this process allows only the files that it had at its start; {RESTART}"
    return message


def why_incomplete() -> str:
    """Return what this machine lacks for a complete sandbox; empty if it lacks nothing."""
    return "; ".join(filter(None, (why_no_filter(), "" if landlock_version() else "this kernel has no Landlock")))


def why_impossible() -> str:
    """Return why this process cannot give up its rights at all; empty if it can."""
    return "" if TASKS.exists() else "/proc is not mounted"


async def confine(calls: Mapping[str, Argument | None], rules: Ruleset | None) -> None:
    """Take capabilities, files and system calls from all threads, and from those that they start.

    Without ``rules`` files are not restricted; without libseccomp calls are not. Raises PrivilegeError if a thread
    keeps rights, OSError.
    """
    filters = not why_no_filter()  # imports what files below do not allow any more
    for limit in LIMITS.values():
        _set_limit(limit, 0)
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    _set_limit(resource.RLIMIT_NOFILE, soft)

    def restrict() -> None:
        drop_capabilities()
        if rules is not None:
            rules.restrict()

    done = {threading.get_native_id()}
    restrict()  # threads that start from now on have no rights
    for _ in range(ROUNDS):
        await _reach_threads(done, restrict)
        if _threads() <= done:
            break
        await trio.sleep(PAUSE)
    left = rights_left()
    if left is None or left.capabilities or not left.no_new_privs:
        raise PrivilegeError("the sandbox is not complete: a thread keeps its rights", OFF)
    if filters:
        filter_calls(calls)
    _CONFINED.set()


def _set_limit(limit: int, number: int) -> None:
    """Set a limit of this process for good. Raises OSError."""
    try:
        resource.setrlimit(limit, (number, number))
    except ValueError:  # so Python calls EPERM
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM)) from None


async def _reach_threads(done: set[int], call: Callable[[], None]) -> None:
    """Run ``call`` in all threads that have no work and are not ``done``, and add them there."""
    others = len(_threads()) - 1
    if not others:
        return
    barrier = threading.Barrier(others)
    limiter = trio.CapacityLimiter(others)

    def restrict_and_wait() -> None:
        own = threading.get_native_id()
        if own not in done:
            call()
            done.add(own)
        try:
            barrier.wait(PATIENCE)  # so that no thread takes the job of another one
        except threading.BrokenBarrierError:
            pass

    async with trio.open_nursery() as nursery:
        for _ in range(others):
            nursery.start_soon(lambda: run_in_thread(restrict_and_wait, limiter=limiter))


def _threads() -> set[int]:
    return {int(path.name) for path in TASKS.iterdir()}


def rights_left() -> Rights | None:
    """Return the rights of this process: a right that one thread has counts. None if /proc is not mounted."""
    if not TASKS.exists():
        return None
    threads = [status for path in TASKS.iterdir() if (status := _status(path)) is not None]
    return Rights(
        max(each.capabilities for each in threads),
        all(each.no_new_privs for each in threads),
        all(each.filtered for each in threads),
    )


def _status(task: Path) -> Rights | None:
    """Return the rights of a thread; None if it has ended."""
    try:
        lines = (task / "status").read_text(encoding="ascii", errors="replace").splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return None
    values = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    sets = (int(values[name], 16) for name in ("CapEff", "CapPrm", "CapInh"))
    return Rights(max(each.bit_count() for each in sets), values["NoNewPrivs"] == "1", values["Seccomp"] == "2")
