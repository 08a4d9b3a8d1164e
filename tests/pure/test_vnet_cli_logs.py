"""The log on standard error: levels, JSON, and readers that go away."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterator
from typing import Any

import attrs
import click
import pytest
from click.testing import CliRunner

from drivers.contracts.events import QueueStopped, Source
from vnet.cli import logs
from vnet.cli.logs import JsonFormatter, StandardErrorHandler, log_options
from vnet.system.limited import TEXT_MAX

EVENT = QueueStopped(1.5, Source("ep", "net0", "device", "transmitq1"), "a rule", "2.7.5")


@pytest.fixture(autouse=True)
def logger() -> Iterator[logging.Logger]:
    logger = logging.getLogger("vnet")
    handlers, propagate, level = logger.handlers[:], logger.propagate, logger.level
    yield logger
    logger.handlers[:], logger.propagate = handlers, propagate
    logger.setLevel(level)


@click.command()
@log_options
def speak() -> None:
    logger = logging.getLogger("vnet.net0")
    for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR):
        logger.log(level, "%s", logging.getLevelName(level).lower(), extra={"event": EVENT})


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ([], ["warning", "error"]),
        (["-v"], ["info", "warning", "error"]),
        (["-vv"], ["debug", "info", "warning", "error"]),
        (["-q"], ["error"]),
    ],
)
def test_options_choose_the_level(options: list[str], shown: list[str]) -> None:
    done = CliRunner().invoke(speak, options)
    assert done.stderr.splitlines() == [f"vnet: {level}" for level in shown]


def test_quiet_and_verbose_exclude_each_other() -> None:
    done = CliRunner().invoke(speak, ["-q", "-v"])
    assert (done.exit_code, done.stderr.splitlines()[-1]) == (2, "Error: --quiet and --verbose exclude each other")


def test_a_line_of_json_has_the_place_and_the_fields_of_the_event() -> None:
    line = json.loads(CliRunner().invoke(speak, ["-q", "--log-json"]).stderr)
    assert line.pop("time").endswith("+00:00")
    assert line == {
        "level": "error", "logger": "vnet.net0", "host": "ep", "device": "net0", "side": "device",
        "queue": "transmitq1", "link": "", "port": "", "event": "QueueStopped", "clock": 1.5, "cause": "a rule",
        "section": "2.7.5", "message": "error",
    }  # fmt: skip


def test_a_line_without_an_event_is_json_as_well() -> None:
    record = logging.LogRecord("vnet", logging.WARNING, "", 0, "text", None, None)
    assert json.loads(JsonFormatter().format(record))["message"] == "text"


def event_line(cause: Any) -> dict[str, str]:
    record = logging.LogRecord("vnet", logging.WARNING, "", 0, "text", None, None)
    record.event = attrs.evolve(EVENT, cause=cause)
    return json.loads(JsonFormatter().format(record))  # type: ignore[no-any-return]


def test_a_field_that_json_does_not_know_is_text() -> None:
    assert event_line({1, 2})["cause"] == "{1, 2}"


@pytest.mark.hostile("V12")
def test_a_huge_field_of_an_event_is_cut() -> None:
    assert event_line("a" * 100_000)["cause"] == f"{'a' * (TEXT_MAX - 3)}..."


def test_each_line_is_written_only_if_it_is_taken(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    record = logging.LogRecord("vnet", logging.WARNING, "", 0, "text", None, None)
    taken = iter((False, True, False, True, True))
    monkeypatch.setattr(logs, "is_writable", lambda: next(taken))
    handler = StandardErrorHandler()
    handler.emit(record)
    handler.emit(record)
    assert (handler.lost, capsys.readouterr().err) == (1, "standard error was not read: 1 lines are lost\n")
    handler.emit(record)
    assert (handler.lost, capsys.readouterr().err) == (0, "standard error was not read: 1 lines are lost\ntext\n")


def test_a_reader_that_has_gone_or_does_not_read_loses_lines_that_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    record = logging.LogRecord("vnet", logging.WARNING, "", 0, "text", None, None)
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with os.fdopen(writer, "w", encoding="utf-8") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        handler = StandardErrorHandler()
        while not handler.lost:
            handler.emit(record)
        handler.emit(record)
        assert handler.lost == 2
        while len(os.read(reader, 1 << 16)) == 1 << 16:
            pass
        handler.emit(record)
        assert handler.lost == 0
        assert os.read(reader, 1 << 16).splitlines()[-2] == b"standard error was not read: 2 lines are lost"
        os.close(reader)
        handler.emit(record)
        assert handler.lost == 1
        os.dup2(os.open(os.devnull, os.O_WRONLY), writer)  # what the text layer holds back goes there
