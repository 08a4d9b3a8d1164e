"""The raw split ring of the checker, against the format as the specification has it (VIRTIO 1.4 section 2.7)."""

from __future__ import annotations

import struct

import pytest

from vnet.check.memory import Arena
from vnet.check.split import INDIRECT, NEXT, WRITE, Buffer, SplitRing


def test_a_split_request_is_a_chain_and_an_entry(arena: Arena) -> None:
    ring = SplitRing(arena, 4)
    head = ring.submit([Buffer(0x1000, 16), Buffer(0x2000, 512, True), Buffer(0x3000, 1, True)])
    assert head == 0
    assert [ring.read(at) for at in range(3)] == [
        struct.pack("<QIHH", 0x1000, 16, NEXT, 1),
        struct.pack("<QIHH", 0x2000, 512, NEXT | WRITE, 2),
        struct.pack("<QIHH", 0x3000, 1, WRITE, 0),
    ]
    assert arena.read(ring.driver, 6) == struct.pack("<HHH", 0, 1, 0)
    assert ring.answers() == []
    arena.write(ring.device + 4, struct.pack("<II", 0, 513))
    arena.write(ring.device + 2, struct.pack("<H", 1))
    assert ring.pending == 1
    assert ring.answers() == [(0, 513)]
    assert ring.answers() == []


def test_split_chains_and_indices_wrap(arena: Arena) -> None:
    ring = SplitRing(arena, 4)
    ring.start_at(0xFFFF)
    ring.place(3)
    assert ring.submit([Buffer(0x1000, 1), Buffer(0x2000, 2)]) == 3
    assert ring.read(3) == struct.pack("<QIHH", 0x1000, 1, NEXT, 0)
    assert ring.avail_idx == 0
    arena.write(ring.device + 4 + 8 * 3, struct.pack("<II", 3, 7))
    arena.write(ring.device + 2, struct.pack("<H", 0))
    assert ring.answers() == [(3, 7)]


def test_a_table_is_named_by_one_descriptor(arena: Arena) -> None:
    ring = SplitRing(arena, 4)
    head = ring.table([Buffer(0x1000, 16), Buffer(0x2000, 8, True)], WRITE)
    addr, size, flags, _ = struct.unpack("<QIHH", ring.read(head))
    assert (size, flags) == (32, INDIRECT | WRITE)
    assert arena.read(addr, 32) == struct.pack("<QIHHQIHH", 0x1000, 16, NEXT, 1, 0x2000, 8, WRITE, 0)


def test_a_used_index_that_lies_gives_no_endless_list(arena: Arena) -> None:
    ring = SplitRing(arena, 4)
    arena.write(ring.device + 2, struct.pack("<H", 0x9000))
    assert ring.pending == 0x9000
    assert len(ring.answers()) == 4


def test_an_answer_that_comes_while_answers_are_taken_is_not_lost(
    arena: Arena, monkeypatch: pytest.MonkeyPatch
) -> None:
    ring = SplitRing(arena, 4)
    reads = iter([0, 1, 1, 1])
    monkeypatch.setattr(SplitRing, "used_idx", property(lambda ring: next(reads)))
    assert ring.answers() == []
    assert ring.answers() == [(0, 0)]
