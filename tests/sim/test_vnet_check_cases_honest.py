"""Honest requests of every form: this project's disk serves them, and devices with a fault get their verdict."""

from __future__ import annotations

import pytest

from support.rigs.checked import check_disk, check_watched, unlike
from support.rigs.toy_back import check_verdict
from vnet.check.driver.back import WatchingBack
from vnet.check.driver.devices import WatchedRng
from vnet.check.verdicts import Verdict


async def test_this_projects_disk_passes() -> None:
    assert unlike(await check_disk("honest"), Verdict.PASS) == {}


@pytest.mark.parametrize(
    ("fault", "case", "verdict", "words"),
    [
        ("", "SPLIT-DEV-9", Verdict.PASS, "five of five came"),
        ("quiet", "SPLIT-DEV-9", Verdict.FAIL, "sent no notification"),
        ("", "SPLIT-DEV-8", Verdict.WARN, "notified"),
        ("length", "SPLIT-DEV-14.length", Verdict.FAIL, "it says that it wrote 65 bytes into 64"),
        ("legacy", "RFB-DEV-1", Verdict.FAIL, "without bit 32"),
    ],
)
async def test_a_toy_gets_its_verdict(fault: str, case: str, verdict: Verdict, words: str) -> None:
    await check_verdict(fault, case, verdict, words)


async def test_cases_of_features_that_are_not_offered_are_skipped() -> None:
    results = await check_watched(
        "rng",
        lambda seen: WatchingBack(WatchedRng(seen), seen, without=(28, 29)),
        "SPLIT-DEV-6",
        "SPLIT-DEV-10",
        "RESET",
    )
    assert unlike(results, Verdict.PASS) == {
        "SPLIT-DEV-6.table": "SKIP: INDIRECT_DESC is not offered",
        "SPLIT-DEV-6.direct": "SKIP: INDIRECT_DESC is not offered",
        "SPLIT-DEV-10": "SKIP: EVENT_IDX is not offered",
        "RESET-DEV-1": "SKIP: the protocol feature STATUS is not offered",
        "RESET-DEV-3": "SKIP: the protocol feature STATUS is not offered",
    }


async def test_a_refusal_of_features_that_can_not_be_seen_is_a_warning() -> None:
    results = await check_watched("rng", lambda seen: WatchingBack(WatchedRng(seen), seen), "FEAT-DEV-3")
    assert results["FEAT-DEV-3"].verdict is Verdict.WARN
    assert "acknowledged SET_FEATURES 0x1000000140000000 with success" in results["FEAT-DEV-3"].seen
