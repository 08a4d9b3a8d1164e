"""The results of a campaign survive a kill, and are never mixed with those of another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vnet.campaign.results import open_results
from vnet.errors import ControlError

IDENTITY: dict[str, Any] = {"source": "--random", "seconds": 0.1, "loads": None, "topology": None, "extensions": {}}
BEGAN = "2026-11-30T12:00:00+00:00"
RECORDS = [{"seed": seed, "failure": None, "took": 0.5} for seed in range(3)]


def write(path: Path, *records: dict[str, Any]) -> bytes:
    with open_results(path, IDENTITY, "vnet campaign", BEGAN, list, resume=False) as results:
        for record in records:
            results.add(record)
    return path.read_bytes()


def resumed(path: Path, identity: dict[str, Any] = IDENTITY) -> tuple[list[dict[str, Any]], int]:
    records: list[dict[str, Any]] = []
    with open_results(path, identity, "vnet campaign", BEGAN, records.append, resume=True) as results:
        return records, results.removed


def test_each_result_is_a_line_behind_the_campaigns_own(tmp_path: Path) -> None:
    lines = write(tmp_path / "r", *RECORDS).splitlines()
    assert json.loads(lines[0]) == {"campaign": IDENTITY, "command": "vnet campaign", "began": BEGAN}
    assert [json.loads(line) for line in lines[1:]] == RECORDS
    assert resumed(tmp_path / "r") == (RECORDS, 0)


def test_a_campaign_that_goes_on_began_with_its_first_run(tmp_path: Path) -> None:
    write(tmp_path / "r", *RECORDS)
    with open_results(tmp_path / "r", IDENTITY, "vnet campaign", "later", list, resume=True) as results:
        assert results.began == BEGAN


def test_a_kill_at_any_byte_costs_one_result_at_most(tmp_path: Path) -> None:
    whole = write(tmp_path / "r", *RECORDS)
    for size in range(len(whole) + 1):
        (tmp_path / "r").write_bytes(whole[:size])
        lines = whole[:size].count(b"\n")
        records, removed = resumed(tmp_path / "r")
        assert records == RECORDS[: max(lines - 1, 0)]
        assert removed == size - len(b"".join(whole.splitlines(keepends=True)[:lines]))
        assert whole.startswith((tmp_path / "r").read_bytes())


def test_half_a_line_may_be_long(tmp_path: Path) -> None:
    whole = write(tmp_path / "r", *RECORDS)
    (tmp_path / "r").write_bytes(whole + b"{" * 200_000)
    assert resumed(tmp_path / "r") == (RECORDS, 200_000)
    assert (tmp_path / "r").read_bytes() == whole


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"seconds": 0.3}, "results of another campaign: seconds is 0.1 there, and 0.3 here; it was: vnet campaign"),
        ({"topology": "[hosts.a]"}, "results of another campaign: its topology differs; it was: vnet campaign"),
        ({"extensions": {"a.py": "00"}}, "results of another campaign: its extensions differ; it was: vnet campaign"),
        ({"commit": "abc"}, "results of another campaign: commit is None there, and 'abc' here; it was: vnet campaign"),
    ],
)
def test_results_of_another_campaign_are_refused_and_stay_as_they_are(
    tmp_path: Path, change: dict[str, Any], text: str
) -> None:
    whole = write(tmp_path / "r", *RECORDS)
    (tmp_path / "r").write_bytes(whole + b"half")
    with pytest.raises(ControlError) as caught:
        resumed(tmp_path / "r", {**IDENTITY, **change})
    assert str(caught.value) == f"{tmp_path / 'r'}: {text}"
    assert (tmp_path / "r").read_bytes() == whole + b"half"


@pytest.mark.parametrize("content", [b"some notes", b"some notes\nmore", b"[]\n", b'{"seed": 1}\n', b"\xff\n"])
def test_another_file_is_refused_and_stays_as_it_is(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "r").write_bytes(content)
    with pytest.raises(ControlError, match="line 1 is no"):
        resumed(tmp_path / "r")
    assert (tmp_path / "r").read_bytes() == content


@pytest.mark.parametrize("line", ["{", "[]", '{"seed":true,"failure":null,"took":1}', '{"seed":1}'])
def test_a_line_that_is_no_result_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "r").write_bytes(write(tmp_path / "r", *RECORDS) + line.encode() + b"\n")
    with pytest.raises(ControlError, match="line 5 is no"):
        resumed(tmp_path / "r")


def test_a_file_that_exists_and_one_that_is_missing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ControlError, match="there is no such file, so nothing to resume"):
        resumed(tmp_path / "r")
    write(tmp_path / "r")
    with pytest.raises(ControlError, match="the file exists; --resume goes on with it"):
        write(tmp_path / "r")


def test_a_file_has_one_campaign_at_a_time(tmp_path: Path) -> None:
    with (
        open_results(tmp_path / "r", IDENTITY, "vnet campaign", BEGAN, list, resume=False),
        pytest.raises(ControlError, match="another campaign is writing to it"),
    ):
        resumed(tmp_path / "r")
