"""iperf3's client and a server that is not done with the client before."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence

import pytest
import trio

from vnet.errors import TrafficError
from vnet.traffic import kernel as traffic
from vnet.traffic.kernel import iperf3

BUSY = {"start": {}, "end": {}, "error": "error - the server is busy running a test. try again later"}
GONE = {"start": {}, "end": {}, "error": "unable to connect to server: Connection refused"}
DONE = {"end": {"sum_received": {"seconds": 1.0, "bytes": 1000, "bits_per_second": 8000.0}}}


def answer(reports: Sequence[object], monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Have clients print these in turn, the last one again and again; returns a list that grows with each run."""
    runs: list[int] = []

    async def run(netns: str | None, argv: Sequence[str], timeout: float) -> subprocess.CompletedProcess[bytes]:
        await trio.sleep(0.01)
        runs.append(len(runs))
        return subprocess.CompletedProcess(argv, 0, json.dumps(reports[min(len(runs), len(reports)) - 1]).encode(), b"")

    monkeypatch.setattr(traffic, "run", run)
    return runs


async def test_a_busy_server_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = answer([BUSY, BUSY, DONE], monkeypatch)
    result = await iperf3(None, "198.18.0.2", seconds=1)
    assert (result.bytes, result.complete, len(runs)) == (1000, True, 3)


@pytest.mark.parametrize(("report", "error"), [(BUSY, "the server is busy"), (GONE, "Connection refused")])
async def test_any_other_error_and_one_that_stays_come_out(
    monkeypatch: pytest.MonkeyPatch, report: object, error: str
) -> None:
    runs = answer([report], monkeypatch)
    with pytest.raises(TrafficError, match=error):
        await iperf3(None, "198.18.0.2", seconds=1)
    assert (len(runs) > 100) == (report is BUSY)
