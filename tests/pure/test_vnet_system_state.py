"""Which systems run: the files that say so, and the locks on them."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import NoReturn

import pytest

from vnet.errors import ControlError
from vnet.system import state
from vnet.system.state import State, read_state, run_dir, running, signal_owner, state_path

NAME = "t-state"


def test_a_namespace_that_is_no_name_is_none_of_a_hosts() -> None:
    text = json.dumps({"pid": 1, "hosts": {"rc": "../x", "ep": f"{NAME}-ep"}, "netns": []})
    assert State.parse(NAME, text).hosts == {"rc": None, "ep": f"{NAME}-ep"}


def test_a_file_without_end_is_not_believed(made_run_dir: Path) -> None:
    with state_path(NAME).open("wb") as file:
        file.truncate(1 << 40)
    assert read_state(NAME) == State(NAME, 0, {})


def flock(*options: str) -> subprocess.Popen[bytes]:
    """A program that has locked the file, until its input ends."""
    command = ["flock", *options, str(state_path(NAME)), "sh", "-c", "echo; exec cat"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    return process


@contextmanager
def locked(pid: int) -> Iterator[State]:
    """A file that another process has locked, and that names process ``pid``."""
    state_path(NAME).write_text(json.dumps({"pid": pid, "hosts": {}, "netns": []}))
    with flock() as process:
        try:
            actual = running(NAME)
            assert actual is not None
            yield actual
        finally:
            process.communicate()


def test_a_process_that_the_file_names_and_that_has_not_locked_it_is_never_signalled(made_run_dir: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as bystander:
        try:
            for pid in (-1, 0, bystander.pid, 1 << 22):
                with locked(pid) as actual:
                    assert not signal_owner(actual, signal.SIGTERM)
            assert bystander.poll() is None
        finally:
            bystander.kill()


def test_the_process_that_has_locked_the_file_is_signalled(made_run_dir: Path) -> None:
    with flock("--no-fork") as owner:
        state_path(NAME).write_text(json.dumps({"pid": owner.pid, "hosts": {}, "netns": []}))
        actual = running(NAME)
        assert actual is not None
        assert signal_owner(actual, 0)
        assert signal_owner(actual, signal.SIGTERM)
        assert owner.wait() == -signal.SIGTERM
        assert not signal_owner(actual, signal.SIGTERM)


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "3", '{"pid": 1}', "[" * 60000, "\0" * 1000, "1" * 5000, '"\\ud800"'),
        '{"hosts": [], "netns": 1}',
        *(f'{{"pid": {pid}, "hosts": {{}}, "netns": []}}' for pid in ('"x"', -1, 0, 1e999, "true", 1.5, 1 << 31)),
        *(f'{{"pid": 1, "hosts": {hosts}, "netns": []}}' for hosts in ("[]", "3", '{"rc": 3}', '{"rc": ["x"]}')),
        *(f'{{"pid": 1, "hosts": {{}}, "netns": {netns}}}' for netns in ("{}", '"x"', "[3]", "[[]]")),
        *(
            f'{{"pid": 1, "hosts": {{}}, "netns": [], "paths": {paths}}}'
            for paths in ("{}", "[3]", '["relative"]', '["/a\\u0000b"]', '["/\\ud800"]')
        ),
    ],
)
def test_half_a_file_means_nothing_was_made(text: str) -> None:
    assert State.parse(NAME, text) == State(NAME, 0, {})


def test_without_root_files_are_in_the_users_own_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/1000")
    assert state_path(NAME) == Path("/run/user/1000/vnet") / f"{NAME}.json"


def test_without_a_runtime_directory_files_are_in_a_folder_that_only_this_user_can_have_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uid, users, shared = os.geteuid() or 1000, tmp_path / "users", tmp_path / "shared"
    (users / str(uid)).mkdir(parents=True)
    os.chown(users / str(uid), uid, uid)
    shared.mkdir()
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setattr(state, "USERS_DIR", users)
    monkeypatch.setattr(state, "SHARED_DIR", shared)
    assert run_dir() == users / str(uid) / "vnet"
    (users / str(uid)).rmdir()
    own = shared / f"vnet-{uid}"
    assert run_dir() == own
    own.mkdir(mode=0o700)
    os.chown(own, uid, uid)
    assert run_dir() == own
    own.chmod(0o770)
    with pytest.raises(ControlError, match="must be our own directory, without write access for other users"):
        run_dir()
    own.rmdir()
    own.symlink_to(users)
    with pytest.raises(ControlError, match="must be our own directory"):
        run_dir()


def test_a_file_of_an_older_version_is_of_a_system_that_is_not_rootless() -> None:
    text = '{"pid": 1, "hosts": {}, "netns": []'
    assert not State.parse(NAME, f"{text}}}").rootless
    assert State.parse(NAME, f'{text}, "rootless": true}}').rootless
    assert State.parse(NAME, f'{text}, "rootless": 3}}') == State(NAME, 0, {})


@pytest.mark.parametrize(("module", "call", "use"), [(fcntl, "flock", running), (os, "pread", read_state)])
def test_an_error_names_the_file(
    made_run_dir: Path, monkeypatch: pytest.MonkeyPatch, module: ModuleType, call: str, use: Callable[[str], object]
) -> None:
    def fail(*_: object) -> NoReturn:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    state_path(NAME).touch()
    monkeypatch.setattr(module, call, fail)
    with pytest.raises(OSError, match="Input/output error") as caught:
        use(NAME)
    assert caught.value.filename == str(state_path(NAME))
