"""Loads of campaigns find what they look for, and measure from the disturbance on."""

from __future__ import annotations

import time

import pytest
from campaigns.disk import Ledger, content
from campaigns.load import Load


def test_a_block_has_a_version_between_the_flushed_and_the_newest_one() -> None:
    ledger = Ledger()
    ledger.newest[5], ledger.flushed[5] = 3, 2
    assert [ledger.check(5, content(5, version)) for version in (2, 3)] == [2, 3]
    assert ledger.check(6, bytes(4096)) == 0
    for data, error in (
        (content(5, 1), "block 5 has version 1; 2 was flushed, 3 written"),
        (content(5, 4), "block 5 has version 4"),
        (bytes(4096), "block 5 has version 0"),
        (content(6, 3), "block 5 is torn"),
        (content(5, 2)[:2048] + content(5, 3)[:2048], "block 5 is torn"),
    ):
        with pytest.raises(AssertionError, match=error):
            ledger.check(5, data)


class Twice(Load):
    """Answers a request that was sent before the disturbance, then one that was sent after it, then fails."""

    def run(self) -> None:
        for sent in (-1.0, time.monotonic() + 3600):
            self.answered(sent)
        self.ending.wait(60)
        raise EOFError("over")


def test_the_service_is_back_with_the_first_answer_to_a_later_request() -> None:
    load = Twice()
    load.mark(begun=0.0)
    load.__enter__()
    assert load.wait_back() > 0
    assert load.requests == 2
    for ending in (load.end, load.wait_back):
        with pytest.raises(EOFError, match="over"):
            ending()
