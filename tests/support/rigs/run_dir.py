"""The folder of the files and sockets of running systems, in a place of the test's own."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from vnet.system import state


@pytest.fixture
def run_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Files and sockets of running systems stay in a folder of this test."""
    path = tmp_path / "run"
    monkeypatch.setattr(state, "run_dir", lambda: path)
    return path


@pytest.fixture
def made_run_dir(run_dir: Path) -> Path:
    run_dir.mkdir(mode=0o700)
    return run_dir


def contents(path: Path) -> list[Path]:
    return list(path.iterdir())


def put_stale_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
