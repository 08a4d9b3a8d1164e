"""``vnet serve --isolate``: the arguments of each device are checked before a process is started."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from vnet.cli import group, isolate, serve, show
from vnet.cli.tree import process_lines
from vnet.system.supervisor import PAUSE_MAX, PAUSE_MIN, STEADY, next_pause
from vnet.views.system import ProcessView, SystemView

DISK = "blk --vhost-user a.sock --file a.img"
TAP = "net --vhost-user n.sock --tap t"


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("--isolate", "Missing command."),
        ("--isolate --and", "No such option '--and'."),
        (f"--isolate {DISK} --and", "--and must stand between two devices: vnet serve --isolate blk ... --and net ..."),
        (f"--isolate {DISK} --and --and {TAP}", "--and must stand between two devices"),
        (f"--isolate {DISK} --and nothing", "No such command 'nothing'."),
        (f"--isolate {DISK} --and net --tap", "Option '--tap' requires an argument."),
        (f"--isolate {DISK} --rootless", "No such option '--rootless'."),
        (f"--isolate {DISK} --device-name x --and {TAP} --device-name x", "two devices are named x; give one another"),
        (f"--name x {DISK}", "--name requires --isolate"),
        (f"--isolate --name X {DISK}", "must be a lower-case letter"),
        (f"{DISK} --and {TAP}", "No such option '--and'."),
    ],
)
def test_arguments_that_are_no_devices_are_refused_before_a_process_starts(
    line: str, error: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(isolate, "keeper", lambda _: pytest.fail("it starts"))
    done = CliRunner().invoke(serve.command, shlex.split(line))
    assert (done.exit_code, done.stdout) == (2, "")
    assert error in done.stderr


def commands_of(line: str, monkeypatch: pytest.MonkeyPatch, loaded: Sequence[Path] = ()) -> dict[str, list[str]]:
    """The command line of each process, by the name of its device."""
    seen: dict[str, list[str]] = {}

    def note(context: click.Context, serving: click.Group, words: Sequence[str]) -> dict[str, list[str]]:
        context.meta[group.LOADED] = loaded
        seen.update(isolate_commands(context, serving, words))
        raise click.exceptions.Exit(0)

    isolate_commands = isolate._commands
    monkeypatch.setattr(isolate, "_commands", note)
    assert CliRunner().invoke(serve.command, ["--isolate", *shlex.split(line)]).exit_code == 0
    return seen


def test_each_device_gets_its_arguments_and_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    python = [sys.executable, "-P", "-m", "vnet"]
    line = f"{DISK} -v --and {TAP} --sandbox strict --and {DISK} --and {DISK} --device-name root --and {DISK}"
    assert commands_of(line, monkeypatch) == {
        "blk0": [*python, "serve", *DISK.split(), "-v", "--device-name", "blk0"],
        "net0": [*python, "serve", *TAP.split(), "--sandbox", "strict", "--device-name", "net0"],
        "blk1": [*python, "serve", *DISK.split(), "--device-name", "blk1"],
        "root": [*python, "serve", *DISK.split(), "--device-name", "root"],
        "blk3": [*python, "serve", *DISK.split(), "--device-name", "blk3"],
    }


def test_processes_load_the_same_extensions(monkeypatch: pytest.MonkeyPatch) -> None:
    [argv] = commands_of(DISK, monkeypatch, [Path("a.py"), Path("b.py")]).values()
    assert argv[4:9] == ["--load", "a.py", "--load", "b.py", "serve"]


def test_the_next_start_waits_longer_each_time_a_process_fails_soon() -> None:
    pauses = list(accumulate([0.0] * 10, lambda pause, _: next_pause(pause, 1.0)))
    assert pauses == [0, PAUSE_MIN, 1, 2, 4, 8, 16, PAUSE_MAX, PAUSE_MAX, PAUSE_MAX]
    assert next_pause(PAUSE_MAX, STEADY) == 0


def test_a_line_says_what_became_of_a_process() -> None:
    views = {
        "a": ProcessView(7, "serve-blk-a", 61.5, 0, ""),
        "b": ProcessView(8, "", 0.2, 2, "was killed by SIGKILL"),
        "c": ProcessView(None, "serve-blk-c", 0.0, 0, "ended"),
        "d": ProcessView(None, "", 0.0, 0, ""),
    }
    assert list(process_lines(views)) == [
        "a: process 7 for 62 s, restarts: 0; vnet show --name serve-blk-a",
        "b: process 8 for 0 s, restarts: 2 (its predecessor was killed by SIGKILL)",
        "c: no process, it ended, restarts: 0",
        "d: no process, it starts, restarts: 0",
    ]


def test_a_device_with_a_process_is_shown_by_the_name_of_its_system(monkeypatch: pytest.MonkeyPatch) -> None:
    process = ProcessView(7, "serve-blk-a", 61.5, 0, "")
    system = SystemView("serve", {}, {}, {}, {}, {}, processes={"blk0": process})
    monkeypatch.setattr(show, "query", lambda *_: system)
    done = CliRunner().invoke(show.command, ["--name", "serve", "blk0"])
    assert done.stderr == "vnet: blk0 has a process of its own; try: vnet show --name serve-blk-a blk0\n"
    assert CliRunner().invoke(show.command, ["--name", "serve"]).stdout.splitlines() == [
        "serve",
        "  blk0: process 7 for 62 s, restarts: 0; vnet show --name serve-blk-a",
    ]
