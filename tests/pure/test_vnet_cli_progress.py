"""A progress bar is on standard error only if that is a terminal, and other lines erase it."""

from __future__ import annotations

import errno
import io
import logging
import os
import sys
from typing import NoReturn

import pytest

from vnet.cli.logs import StandardErrorHandler
from vnet.cli.progress import ERASE, Bar, is_writable, progress_bar


class Terminal(io.StringIO):
    """Standard error that is a terminal."""

    def isatty(self) -> bool:
        return True

    def take(self) -> str:
        """Return the text since the last call."""
        text = self.getvalue()
        self.seek(0)
        self.truncate()
        return text


def on_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Replace standard error. (A fixture could not: pytest replaces it again before the test.)"""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "60")
    return terminal


def test_the_line_has_steps_and_the_time_that_is_left(capsys: pytest.CaptureFixture[str]) -> None:
    times = iter([100.0, 130.0, 190.0])
    bar = Bar("net", 4, visible=False, clock=lambda: next(times))
    assert bar.line() == "net [" + "." * 24 + "] 0/4"
    bar.echo("one")
    assert bar.line() == "net [" + "#" * 6 + "." * 18 + "] 1/4, 1:30 left"
    bar.echo("three", 2)
    assert bar.line() == "net [" + "#" * 18 + "." * 6 + "] 3/4, 0:30 left"
    bar.echo("four")
    assert bar.line() == "net [" + "#" * 24 + "] 4/4"
    bar.echo("more than planned")
    assert bar.line() == "net [" + "#" * 24 + "] 5/5"
    out, err = capsys.readouterr()
    assert out.splitlines() == ["one", "three", "four", "more than planned"]
    assert err == ""


def test_a_terminal_has_the_bar_until_the_work_ends(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal = on_terminal(monkeypatch)
    with progress_bar("demo", 2) as bar:
        assert bar.visible
        bar.show("ping, rc to ep")
        assert terminal.take() == f"{ERASE}demo [{'.' * 24}] 0/2  ping, rc to ep"
        bar.echo("a line")
        first, second = terminal.take().split(ERASE)[1:]
        assert (first, second[:46]) == ("", f"demo [{'#' * 12}{'.' * 12}] 1/2, 0:00 left")
    assert terminal.take() == ERASE
    assert capsys.readouterr().out == "a line\n"


def test_a_step_without_a_line_moves_the_bar(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal = on_terminal(monkeypatch)
    with progress_bar("run", 2) as bar:
        bar.advance("0 failed")
        line = terminal.take()
        assert "] 1/2, " in line
        assert line.endswith("0 failed")
        bar.advance("1 failed")
        assert terminal.take().endswith("] 2/2  1 failed")
    assert capsys.readouterr().out == ""


def test_the_bar_is_cut_to_the_width_of_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_terminal(monkeypatch)
    with progress_bar("demo", 2) as bar:
        bar.show("x" * 200)
        assert len(terminal.take()) == len(ERASE) + 59


def test_a_line_of_the_log_erases_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_terminal(monkeypatch)
    with progress_bar("demo", 2) as bar:
        bar.show("")
        terminal.take()
        StandardErrorHandler().emit(logging.LogRecord("vnet", logging.WARNING, "", 0, "a warning", None, None))
        assert terminal.take() == f"{ERASE}a warning\n"
        bar.show("")
        assert "demo [" in terminal.take()


def test_an_error_erases_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_terminal(monkeypatch)

    def fail() -> None:
        with progress_bar("demo", 2) as bar:
            bar.show("")
            raise ValueError("the work failed")

    with pytest.raises(ValueError, match="the work failed"):
        fail()
    assert terminal.take().endswith(ERASE)


def test_a_terminal_without_cursor_control_has_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_terminal(monkeypatch)
    monkeypatch.setenv("TERM", "dumb")
    with progress_bar("demo", 2) as bar:
        bar.show("text")
        assert not bar.visible
    assert terminal.take() == ""


def test_a_terminal_that_is_gone_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_terminal(monkeypatch)

    def fail(_: str) -> int:
        raise OSError(5, "Input/output error")

    with progress_bar("demo", 2) as bar:
        bar.show("text")
        monkeypatch.setattr(terminal, "write", fail)
        bar.show("text")
        bar.echo("a line")


def test_a_line_is_written_without_memory_for_the_look(monkeypatch: pytest.MonkeyPatch) -> None:
    class Poll:
        register = staticmethod(lambda *_: None)

        def poll(self, _: int) -> NoReturn:
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    with open(os.devnull, "w", encoding="ascii") as null:  # noqa: PTH123  the stream must have a descriptor
        monkeypatch.setattr("sys.stderr", null)
        monkeypatch.setattr("select.poll", Poll)
        assert is_writable()
