"""The tables of cases: their ids are those of the project's lists, and say what those say."""

from __future__ import annotations

import pytest

from support.requirements import read_hostile, read_virtio
from vnet.check.case import select
from vnet.check.cases import CASES
from vnet.check.verdicts import Level

ROWS = read_virtio()


def test_ids_are_unique_and_of_a_list() -> None:
    ids = [case.id for case in CASES]
    assert len(ids) == len(set(ids))
    assert not {case.row for case in CASES} - ROWS.keys() - set(read_hostile())


@pytest.mark.parametrize("case", [case for case in CASES if case.row in ROWS], ids=lambda case: case.id)
def test_a_requirement_has_its_section_and_its_strength(case: object) -> None:
    row = ROWS[case.row]  # type: ignore[attr-defined]
    assert row["section"].split()[0] == case.section  # type: ignore[attr-defined]
    assert row["who"] == "device"
    expected = Level.MUST if row["level"].startswith("MUST") else Level.SHOULD
    assert case.level is expected  # type: ignore[attr-defined]


def test_cases_are_selected_by_id_by_row_by_beginning_by_area_and_by_section() -> None:
    def ids(*words: str) -> set[str]:
        return {case.id for case in select(CASES, words)}

    assert ids("R04.size") == {"R04.size"}
    assert ids("R04") == {"R04.size", "R04.max"}
    assert ids("SPLIT-DEV-1") == {"SPLIT-DEV-1.cut", "SPLIT-DEV-1.joined", "SPLIT-DEV-1.write"}, (
        "not SPLIT-DEV-10 and on"
    )
    assert ids("BLK-DEV") >= {"BLK-DEV-2", "BLK-DEV-53"}
    assert {case.area for case in select(CASES, ["packed"])} == {"packed"}
    assert "SPLIT-DEV-9" in ids("2.7.7")
    assert len(ids()) == len(CASES)
    with pytest.raises(LookupError, match="no case is named 'X99'"):
        ids("R04", "X99")


def test_writing_cases_are_those_of_disks() -> None:
    assert {case.area for case in CASES if case.writes} == {"blk"}
