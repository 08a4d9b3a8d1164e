"""The checker against a device with chosen faults: each verdict, and a peer that is no device."""

from __future__ import annotations

import pytest

from support.rigs.toy_back import check, check_verdict
from vnet.check.runner import NoDevice
from vnet.check.trial import Options
from vnet.check.verdicts import Level, Verdict, exit_status


@pytest.mark.parametrize(
    ("fault", "case", "verdict", "words"),
    [
        ("", "B03", Verdict.SKIP, "not for rng devices"),
        ("", "V09", Verdict.SKIP, "--policy"),
        ("outside", "SPLIT-DEV-9", Verdict.FAIL, "outside of the memory that it was granted"),
        ("leaks", "SPLIT-DEV-9", Verdict.FAIL, "kept 1 file descriptors"),
        ("spins", "SPLIT-DEV-9", Verdict.FAIL, "uses a whole core"),
        ("dies", "SPLIT-DEV-9", Verdict.CRASHED, "the device ended"),
    ],
)
async def test_a_device_with_a_fault_gets_its_verdict(fault: str, case: str, verdict: Verdict, words: str) -> None:
    await check_verdict(fault, case, verdict, words)


async def test_a_rule_of_this_project_breaks_no_run() -> None:
    _, results = await check("V09", options=Options(policy=True))
    assert results["V09"].verdict is Verdict.POLICY
    assert exit_status(results.values()) == 0


async def test_a_device_that_no_longer_serves_is_wedged_and_started_again() -> None:
    peer, results = await check("SPLIT-DEV-9", "SPLIT-DEV-18", fault="silent", at={3})
    assert results["SPLIT-DEV-9"].verdict is Verdict.WEDGED
    assert "then no honest request works" in results["SPLIT-DEV-9"].seen
    assert results["SPLIT-DEV-18"].verdict is Verdict.PASS
    assert peer.restarts == 1


async def test_cases_behind_a_device_that_never_comes_back_are_skipped() -> None:
    _, results = await check("SPLIT-DEV-9", "SPLIT-DEV-18", fault="silent", at=range(2, 1000))
    assert results["SPLIT-DEV-9"].verdict is Verdict.WEDGED
    assert results["SPLIT-DEV-18"].verdict is Verdict.SKIP
    assert "did not serve again after SPLIT-DEV-9" in results["SPLIT-DEV-18"].seen
    assert exit_status(results.values()) == 1


@pytest.mark.parametrize("fault", ["silent", "flood", "flags", "dies"])
async def test_a_peer_that_is_no_device_ends_the_run(fault: str) -> None:
    with pytest.raises(NoDevice, match="no honest rng request works there"):
        await check("SPLIT-DEV-9", fault=fault, at=range(1000))


async def test_a_finding_has_what_was_sent_in_bytes() -> None:
    _, results = await check("R04.size", fault="loses")
    result = results["R04.size"]
    assert result.level is Level.SAFETY
    assert result.section == "2.7.6"
    assert any("available entry 0 = 16 in a ring of 16; kick" in text for text in result.sent)
    assert "SET_OWNER: 030000000100000000000000" in result.setup
    assert not any("SET_OWNER" in text for text in result.sent)


async def test_a_known_finding_fails_the_run_only_once_it_passes() -> None:
    _, results = await check("R04.size", fault="loses", known={"R04.size"})
    assert results["R04.size"].known
    assert exit_status(results.values()) == 0
    _, results = await check("R04.size", known={"R04.size"})
    assert exit_status(results.values()) == 1
