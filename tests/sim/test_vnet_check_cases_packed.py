"""Packed rings: this project's disk serves and survives them; a fault gets its verdict."""

from __future__ import annotations

import pytest

from drivers.transports.vhost_user.back import VhostUserBack
from support.rigs.checked import check_disk, unlike
from support.rigs.toy_back import check_verdict
from vnet.check.verdicts import Verdict


async def test_this_projects_disk_passes() -> None:
    results = await check_disk("packed", packed=True)
    assert unlike(results, Verdict.PASS) == {"P05.one": "SKIP: a request has at least 2 buffers"}
    assert results["PACKED-DEV-3"].seen == "27 requests in five laps"


async def test_a_missing_notification_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(VhostUserBack, "call", lambda back, queue: None)
    results = await check_disk("PACKED-DEV-4", "PACKED-DEV-9", packed=True)
    assert unlike(results, Verdict.PASS) == {
        "PACKED-DEV-9": "FAIL: used a buffer and sent no notification within 0.5 s"
    }


@pytest.mark.parametrize(
    ("fault", "case", "verdict", "words"),
    [
        ("", "P06", Verdict.SKIP, "RING_PACKED is not offered"),
    ],
)
async def test_a_toy_gets_its_verdict(fault: str, case: str, verdict: Verdict, words: str) -> None:
    await check_verdict(fault, case, verdict, words)
