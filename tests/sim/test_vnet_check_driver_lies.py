"""Lies to a driver: each reaches it, and its reaction has a verdict; all other replies stay honest."""

from __future__ import annotations

from pathlib import Path

import pytest

from drivers.transports.vhost_user.constants import FrontendRequest
from drivers.transports.vhost_user.payloads import U64, Config
from support.rigs.lied_to import tell
from vnet.check.driver.lies import LIES, Lie, Telling
from vnet.check.verdicts import Verdict

R = FrontendRequest
BY_ID = {lie.id: lie for lie in LIES}
HARMLESS = {"D09", "D07.capacity-0", "D07.capacity-max", "D07.seg_max", "D07.discard", "D07.queues-0", "D07.queues-max"}
"""Lies that the driver by hand has no eye for: it works on."""


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


@pytest.mark.parametrize("lie", LIES, ids=lambda lie: lie.id)
def test_a_lie_has_one_function_or_is_a_storm(lie: Lie) -> None:
    assert sum((lie.answer is not None, lie.reply is not None, lie.storm)) == 1


def test_a_lie_about_a_field_changes_that_field_alone() -> None:
    reply = BY_ID["D07.blk_size-3"].reply
    assert reply is not None
    whole = Config(0, 0, bytes(60))
    assert reply(R.GET_CONFIG, whole) == Config(0, 0, bytes(20) + b"\3\0\0\0" + bytes(36))
    later = Config(24, 0, bytes(36))
    assert reply(R.GET_CONFIG, later) is later
    assert reply(R.SET_CONFIG, whole) is whole


async def test_features_lack_version_1_at_every_second_read_of_each_run() -> None:
    honest, less = U64(1 << 32 | 1 << 30), U64(1 << 30)
    for _ in range(2):
        reply = Telling(BY_ID["D08.features"], 0).reply
        replies = [reply(R.GET_FEATURES, honest) for _ in range(5)]
        assert replies == [honest, less, honest, less, honest]
        assert reply(R.GET_QUEUE_NUM, honest) is honest
