"""Stores in memory with a defect."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from vnet.ports.disk.store import MemoryStore

__all__ = ["fail_reads", "lose_a_write"]


def lose_a_write(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have stores ignore the fifth write."""
    write, calls = MemoryStore.pwritev, [0]

    def pwritev(self: MemoryStore, segs: Sequence[memoryview], offset: int, /) -> int:
        calls[0] += 1
        return sum(map(len, segs)) if calls[0] == 5 else write(self, segs, offset)

    monkeypatch.setattr(MemoryStore, "pwritev", pwritev)


def fail_reads(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """Have stores raise an error instead of reading."""

    def preadv(self: MemoryStore, segs: Sequence[memoryview], offset: int, /) -> int:
        raise error

    monkeypatch.setattr(MemoryStore, "preadv", preadv)
