"""``vnet check device``: its usage, each error in one line with exit status 2."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from vnet.cli.check import command


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--vhost-user", "s"], "--type is missing"),
        (["--type", "blk"], "--vhost-user or --vfio-user is missing"),
        (["--type", "blk", "--vhost-user", "s", "--vfio-user", "t"], "only one socket is checked"),
        (["--type", "blk", "--vfio-user", "nothing-here", "--timeout", "0.05"], "No such file or directory"),
        (["--type", "disk", "--vhost-user", "s"], "'disk' is not one of 'blk', 'net', 'scsi', 'rng'"),
        (["--type", "blk", "--vhost-user", "s", "-j", "2"], "need --spawn"),
        (["--type", "blk", "--spawn", "x {socket}", "--pid", "1"], "the process that --spawn starts is known"),
        (["--type", "blk", "--spawn", "x"], "the command must contain {socket}"),
        (["--type", "blk", "--spawn", "x '{socket}"], "No closing quotation"),
        (["--type", "blk", "--vhost-user", "s", "X99"], "no case is named 'X99'"),
        (["--type", "blk", "--vhost-user", "nothing-here", "--timeout", "0.05"], "No such file or directory"),
        (["--type", "blk", "--spawn", "false {socket}"], "the spawned device ended with status 1"),
        (["--type", "blk", "--spawn", "/no/such/program {socket}"], "No such file or directory"),
    ],
)
def test_a_run_that_can_not_begin_ends_with_one_line(args: list[str], words: str) -> None:
    result = CliRunner().invoke(command, ["device", *args])
    assert result.exit_code == 2, result.output
    assert words in result.output.splitlines()[-1]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--type", "blk"], "Missing option '--vhost-user'"),
        (["--vhost-user", "s"], "Missing option '--type'"),
        (["--type", "disk", "--vhost-user", "s"], "'disk' is not one of 'blk', 'net', 'scsi', 'rng'"),
        (["--type", "blk", "--vhost-user", "s", "--exec", "true"], "no driver made a request: the program ended"),
        (["--type", "blk", "--vhost-user", "s", "--exec", "x 'y"], "--exec: No closing quotation"),
    ],
)
def test_a_watch_of_no_driver_ends_with_one_line(args: list[str], words: str, tmp_path: Path) -> None:
    args = [str(tmp_path / word) if word == "s" else word for word in args]
    result = CliRunner().invoke(command, ["driver", *args])
    assert result.exit_code == 2, result.output
    assert words in result.output


def test_a_list_of_known_findings_must_name_cases(tmp_path: Path) -> None:
    known = tmp_path / "known"
    known.write_text("R04.size  # in their tracker\nR99\n")
    result = CliRunner().invoke(command, ["device", "--type", "blk", "--vhost-user", "s", "--known", str(known)])
    assert result.exit_code == 2
    assert "no case is named R99" in result.output


def test_the_list_has_id_level_section_and_title() -> None:
    result = CliRunner().invoke(command, ["device", "--list", "--type", "net", "SPLIT-DEV-9", "B03"])
    assert result.exit_code == 0
    [row] = result.output.splitlines()
    assert row.split()[:4] == ["SPLIT-DEV-9", "MUST", "all", "2.7.7.2"]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["D01"], "D01: lies are told with --hostile"),
        (["--hostile"], "--hostile needs --exec"),
        (["--hostile", "--exec", "true", "D77"], "no lie is named 'D77'"),
        (["--hostile", "--exec", "true"], "the driver makes 0 requests, not 9: ended with status 0 after 0 requests"),
        (["--hostile", "--exec", "/no/such/program"], "/no/such/program can't be started: No such file or directory"),
    ],
)
def test_a_hostile_run_that_can_not_begin_ends_with_one_line(args: list[str], words: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(command, ["driver", "--type", "blk", "--vhost-user", str(tmp_path / "s"), *args])
    assert result.exit_code == 2, result.output
    assert words in result.output.splitlines()[-1]


def test_lies_are_listed() -> None:
    result = CliRunner().invoke(command, ["driver", "--type", "blk", "--vhost-user", "s", "--list", "D03"])
    assert result.exit_code == 0
    assert [line.split()[0] for line in result.output.splitlines()] == [
        "D03.long",
        "D03.max",
        "D03.receive",
        "D03.short",
    ]


def test_a_long_list_of_device_types_stays_apart_from_the_title() -> None:
    result = CliRunner().invoke(command, ["driver", "--type", "blk", "--vhost-user", "s", "--list", "D10.data"])
    assert result.output.split()[:3] == ["D10.data", "blk,scsi,rng", "Data"]
