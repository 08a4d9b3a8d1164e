"""Hostile messages: this project's back end survives them, and gaps of another back end are warnings."""

from __future__ import annotations

import pytest

from support.rigs.checked import check_disk, check_watched, unlike
from support.rigs.toy_back import check_verdict
from vnet.check.driver.back import WatchingBack
from vnet.check.driver.devices import WatchedRng
from vnet.check.verdicts import Verdict


async def test_this_projects_back_end_passes() -> None:
    assert unlike(await check_disk("messages"), Verdict.PASS) == {
        "V06": "SKIP: the process is unknown: --pid or --spawn"
    }


@pytest.mark.parametrize(
    ("fault", "case", "verdict", "words"),
    [
        ("", "V17.second", Verdict.PASS, "the first one goes on"),
    ],
)
async def test_a_toy_gets_its_verdict(fault: str, case: str, verdict: Verdict, words: str) -> None:
    await check_verdict(fault, case, verdict, words)


async def test_an_acknowledged_ring_that_is_none_and_a_ring_that_is_not_polled_are_warnings() -> None:
    results = await check_watched("rng", lambda seen: WatchingBack(WatchedRng(seen), seen), "V07.enable-ffff", "V18")
    assert unlike(results, Verdict.PASS) == {
        "V07.enable-ffff": "WARN: acknowledged SET_VRING_ENABLE with success",
        "V18.none": "WARN: answered 0 of 1 requests",
    }
