"""The load of a SCSI host notices data that differ and commands that fail, and sends again what a reset ended."""

from __future__ import annotations

import errno

import pytest

from support.rigs.stores import fail_reads, lose_a_write
from vnet.sim.configuration import Configuration
from vnet.sim.trial import run_trial
from vnet.topology.samples import built_in

UNITS = (
    'device = { luns = [{ store = "memory", size = 4 }, { store = "memory", size = 4, lun = 1, block_size = 4096 }] }'
)
TRIAL = Configuration(built_in("scsi", keys=UNITS), "FILE", seconds=1, check=True)


def test_all_units_are_used() -> None:
    result = run_trial(TRIAL, 1, [])
    assert result["failure"] is None
    assert result["loads"][0]["bytes"] > 1 << 18


def test_other_data_than_were_written_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    lose_a_write(monkeypatch)
    failure = run_trial(TRIAL, 1, [])["failure"]
    assert failure["kind"] == "data"
    assert "has other data than were written there" in failure["text"]


def test_a_failed_command_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    fail_reads(monkeypatch, OSError(errno.EIO, "a bad sector"))
    failure = run_trial(TRIAL, 1, [])["failure"]
    assert failure["kind"] == "data"
    assert "ended with status 0x02 and medium error, unrecovered read error" in failure["text"]
