"""Reports of the checker: text, JSON, JUnit."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import attrs

from vnet.check.junit import write_junit
from vnet.check.report import as_data, details, line, skipped, summary
from vnet.check.verdicts import Level, Result, Verdict

FAILED = Result(
    "R04.size", "A head", "split", "2.7.6", Level.SAFETY, Verdict.FAIL, "lost it", sent=("entry 0 = 16; kick",),
    alone="vnet check device --type blk R04.size", output="one\ntwo", seconds=0.25,
)  # fmt: skip
PASSED = attrs.evolve(FAILED, id="R03", verdict=Verdict.PASS, seen="")


def test_a_finding_has_its_sentence_its_bytes_and_its_command() -> None:
    assert details(FAILED) == [
        "FAIL R04.size: A head",
        "  sentence  SAFETY, VIRTIO 1.4 section 2.7.6",
        "  sent      entry 0 = 16; kick",
        "  seen      lost it",
        "  printed   one",
        "            two",
        "  alone     vnet check device --type blk R04.size",
    ]
    many = attrs.evolve(FAILED, sent=tuple(f"message {at}" for at in range(20)))
    assert "  sent      ... 12 more in JSON and JUnit" in details(many)
    assert len(details(many, every=True)) == 26


def test_lines_and_counts() -> None:
    assert line(PASSED) == "PASS    R03                     A head: as it must be"
    assert line(attrs.evolve(FAILED, known=True)) == "FAIL    R04.size                A head: lost it (known)"
    skip = attrs.evolve(FAILED, verdict=Verdict.SKIP, seen="not offered")
    assert skipped([skip, skip, PASSED]) == ["SKIP      2 cases: not offered"]
    assert summary([PASSED, FAILED, skip], 2.4) == "3 cases in 2 s: 1 PASS, 1 FAIL, 1 SKIP"


def test_json_has_every_field() -> None:
    data = json.loads(json.dumps(as_data([FAILED], {"type": "blk"}, 1.23456)))
    assert data["type"] == "blk"
    assert data["seconds"] == 1.235
    [row] = data["results"]
    assert row == {
        "id": "R04.size", "title": "A head", "area": "split", "section": "2.7.6", "level": "SAFETY", "verdict": "FAIL",
        "seen": "lost it", "setup": [], "sent": ["entry 0 = 16; kick"], "output": "one\ntwo", "seconds": 0.25,
        "alone": "vnet check device --type blk R04.size", "known": False,
    }  # fmt: skip


def test_junit_fails_what_fails_the_run(tmp_path: Path) -> None:
    results = [
        attrs.evolve(FAILED, id=verdict.value, verdict=verdict, area=verdict.value[0], output="\0 odd \x1b bytes")
        for verdict in Verdict
    ]
    write_junit(tmp_path / "r.xml", results, "vnet check blk")
    cases = {case.get("name", "").split()[0]: case for case in ElementTree.parse(tmp_path / "r.xml").iter("testcase")}
    kinds = {name: [child.tag for child in case] for name, case in cases.items()}
    assert kinds == {
        "PASS": [], "FAIL": ["failure"], "WARN": ["system-out"], "POLICY": ["system-out"], "SKIP": ["skipped"],
        "WEDGED": ["error"], "CRASHED": ["error"],
    }  # fmt: skip
    failure = cases["FAIL"].find("failure")
    assert failure is not None
    assert failure.get("message") == "FAIL: lost it"
    assert "entry 0 = 16; kick" in (failure.text or "")
