"""Hostile split rings: this project's disk survives them, and devices with a fault get their verdict."""

from __future__ import annotations

import pytest

from support.rigs.checked import check_disk, check_watched, unlike
from support.rigs.toy_back import check_verdict
from vnet.check.driver.back import WatchingBack
from vnet.check.driver.devices import WatchedRng
from vnet.check.trial import Options
from vnet.check.verdicts import Verdict


async def test_this_projects_disk_passes() -> None:
    results = await check_disk("split", options=Options(policy=True))
    assert unlike(results, Verdict.PASS) == {"R20.1": "SKIP: a request has at least 2 buffers"}


@pytest.mark.parametrize(
    ("fault", "case", "verdict", "words"),
    [
        ("", "R01.two", Verdict.PASS, "closed the connection"),
        ("", "R04.size", Verdict.PASS, "closed the connection"),
        ("", "R20.4", Verdict.PASS, "over the wrap"),
        ("readable", "R14", Verdict.FAIL, "wrote into a read-only buffer"),
    ],
)
async def test_a_toy_gets_its_verdict(fault: str, case: str, verdict: Verdict, words: str) -> None:
    await check_verdict(fault, case, verdict, words)


async def test_a_buffer_over_two_regions_may_be_refused() -> None:
    results = await check_watched("rng", lambda seen: WatchingBack(WatchedRng(seen), seen), "R10.split")
    assert results["R10.split"].verdict is Verdict.WARN
    assert results["R10.split"].seen == "closed the connection instead of an answer"
