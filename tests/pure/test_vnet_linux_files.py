"""A file that another user has put in the way is neither followed nor written."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import NoReturn

import pytest

from vnet.linux.files import close_file, open_to_write

FLAGS = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
OTHER = 12345


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A folder that all users can write."""
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(0o1777)
    return folder


def write(path: Path) -> None:
    fd = open_to_write(path, FLAGS)
    os.write(fd, b"new")
    os.close(fd)


@pytest.mark.hostile("X04")
def test_a_link_in_a_folder_of_all_users_is_not_followed(shared: Path, tmp_path: Path) -> None:
    target, link = tmp_path / "target", shared / "link"
    target.write_text("kept")
    link.symlink_to(target)
    with pytest.raises(PermissionError, match="must be this user's own file, and no link"):
        write(link)
    assert target.read_text() == "kept"


@pytest.mark.hostile("X04")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_file_of_another_user_there_is_left_as_it_is_unless_that_user_called_sudo(
    shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = shared / "file"
    file.write_text("kept")
    os.chown(file, OTHER, OTHER)
    with pytest.raises(PermissionError, match="must be this user's own file"):
        write(file)
    assert file.read_text() == "kept"
    monkeypatch.setenv("SUDO_UID", str(OTHER))
    write(file)
    assert file.read_text() == "new"


def test_an_own_file_there_and_any_elsewhere_is_written(shared: Path, tmp_path: Path) -> None:
    write(shared / "new")
    (shared / "new").write_text("longer than that")
    write(shared / "new")
    assert (shared / "new").read_text() == "new"
    (tmp_path / "link").symlink_to(shared / "new")
    write(tmp_path / "link")


def fail_to_close(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    close = os.close

    def fail(fd: int) -> NoReturn:
        close(fd)
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "close", fail)


def test_a_close_that_loses_data_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fd = open_to_write(tmp_path / "f", os.O_WRONLY | os.O_CREAT)
    fail_to_close(monkeypatch, errno.EIO)
    with pytest.raises(OSError, match="Input/output error") as caught:
        close_file(fd, tmp_path / "f")
    assert caught.value.filename == str(tmp_path / "f")


def test_a_close_that_a_signal_interrupts_has_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fd = open_to_write(tmp_path / "f", os.O_WRONLY | os.O_CREAT)
    fail_to_close(monkeypatch, errno.EINTR)
    close_file(fd, tmp_path / "f")
