"""Lies to a driver: what each of them does to the ring, and the verdicts of drivers that survive, crash and hang."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.rigs.lied_to import tell
from vnet.check.driver.lies import LIES
from vnet.check.runner import NoDevice
from vnet.check.verdicts import Verdict

HARMLESS = {"D09", "D07.capacity-0", "D07.capacity-max", "D07.seg_max", "D07.discard", "D07.queues-0", "D07.queues-max"}
"""Lies that the driver by hand has no eye for: it works on."""
SEEN = [lie.id for lie in LIES if lie.id not in HARMLESS]


@pytest.mark.parametrize("kind", ["blk", "net"])
@pytest.mark.parametrize(
    ("reaction", "verdict", "words"),
    [
        ("gives up", Verdict.PASS, "ended with status 1"),
        ("crashes", Verdict.CRASHED, "was killed by SIGSEGV"),
        ("hangs", Verdict.WEDGED, "neither makes a request nor resets the device for 10 s"),
    ],
)
async def test_each_lie_is_seen_by_a_driver_and_its_reaction_has_a_verdict(
    tmp_path: Path, kind: str, reaction: str, verdict: Verdict, words: str
) -> None:
    results = await tell(tmp_path, kind, reaction)
    applicable = [lie.id for lie in LIES if not lie.types or kind in lie.types]
    for ident in applicable:
        result = results[ident]
        assert result.sent, result
        if ident in HARMLESS:
            assert result.verdict is Verdict.PASS, result
            assert "ended with status 0" in result.seen
        elif ident == "D11" and reaction == "hangs":
            assert (result.verdict, result.seen) == (Verdict.PASS, "its program lives")
        else:
            assert result.verdict is verdict, result
            assert words in result.seen
            assert result.alone == f"vnet check driver {ident}"
    for ident in set(results) - set(applicable):
        assert results[ident].verdict is Verdict.SKIP


async def test_a_driver_that_sets_the_device_up_again_survives(tmp_path: Path) -> None:
    results = await tell(tmp_path, "blk", "goes on", "D01.size", "D05.back", "D11")
    assert {result.verdict for result in results.values()} == {Verdict.PASS}
    assert {result.seen for result in results.values()} == {"the driver's program ended with status 0"}


async def test_a_driver_that_makes_too_few_requests_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(NoDevice, match="No such file or directory"):
        await tell(tmp_path, "blk", "absent", "D01.size")
    with pytest.raises(NoDevice, match="makes 6 requests, not 101: ended with status 0"):
        await tell(tmp_path, "blk", "gives up", "D01.size", after=100)
