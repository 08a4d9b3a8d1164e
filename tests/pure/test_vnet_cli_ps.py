"""``vnet ps`` lists the systems of one's own directory; root's list also has those of all other users."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from vnet.cli import ps
from vnet.system import state


@pytest.fixture
def users_dir(made_run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The runtime directories of users, seen by root."""
    path = tmp_path / "user"
    monkeypatch.setattr(state, "USERS_DIR", path)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return path


def put(directory: Path, name: str) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{name}.json"
    path.write_text(json.dumps({"pid": 7, "hosts": {"rc": None}, "netns": [], "paths": []}), encoding="utf-8")
    return path


def listed() -> list[tuple[str, str]]:
    done = CliRunner().invoke(ps.command, ["--json"])
    assert done.exit_code == 0
    return [(row["name"], row["state"]) for row in json.loads(done.output)]


def test_root_sees_the_systems_of_every_user(users_dir: Path, made_run_dir: Path) -> None:
    uid = str(made_run_dir.stat().st_uid)
    put(made_run_dir, "own")
    path = put(users_dir / uid / "vnet", "other")
    assert listed() == [("own", "killed"), ("other", "killed")]
    with path.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert listed() == [("own", "killed"), ("other", "silent")]


def test_a_directory_that_is_not_the_users_is_left_out(users_dir: Path, made_run_dir: Path, tmp_path: Path) -> None:
    uid = made_run_dir.stat().st_uid
    put(users_dir / str(uid + 1) / "vnet", "foreign")
    put(tmp_path / "elsewhere", "linked")
    (users_dir / str(uid)).mkdir()
    (users_dir / str(uid) / "vnet").symlink_to(tmp_path / "elsewhere")
    assert listed() == []


def test_a_file_of_another_user_that_cannot_be_read_hides_no_system(users_dir: Path, made_run_dir: Path) -> None:
    put(made_run_dir, "own")
    (users_dir / str(made_run_dir.stat().st_uid) / "vnet" / "odd.json").mkdir(parents=True)
    assert listed() == [("own", "killed")]


def test_other_users_see_their_own_systems(
    users_dir: Path, made_run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(made_run_dir, "own")
    put(users_dir / str(made_run_dir.stat().st_uid) / "vnet", "other")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert listed() == [("own", "killed")]
