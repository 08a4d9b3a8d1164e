"""Landlock restricts one thread and those that it starts. (A program of its own is restricted: it is for good.)"""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from pathlib import Path

import pytest

from support.paths import ROOT
from vnet.linux.privileges import landlock
from vnet.linux.privileges.landlock import Access, FileRule, Ruleset, landlock_version

needs_landlock = pytest.mark.skipif(not landlock_version(), reason="this kernel has no Landlock")

PROGRAM = """
import errno, json, os, sys, threading
from pathlib import Path
from vnet.linux.privileges.capabilities import drop_capabilities
from vnet.linux.privileges.landlock import Access, FileRule, Ruleset

folder = Path(sys.argv[1])
read = Access.READ_FILE | Access.READ_DIR

def tries():
    return {name: refuse(call) for name, call in TRIES.items()}

def refuse(call):
    try:
        call()
    except OSError as error:
        return errno.errorcode[error.errno]
    return "done"

TRIES = {
    "read below a folder": (folder / "read" / "deep" / "file").read_bytes,
    "write below it": lambda: open(folder / "read" / "deep" / "file", "r+b").close(),
    "list it": lambda: os.listdir(folder / "read"),
    "read a file with a rule": (folder / "one").read_bytes,
    "write that file": lambda: open(folder / "one", "r+b").close(),
    "read its neighbour": (folder / "other").read_bytes,
    "list the folder of both": lambda: os.listdir(folder),
    "make a file": lambda: (folder / "new").write_bytes(b""),
}

def start(call):
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    return thread

results = {}
go = threading.Event()
earlier = start(lambda: (go.wait(), results.update(earlier=tries())))
rules = [
    FileRule(folder / "read", read),
    FileRule(folder / "one", read | Access.WRITE_FILE | Access.MAKE_REG),
    FileRule(folder / "missing", read),
]
ruleset = Ruleset(rules)
drop_capabilities()
results["before"] = tries()
(folder / "new").unlink()
ruleset.restrict()
ruleset.close()
results["own"] = tries()
start(lambda: results.update(later=tries())).join()
go.set()
earlier.join()
os.write(1, json.dumps(results).encode())
"""
ALLOWED = {"read below a folder", "list it", "read a file with a rule", "write that file"}


@needs_landlock
def test_a_thread_and_those_that_it_starts_open_only_what_rules_allow(tmp_path: Path) -> None:
    (tmp_path / "read" / "deep").mkdir(parents=True)
    for name in ("read/deep/file", "one", "other"):
        (tmp_path / name).write_bytes(b"x")
    argv = [sys.executable, "-P", "-c", PROGRAM, str(tmp_path)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")
    results = json.loads(done.stdout)
    for name in ("before", "earlier"):
        assert set(results[name].values()) == {"done"}, "a thread that ran already keeps its files"
    for name in ("own", "later"):
        assert {each for each, result in results[name].items() if result == "done"} == ALLOWED
        assert set(results[name].values()) == {"done", "EACCES"}


def descriptors() -> set[str]:
    return {path.name for path in Path("/proc/self/fd").iterdir()}


@needs_landlock
def test_a_rule_that_fails_leaves_no_descriptor_open(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    before = descriptors()
    with pytest.raises(NotADirectoryError):
        Ruleset([FileRule(tmp_path, Access.READ_FILE), FileRule(tmp_path / "file" / "below", Access.READ_FILE)])
    assert descriptors() == before


@needs_landlock
def test_rules_without_an_access_that_suits_their_file_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    Ruleset([FileRule(tmp_path / "file", Access.READ_DIR | Access.REFER), FileRule(tmp_path, Access(0))]).close()


def test_a_kernel_without_landlock_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(landlock, "landlock_version", lambda: 0)
    with pytest.raises(OSError, match="has no Landlock") as caught:
        Ruleset([])
    assert caught.value.errno == errno.ENOSYS
