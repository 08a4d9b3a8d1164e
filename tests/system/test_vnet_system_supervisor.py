"""A supervisor of small programs: what it starts again, what it does not, and that all end with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from vnet.errors import ControlError, leaves
from vnet.system import supervisor
from vnet.system.supervisor import Supervisor

pytestmark = pytest.mark.usefixtures("no_leaks")

PATIENCE = 60.0
SERVES = "echo serving $$; exec sleep 1000"
STUBBORN = "trap '' TERM; echo serving; exec sleep 1000"


@pytest.fixture(autouse=True)
def run_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No system of these programs is looked for, and they are started again at once."""
    monkeypatch.setattr(supervisor, "system_names", list)
    monkeypatch.setattr(supervisor, "PAUSE_MIN", 0.01)


async def until(holds: Callable[[], object]) -> None:
    with trio.fail_after(PATIENCE):
        while not holds():  # noqa: ASYNC110  processes wake no task
            await trio.sleep(0.01)


async def test_a_process_that_fails_is_started_again_and_the_others_run_on() -> None:
    shown: list[str] = []
    lines: list[str] = []
    supervised = Supervisor({"a": ["sh", "-c", SERVES], "b": ["sh", "-c", SERVES]})
    first, other = supervised.processes
    async with trio.open_nursery() as nursery:
        await nursery.start(supervised.run, shown.append, lines.append)
        assert sorted("".join(shown).splitlines()) == sorted(f"serving {each.view().pid}" for each in (first, other))
        before = other.view().pid
        for number, name in ((signal.SIGKILL, "SIGKILL"), (signal.SIGSEGV, "SIGSEGV")):
            pid = first.view().pid
            assert pid is not None
            os.kill(pid, number)
            await until(lambda: first.view().pid not in (None, pid))  # noqa: B023
            assert lines[-1].startswith(f"a: its process was killed by {name}; it starts again")
            assert first.view().last_end == f"was killed by {name}"
        view = other.view()
        assert (view.pid, view.restarts, view.last_end) == (before, 0, "")
        assert (first.view().restarts, len(lines), len(shown)) == (2, 2, 2)
        nursery.cancel_scope.cancel()


async def test_it_ends_once_each_process_has_ended_well() -> None:
    lines: list[str] = []
    supervised = Supervisor({"a": ["sh", "-c", "echo serving"], "b": ["sh", "-c", "true"]})
    with trio.fail_after(PATIENCE):
        await supervised.run(lambda _: None, lines.append)
    assert lines == []
    assert [each.view().last_end for each in supervised.processes] == ["ended", "ended"]


async def test_a_process_that_never_served_ends_all() -> None:
    supervised = Supervisor({"a": ["sh", "-c", SERVES], "b": ["sh", "-c", "exit 3"]})
    with trio.fail_after(PATIENCE), pytest.raises(ExceptionGroup) as caught:
        await supervised.run(lambda _: None)
    [error] = leaves(caught.value)
    assert isinstance(error, ControlError)
    assert str(error) == "b: its process ended with status 3 before it served"


async def test_a_process_that_does_not_end_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "END", 0.1)
    supervised = Supervisor({"a": ["sh", "-c", STUBBORN]})
    async with trio.open_nursery() as nursery:
        await nursery.start(supervised.run, lambda _: None)
        nursery.cancel_scope.cancel()
    assert supervised.processes[0].view().pid is None


NOTES_TERM = "trap 'echo ended >> $0; exit' TERM; echo up; while :; do sleep 0.1; done"
PARENT = """
import sys, trio
from vnet.linux.child import open_child
async def main():
    async with open_child(["sh", "-c", *sys.argv[1:]], 5) as child:
        print(await child.output.receive_some(10), child.pid, flush=True)
        await trio.sleep_forever()
trio.run(main)
"""


def test_a_child_gets_sigterm_if_its_parent_is_killed(tmp_path: Path) -> None:
    note = tmp_path / "note"
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, NOTES_TERM, str(note)], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        line = parent.stdout.readline()
        child = os.pidfd_open(int(line.split()[-1]))
        try:
            parent.kill()
            trio.run(trio.lowlevel.wait_readable, child)
        finally:
            os.close(child)
    assert note.read_text() == "ended\n"
