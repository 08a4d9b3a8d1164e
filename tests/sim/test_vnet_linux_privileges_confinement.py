"""A process that gives up its rights, and those that it has left. (A program of its own does: it is for good.)"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

import pytest

from support.paths import ROOT
from vnet.linux.privileges import confinement
from vnet.linux.privileges.confinement import Rights, is_confined, name_sandbox, rights_left, why_impossible
from vnet.linux.privileges.seccomp import why_no_filter

PROGRAM = """
import json, os, resource, sys, threading
import attrs, trio
from vnet.errors import PrivilegeError
from vnet.linux.privileges import confinement
from vnet.linux.privileges.calls import allowed_calls
from vnet.linux.privileges.confinement import confine, is_confined, name_sandbox, rights_left

confinement.ROUNDS, confinement.PAUSE, confinement.PATIENCE = 3, 0.01, 0.2
REFUSAL = "[Errno 13] Permission denied: 'disk'"
resource.setrlimit(resource.RLIMIT_NOFILE, (256, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
over, together = threading.Event(), threading.Barrier(3)

async def main():
    if sys.argv[1] == "busy":  # a thread whose work does not end
        threading.Thread(target=over.wait, daemon=True).start()
    else:  # three threads without work
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(trio.to_thread.run_sync, together.wait)
    before = name_sandbox(REFUSAL)
    failure = ""
    try:
        await confine(allowed_calls(strict=False, runs_command=False), None)
    except PrivilegeError as error:
        failure = str(error)
    open(sys.argv[2], "rb").close()  # files are not restricted without rules
    lines = open("/proc/self/limits").read().splitlines()
    limits = [line.split()[-3:-1] for line in lines if line.startswith(("Max core file size", "Max open files"))]
    answers = dict(
        before=before, after=name_sandbox(REFUSAL), other=name_sandbox("no such disk"), confined=is_confined(),
        failure=failure, rights=attrs.asdict(rights_left()), limits=limits,
    )
    over.set()
    os.write(1, json.dumps(answers).encode())

trio.run(main)
"""
REFUSAL = "[Errno 13] Permission denied: 'disk'"
needs_filter = pytest.mark.skipif(bool(why_no_filter()), reason=why_no_filter())


def run(threads: str, path: Path) -> dict[str, Any]:
    path.touch()
    argv = [sys.executable, "-P", "-W", "ignore", "-c", PROGRAM, threads, str(path)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")
    answers: dict[str, Any] = json.loads(done.stdout)
    return answers


@needs_filter
def test_a_confined_process_has_no_rights_left_and_says_so_in_errors(tmp_path: Path) -> None:
    answers = run("idle", tmp_path / "file")
    assert (answers["confined"], answers["failure"]) == (True, "")
    assert answers["rights"] == {"capabilities": 0, "no_new_privs": True, "filtered": True}
    core, (soft, hard) = answers["limits"]
    assert core == ["0", "0"]
    assert (soft, hard) == ("256", "256"), "the limit of open files cannot be raised"
    assert answers["before"] == REFUSAL
    assert answers["after"].startswith(f"{REFUSAL}: the sandbox of this process allows only the files")
    assert answers["other"] == "no such disk", "the sandbox is not why"


def test_a_thread_that_cannot_be_reached_keeps_the_process_from_being_confined(tmp_path: Path) -> None:
    answers = run("busy", tmp_path / "file")
    assert "a thread keeps its rights" in answers["failure"]
    assert not answers["confined"]
    assert not answers["rights"]["no_new_privs"]
    assert answers["after"] == REFUSAL


STATUS = "Name:\tx\nCapInh:\t{}\nCapPrm:\t{}\nCapEff:\t{}\nNoNewPrivs:\t{}\nSeccomp:\t{}\nNote without a value\n"


def put_threads(monkeypatch: pytest.MonkeyPatch, folder: Path, *threads: tuple[str, str, str, str, str]) -> None:
    """Stand in for /proc/self/task."""
    monkeypatch.setattr(confinement, "TASKS", folder)
    for number, values in enumerate(threads):
        (folder / str(number)).mkdir()
        (folder / str(number) / "status").write_text(STATUS.format(*values), encoding="ascii")


def test_a_right_that_one_thread_has_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    put_threads(monkeypatch, tmp_path, ("0", "0", "0", "1", "2"), ("0", "3", "1", "1", "0"), ("0", "0", "0", "1", "2"))
    assert rights_left() == Rights(capabilities=2, no_new_privs=True, filtered=False)


def test_a_thread_that_ends_meanwhile_has_no_rights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    put_threads(monkeypatch, tmp_path, ("0", "0", "0", "1", "2"))
    (tmp_path / "7").mkdir()
    assert rights_left() == Rights(capabilities=0, no_new_privs=True, filtered=True)


def test_without_proc_rights_are_unknown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert why_impossible() == ""
    monkeypatch.setattr(confinement, "TASKS", tmp_path / "task")
    assert rights_left() is None
    assert why_impossible() == "/proc is not mounted"


def test_a_process_with_its_rights_names_no_sandbox() -> None:
    assert not is_confined()
    assert name_sandbox(REFUSAL) == REFUSAL


async def test_a_limit_that_cannot_be_set_is_an_error_of_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python makes it a ValueError. Nothing was taken from this process then."""

    def refuse(*_: object) -> NoReturn:
        raise ValueError("not allowed to raise maximum limit")

    def restrict() -> NoReturn:
        raise AssertionError("restricted")

    monkeypatch.setattr("resource.setrlimit", refuse)
    monkeypatch.setattr("vnet.linux.privileges.confinement.drop_capabilities", restrict)
    with pytest.raises(PermissionError):
        await confinement.confine({}, None)
