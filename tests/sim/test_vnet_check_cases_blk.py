"""Cases of block devices: this project's disk passes them, and disks with a fault get their verdict."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from support.rigs.checked import check_disk, check_watched, unlike
from vnet.check.driver.back import WatchingBack
from vnet.check.driver.clauses import Observations
from vnet.check.driver.devices import WatchedBlk
from vnet.check.driver.ring import Chain
from vnet.check.kinds.blk import DISCARD, GET_ID, OUT, WRITE_ZEROES
from vnet.check.trial import Options
from vnet.check.verdicts import Level, Verdict

WRITES = Options(destructive=True)


class FaultyDisk(WatchedBlk):
    """A disk that answers requests of one type with another status, without data, or not at all."""

    def __init__(self, seen: Observations, kind: int, status: int | None) -> None:
        """``status`` None means no answer."""
        super().__init__(seen)
        self.kind, self.status = kind, status

    def serve(self, ring: int, chain: Chain) -> int | None:
        if int.from_bytes(chain.readable[:4], "little") != self.kind:
            return super().serve(ring, chain)
        if self.status is None:
            return None
        chain.fill(b"\xaa" * (chain.room - 1) + bytes((self.status,)))
        return chain.room


class OtherConfig(WatchedBlk):
    """A disk with a byte of its configuration changed."""

    def __init__(self, seen: Observations, offset: int) -> None:
        super().__init__(seen)
        self.config = self.config[:offset] + b"\1" + self.config[offset + 1 :]


class CacheWithoutFlush(WatchedBlk):
    features = 1 << 11  # CONFIG_WCE


def _answers(kind: int, status: int | None) -> Callable[[Observations], WatchedBlk]:
    return lambda seen: FaultyDisk(seen, kind, status)


async def test_this_projects_disk_passes() -> None:
    results = await check_disk("blk", options=WRITES)
    others = unlike(results, Verdict.PASS)
    assert others.keys() == {"BLK-DEV-18", "BLK-DEV-19", "B07", "C01"}
    assert all(text.startswith("SKIP") for text in others.values())


async def test_writes_to_a_read_only_disk_fail() -> None:
    results = await check_disk(
        "BLK-DEV-18", "BLK-DEV-19", "BLK-DEV-22", "SPLIT-DEV-1.write", read_only=True, options=WRITES
    )
    assert results["BLK-DEV-18"].seen == "status IOERR"
    assert results["BLK-DEV-19"].verdict is Verdict.PASS
    assert results["SPLIT-DEV-1.write"].seen == "RO is offered: the disk is read-only"
    assert results["BLK-DEV-22"].verdict is Verdict.SKIP


async def test_nothing_is_written_without_permission() -> None:
    results = await check_disk("BLK-DEV-22", "SPLIT-DEV-1.write", "V16.writes")
    assert all(text.endswith("--destructive allows") for text in unlike(results, Verdict.PASS).values())
    assert all(not result.sent for result in results.values())


@pytest.mark.parametrize(
    ("make", "case", "verdict", "words"),
    [
        (_answers(99, 0), "BLK-DEV-53", Verdict.FAIL, "it says that the request succeeded"),
        (_answers(99, 1), "BLK-DEV-53", Verdict.FAIL, "an unknown type ended with status IOERR, and UNSUPP is right"),
        (_answers(15, 1), "BLK-DEV-31.append", Verdict.FAIL, "ended with status IOERR, and UNSUPP is right"),
        (_answers(15, 0xFF), "BLK-DEV-31.append", Verdict.FAIL, "ended with it wrote no status"),
        (_answers(GET_ID, 0), "BLK-DEV-54", Verdict.PASS, "it is"),
        (_answers(DISCARD, 0), "BLK-DEV-21", Verdict.FAIL, "it says that the request succeeded"),
        (_answers(DISCARD, None), "B04.discard-many", Verdict.FAIL, "answered 0 of 1 requests"),
        (_answers(WRITE_ZEROES, 0), "BLK-DEV-22", Verdict.FAIL, "are no zeros after write-zeroes with flags 0"),
        (_answers(OUT, 0), "SPLIT-DEV-1.write", Verdict.FAIL, "the sectors differ"),
        (lambda seen: OtherConfig(seen, 33), "BLK-DEV-4", Verdict.FAIL, "unused0 is 01"),
        (lambda seen: OtherConfig(seen, 58), "BLK-DEV-4", Verdict.FAIL, "unused1 000100"),
        (CacheWithoutFlush, "BLK-DEV-1", Verdict.WARN, "without bit 9"),
        (CacheWithoutFlush, "BLK-DEV-2", Verdict.FAIL, "CONFIG_WCE without FLUSH"),
    ],
)
async def test_a_disk_with_a_fault_gets_its_verdict(
    make: Callable[[Observations], WatchedBlk], case: str, verdict: Verdict, words: str
) -> None:
    results = await check_watched("blk", lambda seen: WatchingBack(make(seen), seen), case, options=WRITES)
    assert results[case].verdict is verdict, results[case]
    assert words in results[case].seen


async def test_an_error_must_be_the_right_one() -> None:
    results = await check_watched("blk", lambda seen: WatchingBack(FaultyDisk(seen, OUT, 2), seen), "B01")
    assert unlike(results, Verdict.PASS) == {"B01.write": "FAIL: ended with status UNSUPP, and IOERR is right"}
    assert results["B01.write"].level is Level.MUST
