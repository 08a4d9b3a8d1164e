"""The commands of README.md exist."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path

import click
import pytest

from support.paths import ROOT
from vnet.cli.isolate import AND

README = (ROOT / "README.md").read_text(encoding="utf-8")
CI_RUN = (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def shell_lines(text: str) -> list[str]:
    """The lines of all fenced shell blocks, continued ones joined, prompts removed."""
    blocks = re.findall(
        r"^```(?:sh|shell|bash|console)(?: title=[^\n]*)?\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL
    )
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [re.sub(r"^[$#] ", "", line).strip() for line in lines if line.strip()]


def commands(line: str) -> Iterator[list[str]]:
    """The commands of one line, cut at ``&&``, ``;``, ``|`` and ``&``."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="&|;")
    lexer.whitespace_split = True
    words: list[str] = []
    for word in [*lexer, ";"]:
        if word and set(word) <= set("&|;"):
            if words:
                yield words
            words = []
        else:
            words.append(word)


def split_at(separator: str, words: Iterable[str]) -> list[list[str]]:
    parts: list[list[str]] = [[]]
    for word in words:
        if word == separator:
            parts.append([])
        else:
            parts[-1].append(word)
    return parts


RUNNING = (ROOT / "docs" / "running.md").read_text(encoding="utf-8")
LINES = [*shell_lines(README + RUNNING), *re.findall(r"`(\.venv/bin/vnet [^`]+)`", README)]
VNET_COMMANDS = [words[1:] for line in LINES for words in commands(line) if Path(words[0]).name == "vnet"]
SET_UP = [line for line in shell_lines(README) if line.startswith("apt-get ")]


def check(command: click.Command, args: list[str], name: str = "vnet") -> None:
    """Parse ``args`` as click would, subcommand by subcommand, without running or opening anything.

    Raises click.UsageError for an unknown option or subcommand, a missing, superfluous or impossible value.
    """
    context = click.Context(command, info_name=name, ignore_unknown_options=False)
    values, rest, _ = command.make_parser(context).parse_args(args=list(args))
    for parameter in command.params:
        if isinstance(parameter.type, click.Choice) and parameter.name in values:
            parameter.type_cast_value(context, values[parameter.name])
    if isinstance(command, click.Group) and rest:
        for first, *more in split_at(AND, rest) if values.get("isolate") else [rest]:
            inner = command.get_command(context, first)
            if inner is None:
                raise click.UsageError(f"{name} has no subcommand {first!r}")
            check(inner, more, f"{name} {first}")
    elif rest:
        raise click.UsageError(f"{name} takes no {' '.join(rest)!r}")


@pytest.mark.parametrize("args", VNET_COMMANDS, ids=" ".join)
def test_every_vnet_command_is_understood_by_the_command_line(args: list[str]) -> None:
    from vnet import cli

    check(cli.main, args)


def test_there_are_two_lines_to_copy_one_runs_the_demo_and_one_the_tests() -> None:
    assert [line.rsplit("&&", 1)[1].split("/")[-1].strip() for line in SET_UP] == ["vnet demo", "tox"]


def test_the_line_for_the_tests_installs_what_ci_installs_and_that_for_the_demo_a_part_of_it() -> None:
    packages = re.search(r"^packages=\((.*?)\)", CI_RUN, flags=re.MULTILINE | re.DOTALL)
    assert packages is not None
    demo, tests = (re.findall(r"apt-get install -y ([^&]*)&&", line)[0].split() for line in SET_UP)
    assert tests == packages[1].split()
    assert set(demo) < set(tests)


def test_ci_runs_the_tests_as_the_readme_does() -> None:
    tests = SET_UP[1]
    assert CI_RUN.rstrip().splitlines()[-1] == tests[tests.index("python3 -m venv") :]


def test_the_matrix_is_the_one_of_the_registry() -> None:
    from vnet.topology.support import matrix

    shown = re.search(r"<!-- matrix -->\n(.*?)\n<!-- /matrix -->", README, flags=re.DOTALL)
    assert shown is not None
    assert shown[1] == matrix()


@click.group()
@click.option("--name")
def sample(name: str | None) -> None: ...


@sample.command()
@click.argument("topology", required=False)
@click.option("--port", type=click.Choice(["tun", "tap"]))
@click.option("--exec", "run")
def up(topology: str | None, port: str | None, run: str | None) -> None: ...


@sample.group()
def link() -> None: ...


@link.command()
def down() -> None: ...


@pytest.mark.parametrize(
    "line",
    [
        "vnet up",
        "vnet --name b up missing.toml --port tap",
        "vnet up --exec 'ping -c 1 198.18.0.2; true'",
        "vnet link down",
    ],
)
def test_the_check_accepts_what_exists(line: str) -> None:
    [words] = commands(line)
    check(sample, words[1:])


@pytest.mark.parametrize(
    "line",
    ["vnet upp", "vnet up --prot tap", "vnet up --port tin", "vnet up a.toml b.toml", "vnet link up", "vnet up --port"],
)
def test_the_check_refuses_what_does_not_exist(line: str) -> None:
    [words] = commands(line)
    with pytest.raises(click.UsageError):
        check(sample, words[1:])


def test_lines_are_cut_into_commands() -> None:
    text = "```sh\n$ vnet up --exec 'a && b' \\\n    && ls | wc\n```\n```python\nvnet\n```\n"
    assert [list(commands(line)) for line in shell_lines(text)] == [
        [["vnet", "up", "--exec", "a && b"], ["ls"], ["wc"]]
    ]
