"""Hostile memory, logs and inflight areas: this project's back end survives them; faults get their verdict."""

from __future__ import annotations

import pytest

from rings.observers.dirty import DirtyLog
from support.rigs.checked import check_disk, check_watched, unlike
from vnet.check.driver.back import WatchingBack
from vnet.check.driver.devices import WatchedRng
from vnet.check.trial import Options
from vnet.check.verdicts import Level, Verdict


async def test_this_projects_back_end_passes() -> None:
    assert unlike(await check_disk("memory", options=Options(policy=True)), Verdict.PASS) == {}


async def test_written_pages_that_are_not_logged_are_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DirtyLog, "mark", lambda log, addr, size: None)
    result = (await check_disk("V19"))["V19"]
    assert (result.verdict, result.level) == (Verdict.FAIL, Level.MUST)
    assert "wrote to pages 0x40000, 0x40002" in result.seen
    assert "did not mark them in the log" in result.seen


async def test_gaps_of_another_back_end_are_no_failures() -> None:
    results = await check_watched(
        "rng",
        lambda seen: WatchingBack(WatchedRng(seen), seen),
        "V08.slots", "V09", "V10.huge", "V11.ask", "V14",
        options=Options(policy=True),
    )  # fmt: skip
    assert unlike(results, Verdict.PASS) == {
        "V08.slots": "SKIP: the protocol feature CONFIGURE_MEM_SLOTS is not offered",
        "V09": "POLICY: accepted it: if the owner truncates it, SIGBUS ends the process",
        "V10.huge": "SKIP: the protocol feature LOG_SHMFD is not offered",
        "V11.ask": "SKIP: the protocol feature INFLIGHT_SHMFD is not offered",
        "V14.write": "WARN: acknowledged SET_CONFIG with success",
    }
