"""The commands that examples show for ``vnet serve`` are ones that it takes."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from vnet.cli.serve import command

EXAMPLE = Path(__file__).parents[2] / "examples/qemu_guest.md"
SHOWN = re.findall(r"vnet serve (\w+ --vhost-user [^\n`]*)", EXAMPLE.read_text(encoding="utf-8"))


def test_the_example_shows_a_network_and_a_disk() -> None:
    assert [line.split()[0] for line in SHOWN] == ["net", "blk"]


@pytest.mark.parametrize("line", SHOWN)
def test_what_the_example_shows_is_understood(line: str) -> None:
    assert isinstance(command, click.Group)
    kind, *options = shlex.split(line)
    found = command.get_command(click.Context(command), kind)
    assert found is not None
    given = found.make_context(kind, options).params
    assert given["path"].is_absolute()
