"""Help texts of the command line, and what its commands import."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from vnet.cli import main
from vnet.cli.group import COMMANDS

WIDTH = 80


def groups() -> Iterator[tuple[list[str], click.Group]]:
    """Yield (arguments, group) for the command line and every group of commands in it."""
    yield [], main
    context = click.Context(main)
    for name in main.list_commands(context):
        command = main.get_command(context, name)
        if isinstance(command, click.Group):
            yield [name], command


@pytest.mark.parametrize(
    ("args", "group"), list(groups()), ids=lambda value: " ".join(value) or "vnet" if isinstance(value, list) else ""
)
def test_help_shows_the_whole_summary_of_every_command(args: list[str], group: click.Group) -> None:
    text = CliRunner().invoke(main, [*args, "--help"], terminal_width=WIDTH).output
    names = group.list_commands(click.Context(group))
    lines = {line.split()[0]: line for line in text.partition("Commands:")[2].splitlines() if line.strip()}
    assert list(lines) == names
    for name, line in lines.items():
        assert len(line) <= WIDTH
        assert line.endswith("."), name
        assert not line.endswith("..."), name


@pytest.mark.parametrize("name", COMMANDS)
def test_the_summary_of_a_command_is_the_first_sentence_of_its_help(name: str) -> None:
    command = main.get_command(click.Context(main), name)
    assert command is not None
    assert command.get_short_help_str(limit=1000) == COMMANDS[name][1]


@pytest.mark.parametrize("command", ["show", "ps", "link", "set"])
def test_a_command_that_asks_a_running_system_starts_without_the_world(command: str) -> None:
    program = f"import sys; import vnet.cli.start, vnet.cli.group, vnet.cli.{command}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    slow = {"trio", "scapy", "pyroute2", "drivers.built_in_transports", "vnet.topology", "vnet.system.world"}
    assert slow & set(done.stdout.split()) == set()
