"""The raw packed ring of the checker, against the format as the specification has it (VIRTIO 1.4 section 2.8)."""

from __future__ import annotations

from vnet.check.memory import Arena
from vnet.check.packed import AVAIL, USED, PackedRing
from vnet.check.split import NEXT, WRITE, Buffer


def test_packed_laps_flip_both_flags(arena: Arena) -> None:
    ring = PackedRing(arena, 3)
    for request in range(6):
        ident = ring.submit([Buffer(0x1000, 16)])
        lap = request < 3
        assert ring.read(request)[2] == (AVAIL if lap else USED)
        assert ring.answers() == []
        ring.write(request, 0, 5, ident, WRITE | (AVAIL | USED if lap else 0))
        assert ring.answers() == [(ident, 5)]
    assert ring.answers() == []


def test_a_packed_list_is_skipped_as_a_whole(arena: Arena) -> None:
    ring = PackedRing(arena, 4)
    first = ring.submit([Buffer(0x1000, 16), Buffer(0x2000, 8, True)])
    second = ring.submit([Buffer(0x3000, 1)])
    assert [ring.read(at)[2] for at in range(3)] == [NEXT | AVAIL, WRITE | AVAIL, AVAIL]
    ring.write(0, 0, 8, first, AVAIL | USED | WRITE)
    ring.write(2, 0, 8, second, AVAIL | USED)  # without WRITE the length means nothing
    assert ring.answers() == [(first, 8), (second, 0)]
