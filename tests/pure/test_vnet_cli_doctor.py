"""``vnet doctor``: a table for people, JSON for programs."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from vnet.cli import doctor
from vnet.doctor import Finding, Grade

OK = Finding("Python", Grade.OK, "3.11.7", "everything")
TOOL = Finding("iperf3", Grade.MISSING, "not installed", "vnet demo", "sudo apt-get install -y iperf3", "the rest")
PACKAGE = Finding("package trio", Grade.MISSING, "not installed", "everything", "pip install trio", "nothing", False)


@pytest.mark.parametrize(("findings", "status"), [([OK], 0), ([OK, TOOL], 0), ([OK, TOOL, PACKAGE], 1)])
def test_only_a_missing_package_fails_the_command(
    monkeypatch: pytest.MonkeyPatch, findings: list[Finding], status: int
) -> None:
    monkeypatch.setattr(doctor, "examine", lambda: findings)
    assert CliRunner().invoke(doctor.command).exit_code == status


def test_a_missing_program_is_shown_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "examine", lambda: [OK, TOOL])
    assert CliRunner().invoke(doctor.command).output.splitlines() == [
        "ok       Python  3.11.7",
        "MISSING  iperf3  not installed",
        "                 for: vnet demo",
        "                 mend: sudo apt-get install -y iperf3",
        "                 works without it: the rest",
        "1 of 2 are missing or limited.",
    ]


def test_json_has_every_field(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "examine", lambda: [TOOL])
    [row] = json.loads(CliRunner().invoke(doctor.command, ["--json"]).output)
    assert row == {
        "name": "iperf3",
        "grade": "missing",
        "state": "not installed",
        "needed_for": "vnet demo",
        "mend": "sudo apt-get install -y iperf3",
        "without": "the rest",
        "optional": True,
    }
