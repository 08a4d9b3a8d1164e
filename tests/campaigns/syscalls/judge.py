"""Runs a scenario with one fault, and judges it by what its user meets."""

from __future__ import annotations

import errno
import os
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import attrs
import trio

from campaigns.syscalls.machine import Fault, Process, Server, report
from campaigns.syscalls.scenario import PATIENCE, Scenario
from support.machine import NETNS, RUN_DIR

__all__ = ["Outcome", "play"]

START = 60.0
"""Seconds that a command may take until it serves, or to its end if it ends by itself."""
END = 30.0
"""Seconds that a command may take to its end after a signal."""
REST = 20.0
"""Seconds that files of former clients may stay open."""
SIZE = 1 << 20
WATCH = "epoll_ctl"
"""Call whose ENOSPC is a shortage as well: the user has too many watches."""
LOSES = "fdatasync"
"""Call whose failure loses data for good: flushes of that disk fail from then on."""
SHORTAGES = {errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
"""Errors of the whole process or machine, whose line need not name a file."""
BROKEN_WORDS = ("Traceback", "Exception ignored", "Task exception", "Fatal Python error")


@attrs.frozen
class Outcome:
    """The judgement of one run."""

    kind: str
    """Refused: it ended with a line before it served; ended: it ended with a line while it served, or at its end;
    served: all clients were served; degraded: those of the time of the fault were not, later ones were."""
    hit: bool
    wrong: str = ""
    """The rule that was broken; empty if none was."""
    sites: Mapping[str, tuple[int, list[int]]] = attrs.field(factory=dict)
    modules: tuple[str, ...] = ()
    files: Counter[str] = attrs.field(factory=Counter)


class Wrong(Exception):
    """A rule was broken."""


def is_shortage(fault: Fault) -> bool:
    """Return whether an error is one of the whole process or machine."""
    return fault.error in SHORTAGES or fault.site.startswith(WATCH)


def play(server: Server, scenario: Scenario, folder: Path, fault: Fault | None, usual: Counter[str] | None) -> Outcome:
    """Run a scenario in an empty folder. ``usual`` are the open files of a run without a fault."""
    for name, text in scenario.files.items():
        (folder / name).write_text(text)
    with (folder / "disk.img").open("wb") as image:
        image.truncate(SIZE)
    before = _left(folder)
    process = server.start(scenario.command.split(), folder, fault)
    wrong, kind, files = "", "served", Counter[str]()
    try:
        kind, files = _play(process, scenario, folder, fault, usual)
        _check_words(process, kind, fault)
        _check_left(process, before, folder)
    except Wrong as exc:
        wrong = str(exc)
    finally:
        if process.status() is None:
            process.kill()
            process.status(END)
        for text in _left(folder) - before:
            _remove(text)
    reported = report(folder)
    if fault is None:
        assert reported is not None, process.output("err")
        return Outcome(kind, False, wrong, reported["sites"], tuple(reported["modules"]), files)
    return Outcome(kind, reported == "hit", wrong and f"{wrong}\n{process.output('err')[-1500:]}")


def _play(
    process: Process, scenario: Scenario, folder: Path, fault: Fault | None, usual: Counter[str] | None
) -> tuple[str, Counter[str]]:
    files = Counter[str]()
    if scenario.ends:
        _wait(lambda: process.status() is not None, START, "did not end")
        return ("served" if process.status() == 0 else "refused"), files
    _wait(lambda: process.status() is not None or "Ctrl-C" in process.output(), START, "neither served nor ended")
    if process.status() is not None:
        return "refused", files
    first = _use(scenario, folder)
    again = _use(scenario, folder) if first and process.status() is None else ""
    if process.status() is not None:
        raise Wrong(f"ended with status {process.status()} while it served")
    if again and not (fault is not None and fault.site.startswith(LOSES)):
        raise Wrong(f"clients are served no longer: {again}")
    files = Counter(process.files())
    if usual is not None:
        _wait(lambda: not Counter(process.files()) - usual, REST, lambda: f"open: {Counter(process.files()) - usual}")
    process.kill(signal.SIGTERM)
    _wait(lambda: process.status() is not None, END, "did not end after SIGTERM")
    if process.status() != 0:
        return "ended", files
    return ("degraded" if first else "served"), files


def _use(scenario: Scenario, folder: Path) -> str:
    """Be the clients; return why they were not served, "" if they were."""

    async def use() -> None:
        with trio.fail_after(2 * PATIENCE):
            await scenario.use(folder)

    try:
        trio.run(use)
    except Exception as exc:  # noqa: BLE001  all that a client may meet
        return f"{type(exc).__name__}: {exc}"
    return ""


def _wait(done: Callable[[], object], seconds: float, why: str | Callable[[], str]) -> None:
    end = time.monotonic() + seconds
    while not done():
        if time.monotonic() > end:
            raise Wrong(why if isinstance(why, str) else why())
        time.sleep(0.005)


def _check_words(process: Process, kind: str, fault: Fault | None) -> None:
    """An error is one line, or a few; it is no traceback."""
    text, status = process.output("err"), process.status()
    for word in BROKEN_WORDS:
        if word in text:
            raise Wrong(f"{word}, status {status}")
    if kind in ("refused", "ended"):
        lines = text.strip().splitlines()
        if status is None or status < 0 or status > 2:
            raise Wrong(f"ended with status {status}")
        ours = [line for line in lines if line.startswith(("vnet: ", "Error: "))]
        if not ours:
            raise Wrong(f"ended with status {status}, and no line that says why")
        if fault is not None and not is_shortage(fault) and ours == [f"vnet: {os.strerror(fault.error)}"]:
            raise Wrong("its line does not say for what")


def _left(folder: Path) -> set[str]:
    """Return what is there besides the process: namespaces, files of systems, sockets and interfaces."""
    return {
        *(str(path) for path in NETNS.glob("*")),
        *(str(path) for path in RUN_DIR.glob("*")),
        *(str(path) for path in folder.iterdir() if path.is_socket() or path.is_symlink()),
        *(f"interface {name}" for _, name in socket.if_nameindex()),
    }


def _check_left(process: Process, before: set[str], folder: Path) -> None:
    """All that it made is gone; but a line may say what could not be removed."""
    text = process.output("err")
    end = time.monotonic() + END
    while left := {each for each in _left(folder) - before if Path(each).name not in text}:
        if time.monotonic() > end or not any(each.startswith("interface") for each in left):
            raise Wrong(f"left behind: {', '.join(sorted(left))}")
        time.sleep(0.01)


def _remove(left: str) -> None:
    path = Path(left)
    if path.parent == NETNS:
        from vnet.linux.netns import remove_netns

        remove_netns(path.name)
    elif path.is_absolute():
        path.unlink(missing_ok=True)
