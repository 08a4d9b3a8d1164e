"""The load of a disk notices a byte that differs, an error, and a write that was lost."""

from __future__ import annotations

import errno
from collections.abc import Sequence

import pytest

from vnet.ports.disk.store import MemoryStore
from vnet.sim.configuration import Configuration
from vnet.sim.trial import run_trial
from vnet.topology.samples import built_in

TRIAL = Configuration(
    built_in("blk", keys='device = { store = "memory", size = 4 }'), "FILE", seconds=1, data_path=False
)


def failure() -> str:
    result = run_trial(TRIAL, 1, [])
    assert result["failure"]["kind"] == "data"
    return str(result["failure"]["text"])


def test_a_lost_write_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    write, calls = MemoryStore.pwritev, [0]

    def pwritev(self: MemoryStore, segs: Sequence[memoryview], offset: int, /) -> int:
        calls[0] += 1
        return sum(map(len, segs)) if calls[0] == 5 else write(self, segs, offset)

    monkeypatch.setattr(MemoryStore, "pwritev", pwritev)
    assert " instead of " in failure()


def test_an_error_of_the_store_is_one_of_the_load(monkeypatch: pytest.MonkeyPatch) -> None:
    def preadv(self: MemoryStore, segs: Sequence[memoryview], offset: int, /) -> int:
        raise OSError(errno.EIO, "a bad sector")

    monkeypatch.setattr(MemoryStore, "preadv", preadv)
    assert failure().endswith("IOERR")


def test_blocks_of_4096_bytes_and_read_only_disks_are_used_as_they_are() -> None:
    for keys in ("block_size = 4096", "read_only = true"):
        system = built_in("blk", keys=f'device = {{ store = "memory", size = 4, {keys} }}')
        result = run_trial(Configuration(system, "FILE", seconds=1, check=True), 1)
        assert result["failure"] is None
        assert result["loads"][0]["bytes"] > 0
