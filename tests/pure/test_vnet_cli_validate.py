"""``vnet validate``: a line per problem of each file."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from support.paths import TOPOLOGIES
from vnet.cli import main
from vnet.cli.common import PROBLEMS
from vnet.topology import DEFAULT


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    path = tmp_path / "bad.toml"
    path.write_text(f"{DEFAULT}mtu = 1\nfrob = 2\n", encoding="utf-8")
    return path


def validate(*files: Path | str, text: str | None = None) -> Result:
    return CliRunner().invoke(main, ["validate", *map(str, files)], input=text)


def test_valid_files_are_ok() -> None:
    files = sorted(TOPOLOGIES.glob("*.toml"))
    done = validate(*files)
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [f"{file}: ok" for file in files]


def test_each_problem_is_a_line_and_the_other_files_are_checked(bad: Path, tmp_path: Path) -> None:
    good = TOPOLOGIES / "rc_ep.toml"
    done = validate(bad, tmp_path / "missing", good)
    assert done.exit_code == 1
    assert done.stdout == f"{good}: ok\n"
    first, second, third = done.stderr.splitlines()
    assert first == f"vnet: {bad}: devices.net0.mtu = 1: must be between 68 and 65521 (bytes)"
    assert second.startswith(f"vnet: {bad}: devices.net0.frob = 2: unknown key; known are ")
    assert third == f"vnet: {tmp_path}/missing: No such file or directory"


def test_a_file_is_needed() -> None:
    assert validate().exit_code == 2


def test_a_file_of_very_many_problems_gets_a_bounded_number_of_lines(tmp_path: Path) -> None:
    path = tmp_path / "many.toml"
    path.write_text("[devices]\n[hosts.a]\n" + "".join(f"k{number} = 1\n" for number in range(1234)), encoding="utf-8")
    lines = validate(path).stderr.splitlines()
    assert len(lines) == PROBLEMS + 1
    assert lines[-1] == f"vnet: {path}: {1234 - PROBLEMS} more"
