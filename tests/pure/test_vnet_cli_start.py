"""The start of the command, before anything is imported."""

from __future__ import annotations

import errno
import os
from typing import NoReturn

import pytest

from vnet.cli import start


def test_a_machine_without_dev_null_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: str, _: int) -> NoReturn:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)

    monkeypatch.setattr(os, "open", fail)
    with pytest.raises(SystemExit, match=r"^vnet: /dev/null: No such file or directory$"):
        start.start()
