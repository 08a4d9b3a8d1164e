"""Answers of `vnet-extcap` to Wireshark. Captures of running systems are tested with those of `vnet capture`."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from drivers.contracts.events import Topic
from support.captures import event, record
from vnet.cli import extcap
from vnet.cli.reception import CaptureChoice, Ending, Output, Report, Stream, receive
from vnet.errors import ControlError

CAPTURE = record([event("LinkMoved")])
SYSTEM = "--extcap-interface", "vnet-lab"


def run(*args: str) -> Result:
    return CliRunner().invoke(extcap.command, args)


def lines(*args: str) -> list[str]:
    done = run(*args)
    assert (done.exit_code, done.stderr) == (0, "")
    return done.stdout.splitlines()


def test_running_systems_are_interfaces_and_killed_ones_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extcap, "system_names", lambda: ["killed", "lab"])
    monkeypatch.setattr(extcap, "running", lambda name: None if name == "killed" else object())
    program, *interfaces = lines("--extcap-interfaces", "--extcap-version=4.4", "--of-a-later-wireshark")
    assert program.startswith("extcap {version=")
    assert interfaces == ["interface {value=vnet-lab}{display=vnet system lab}"]


@pytest.mark.parametrize("error", [ControlError("damaged"), OSError("gone")])
def test_a_user_whose_systems_cannot_be_listed_has_none(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail() -> list[str]:
        raise error

    monkeypatch.setattr(extcap, "system_names", fail)
    assert len(lines("--extcap-interfaces")) == 1


def test_options_name_the_parts_of_the_system_and_every_topic(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = {"devices": ["net0", "blk0"], "links": ["pcie0"]}
    monkeypatch.setattr(
        extcap,
        "part_names",
        lambda system, *kinds: [name for kind in kinds for name in parts[kind]] if system == "lab" else [],
    )
    text = lines("--extcap-config", *SYSTEM)
    for number, names in enumerate((["net0", "blk0", "pcie0"], [topic.value for topic in Topic])):
        values = [line for line in text if line.startswith(f"value {{arg={number}}}")]
        assert values == [f"value {{arg={number}}}{{value={name}}}{{display={name}}}" for name in names]
    calls = [line.partition("{call=")[2].partition("}")[0] for line in text if line.startswith("arg ")]
    options = {option for each in extcap.command.params for option in each.opts}
    assert set(calls) == {"--on", "--events", "--snaplen"} <= options


def test_a_system_that_has_gone_gets_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(system: str, *kinds: str) -> list[str]:
        raise ControlError(f"{system} is not running")

    monkeypatch.setattr(extcap, "part_names", fail)
    done = run("--extcap-config", *SYSTEM)
    assert (done.exit_code, done.stdout, done.stderr) == (1, "", "vnet: lab is not running\n")


def test_there_is_one_link_type() -> None:
    [line] = lines("--extcap-dlts", *SYSTEM)
    assert line.startswith("dlt {number=252}{name=")


@pytest.mark.parametrize(
    ("condition", "why"),
    [
        ("queue == receiveq1", []),
        ("link.up == maybe", ["filter 'link.up == maybe': 'maybe': must be one of true, yes, 1, false, no, 0"]),
    ],
)
def test_a_condition_is_checked_while_it_is_typed(condition: str, why: list[str]) -> None:
    assert lines(*SYSTEM, "--extcap-capture-filter", condition) == why


@pytest.mark.parametrize(
    ("args", "why"),
    [
        ((), "choose --extcap-interfaces, or an --extcap-interface"),
        (("--capture", *SYSTEM), "--capture requires --fifo"),
        (("--capture", *SYSTEM, "--fifo", "f", "--snaplen", "-1"), "--snaplen"),
    ],
)
def test_incomplete_options_are_refused(args: tuple[str, ...], why: str) -> None:
    done = run(*args)
    assert (done.exit_code, done.stdout) == (2, "")
    assert why in done.stderr


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, CaptureChoice]]:
    """The captures that were begun; each gets `CAPTURE`."""
    captures = []

    @contextmanager
    def begin(name: str, choice: CaptureChoice) -> Iterator[Stream]:
        captures.append((name, choice))
        ours, theirs = socket.socketpair()
        with ours, theirs:
            theirs.sendall(CAPTURE)
            theirs.shutdown(socket.SHUT_WR)
            yield Stream(ours, b"", Ending(ours))

    monkeypatch.setattr(extcap, "begin", begin)
    return captures


def test_a_capture_goes_to_the_file_with_what_was_chosen(
    begun: list[tuple[str, CaptureChoice]], tmp_path: Path
) -> None:
    fifo = tmp_path / "fifo"
    choice = ("--on", "net0,pcie0", "--events", "links", "--snaplen", "64", "--extcap-capture-filter", "link.up == no")
    assert lines("--capture", *SYSTEM, "--fifo", str(fifo), *choice) == []
    assert lines("--capture", *SYSTEM, "--fifo", str(fifo)) == []
    assert fifo.read_bytes() == CAPTURE
    (_, first), (_, second) = begun
    assert first == CaptureChoice(["net0", "pcie0"], ["links"], ["link.up == no"], 64)
    assert (second.on, second.events, second.filters) == ([], [], [])
    assert {name for name, _ in begun} == {"lab"}


@pytest.mark.usefixtures("begun")
def test_wireshark_that_closes_the_fifo_ends_the_capture_without_a_word(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)

    def close_and_receive(stream: Stream, outputs: Sequence[Output]) -> Report:
        os.close(reader)
        return receive(stream, outputs)

    monkeypatch.setattr(extcap, "receive", close_and_receive)
    assert lines("--capture", *SYSTEM, "--fifo", str(fifo)) == []


@pytest.mark.usefixtures("begun")
def test_a_full_disk_gets_one_line() -> None:
    done = run("--capture", *SYSTEM, "--fifo", "/dev/full")
    assert (done.exit_code, done.stderr) == (1, "vnet: /dev/full: No space left on device\n")
