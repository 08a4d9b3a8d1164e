"""The file for the figures of a command, and the ports that a demonstration runs on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from vnet.cli import demo
from vnet.cli.output import open_json
from vnet.demo import DemoReport
from vnet.errors import PrivilegeError


def test_figures_replace_older_contents(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    for figures in ({"a": list(range(100))}, {"b": 1}):
        with open_json(path) as write:
            assert path.exists()
            write(figures)
        assert json.loads(path.read_text()) == figures


@pytest.mark.parametrize("before", [None, "older figures"])
def test_work_that_fails_leaves_the_file_as_it_was(tmp_path: Path, before: str | None) -> None:
    path = tmp_path / "figures.json"
    if before is not None:
        path.write_text(before)
    with pytest.raises(click.Abort), open_json(path):
        raise click.Abort
    assert (path.read_text() if path.exists() else None) == before


def test_a_file_that_can_not_be_written_is_known_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), open_json(tmp_path / "nowhere" / "x"):
        pytest.fail("the work began")
    with open_json(Path("/dev/null")) as write:
        write({})
    with open_json(None) as write:
        write({})


REPORT = DemoReport({}, (), {})


@pytest.mark.parametrize("error", [PrivilegeError("no right", "sudo"), PermissionError(1, "No right", "/run/vnet")])
def test_a_demonstration_that_lacks_a_right_runs_in_memory(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """Some rights turn out to be missing only when they are used, such as that to write to /run."""
    tried: list[str] = []

    def ports(*_: object) -> Iterator[str]:
        yield from ("tun", "memory")

    def run(main: object) -> DemoReport:
        port = main.args[1].port  # type: ignore[attr-defined]
        tried.append(port)
        if port == "tun":
            raise error
        return REPORT

    monkeypatch.setattr(demo, "_ports", ports)
    monkeypatch.setattr(demo, "claim", lambda *_: open_json(None))
    monkeypatch.setattr(demo, "run_until_signal", run)
    done = CliRunner().invoke(demo.command, [])
    assert (done.exit_code, tried) == (0, ["tun", "memory"])
    assert "vnet: running on in-memory ports with scapy traffic instead\n" in done.stderr
