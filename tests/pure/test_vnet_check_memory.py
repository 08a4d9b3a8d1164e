"""The checker's memory: its canaries notice a write beside the part that the device is granted."""

from __future__ import annotations

from vnet.check.memory import Arena


def test_the_canaries_notice_a_write_beside_the_memory(arena: Arena) -> None:
    assert arena.intact()
    arena.write(arena.base, b"\1" * arena.size)
    assert arena.intact()
    arena._whole[0] = 0
    assert not arena.intact()
