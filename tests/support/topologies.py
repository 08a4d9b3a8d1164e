"""Topology text that several test files begin with, and the problems of a text."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from vnet.errors import ConfigError
from vnet.topology import parse

TWO_HOSTS = """\
[hosts.rc]
[hosts.ep]
[links.pcie0]
root = "rc"
endpoint = "ep"
"""
VHOST_USER_DISK = """\
[hosts.rc]
memory = 48
[devices.disk0]
type = "blk"
transport = "vhost_user"
host = "rc"
socket = "{path}"
"""


def moved_to(folder: Path, text: str) -> str:
    """Return ``text`` with each file of /tmp in ``folder``: what else runs on the machine may use the same example."""
    return re.sub(r"/tmp/([\w.-]+)", lambda match: str(folder / match[1]), text)


def errors(text: str) -> tuple[ConfigError, ...]:
    """All problems of a topology text."""
    with pytest.raises(ConfigError) as caught:
        parse(text, "t.toml")
    assert all("\n" not in str(error) and error.file == "t.toml" for error in caught.value.all)
    return caught.value.all


def places(text: str) -> list[str]:
    """Where the problems of a topology text are."""
    return [error.path for error in errors(text)]


def refusal(text: str) -> str:
    """Return the problem of a topology text, without the file's name."""
    with pytest.raises(ConfigError) as caught:
        parse(text, "t.toml")
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith("t.toml: ")
    return line.removeprefix("t.toml: ")
