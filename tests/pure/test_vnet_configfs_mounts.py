"""The mounts of a system are those that the kernel lists with its name, of this user."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vnet.configfs import mounts
from vnet.configfs.mounts import fuse_mounts, is_dead

LINE = "1 2 0:50 / {path} rw,nosuid,nodev,relatime shared:9 - {kind} {source} rw,user_id={user},group_id=0\n"


def listed(path: str, source: str = "vnet:a", kind: str = "fuse.vnet", user: int | None = None) -> str:
    return LINE.format(path=path, source=source, kind=kind, user=os.geteuid() if user is None else user)


def test_only_own_mounts_of_the_system_count_and_the_last_comes_first(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    table = tmp_path / "mountinfo"
    text = listed("/a") + listed("/b", source="vnet:ab") + listed("/c", kind="fuse.sshfs") + listed("/d", user=4711)
    text += listed(r"/with\040space") + "3 4 0:5 / /proc rw - proc proc rw\n"
    table.write_text(text, encoding="utf-8")
    monkeypatch.setattr(mounts, "MOUNTS", table)
    assert list(fuse_mounts("a")) == [Path("/with space"), Path("/a")]
    assert list(fuse_mounts("ab")) == [Path("/b")]
    assert list(fuse_mounts("b")) == []


def test_directories_and_missing_paths_are_no_dead_mounts(tmp_path: Path) -> None:
    assert not is_dead(tmp_path)
    assert not is_dead(tmp_path / "x")
