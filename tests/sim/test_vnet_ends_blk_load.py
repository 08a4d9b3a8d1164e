"""The load of a disk notices a byte that differs, an error, and a write that was lost."""

from __future__ import annotations

import errno

import attrs
import pytest

from support.rigs.stores import fail_reads, lose_a_write
from vnet.sim.configuration import Configuration
from vnet.sim.trial import run_trial
from vnet.topology.samples import built_in

TRIAL = Configuration(
    built_in("blk", keys='device = { store = "memory", size = 4 }'), "FILE", seconds=1, data_path=False
)


def failure(trial: Configuration = TRIAL) -> str:
    result = run_trial(trial, 1, [])
    assert result["failure"]["kind"] == "data"
    return str(result["failure"]["text"])


def test_a_lost_write_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    lose_a_write(monkeypatch)
    assert " instead of " in failure()


def test_an_error_of_the_store_is_one_of_the_load(monkeypatch: pytest.MonkeyPatch) -> None:
    fail_reads(monkeypatch, OSError(errno.EIO, "a bad sector"))
    assert failure().endswith("IOERR")
    assert failure(attrs.evolve(TRIAL, seconds=0.001)).endswith("IOERR")  # in the last round, without another one


def test_blocks_of_4096_bytes_and_read_only_disks_are_used_as_they_are() -> None:
    for keys in ("block_size = 4096", "read_only = true"):
        system = built_in("blk", keys=f'device = {{ store = "memory", size = 4, {keys} }}')
        result = run_trial(Configuration(system, "FILE", seconds=1, check=True), 1)
        assert result["failure"] is None
        assert result["loads"][0]["bytes"] > 0
