"""The clauses for drivers: they say what the list of requirements says, and count how often a driver kept them."""

from __future__ import annotations

import pytest

from support.requirements import read_virtio
from vnet.check.driver.clauses import CLAUSES, SHOWN, Clause, Observations
from vnet.check.verdicts import Level, Verdict

ROWS = read_virtio()


@pytest.mark.parametrize("clause", CLAUSES.values(), ids=lambda clause: clause.id)
def test_a_clause_for_drivers_has_its_section_and_its_strength(clause: Clause) -> None:
    row = ROWS[clause.id]
    assert (row["section"].split()[0], row["who"]) == (clause.section, "driver")
    assert clause.level is (Level.MUST if row["level"].startswith("MUST") else Level.SHOULD)


def test_a_clause_is_kept_broken_or_not_seen() -> None:
    seen = Observations("blk")
    for good in (True, False, True):
        assert seen.judge("SPLIT-DRV-3", good, "head 0") is good
    seen.judge("BLK-DRV-12", False, "512 bytes")
    seen.judge("BLK-DRV-13", True)
    results = {result.id: result for result in seen.results(["vnet", "check", "driver", "a b"])}
    assert {ident: (result.verdict, result.seen, result.sent) for ident, result in results.items() if result.sent} == {
        "SPLIT-DRV-3": (Verdict.FAIL, "broken 1 of 3 times", ("head 0",)),
        "BLK-DRV-12": (Verdict.WARN, "broken 1 of 1 times", ("512 bytes",)),
    }
    assert (results["BLK-DRV-13"].verdict, results["BLK-DRV-13"].seen) == (Verdict.PASS, "kept once")
    assert (results["BLK-DRV-9"].verdict, results["BLK-DRV-9"].seen) == (Verdict.SKIP, "not seen")
    assert results["BLK-DRV-9"].alone == "vnet check driver 'a b'"


def test_only_the_first_breaches_are_shown() -> None:
    seen = Observations("rng")
    for count in range(SHOWN + 5):
        seen.judge("SPLIT-DRV-13", False, f"index {count}")
    [result] = [result for result in seen.results([]) if result.sent]
    assert result.seen == f"broken {SHOWN + 5} of {SHOWN + 5} times"
    assert result.sent == tuple(f"index {count}" for count in range(SHOWN))


@pytest.mark.parametrize(("kind", "areas"), [("blk", {"BLK"}), ("net", {"NET"}), ("scsi", {"SCSI"}), ("rng", set())])
def test_a_device_type_has_the_clauses_of_all_types_and_its_own(kind: str, areas: set[str]) -> None:
    ids = [result.id for result in Observations(kind).results([])]
    assert {ident.partition("-")[0] for ident in ids} == {"FEAT", "RFB", "SPLIT", *areas}
    ids = [result.id for result in Observations(kind, packed=True).results([])]
    assert {ident.partition("-")[0] for ident in ids} == {"FEAT", "RFB", "SPLIT", "PACKED", *areas}
