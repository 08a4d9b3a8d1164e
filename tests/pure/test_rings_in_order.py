"""Buffers that are used in the order in which they were made available, seen by a raw peer (VIRTIO_F_IN_ORDER)."""

from __future__ import annotations

import pytest

from rings.errors import BadRing, LocalRingError
from rings.in_order import InOrderVringh
from rings.layout import INDIRECT, NEXT, WRITE
from rings.memory import Addr
from rings.queue import complete, getdesc
from rings.testing import Desc, PackedDesc
from support.rigs.packed import PackedRig
from support.rigs.ring import SPOT, MakeRig, Rig, get, seg

SHAPES = [(1, 0), (2, 1), (0, 3), (1, 0), (0, 1), (3, 2), (1, 1)]
"""Readable and writable segments of chains."""


@pytest.fixture
def packed() -> PackedRig:
    return PackedRig(5)


def device(rig: Rig | PackedRig, *, batches: bool = True) -> InOrderVringh:
    return InOrderVringh(rig.device(), batches=batches)


class TestSplitDriver:
    @pytest.mark.virtio("SPLIT-DRV-6", "SPLIT-DRV-7")
    def test_descriptors_are_taken_in_ring_order_from_the_first_on_and_wrap(self, make_rig: MakeRig) -> None:
        rig = make_rig(indirect=False)
        driver = rig.driver(in_order=True)
        expected = 0
        for turn in range(4 * len(SHAPES)):
            readable, writable = SHAPES[turn % len(SHAPES)]
            driver.add([seg(SPOT, 8)] * readable, [seg(SPOT, 8)] * writable, turn)
            driver.publish()
            head, count = rig.raw.entry(turn), readable + writable
            assert head == expected
            for place in range(head, head + count - 1):
                desc = rig.raw.read(place % 8)
                assert desc.flags & NEXT
                assert desc.next == (place + 1) % 8, "the next descriptor is the one behind, or the first at the end"
            expected = (head + count) % 8
            rig.raw.give(head)
            assert get(driver) == (turn, 0)

    @pytest.mark.virtio("SPLIT-DRV-12")
    def test_entries_of_a_table_are_linked_in_order(self, rig: Rig) -> None:
        driver = rig.driver(in_order=True)
        for turn in range(9):
            driver.add([seg(SPOT, 8)] * 2, [seg(SPOT, 8)] * 2, turn)
            driver.publish()
            table = rig.raw.read(rig.raw.entry(turn))
            assert table.flags == INDIRECT
            entries = bytes(rig.memory.view(Addr(table.addr), 64))
            assert [Desc.parse(entries[at : at + 16]).next for at in (0, 16, 32)] == [1, 2, 3]
            rig.raw.give(rig.raw.entry(turn))
            assert get(driver) == (turn, 0)

    @pytest.mark.virtio("SPLIT-DRV-19")
    @pytest.mark.parametrize("limit", [1, 2, 8])
    def test_an_element_stands_for_all_chains_up_to_its_own(self, rig: Rig, limit: int) -> None:
        driver = rig.driver(in_order=True)
        for token, (readable, writable) in enumerate(SHAPES[:5]):
            driver.add([seg(SPOT, 8)] * readable, [seg(SPOT, 10)] * writable, token)
        driver.publish()
        rig.raw.set_elem(0, rig.raw.entry(3), 0)
        rig.raw.set_elem(4, rig.raw.entry(4), 7)
        rig.raw.set_elem(1, 0xFFFF, 0xFFFF)  # the device does not write these
        rig.raw.used_idx = 5
        done: list[tuple[int, int]] = []
        while not done or len(done) < 5:
            assert driver.enable_cb(), "chains of the batch are still to be taken back"
            assert driver.num_free == 3 + len(done), "each takes one descriptor: longer chains are in tables"
            done += driver.get_each(limit)
        assert done == [(0, 0), (1, 10), (2, 30), (3, 0), (4, 7)], "the device used the ones before completely"
        assert not driver.enable_cb()
        assert driver.num_free == 8

    @pytest.mark.parametrize("head", [3, 4, 8, 0xFFFF_FFFF])
    def test_an_element_beyond_the_index_or_the_ring_breaks_the_queue(self, rig: Rig, head: int) -> None:
        driver = rig.driver(in_order=True)
        for token in range(4):
            driver.add([seg(SPOT, 8)], (), token)
        driver.publish()
        rig.raw.set_elem(0, 0, 0)
        rig.raw.set_elem(1, head, 0)  # the index covers chains 1 and 2 besides
        rig.raw.used_idx = 3
        assert driver.get_each(8) == [(0, 0)]
        with pytest.raises(BadRing, match=f"used element 1 names descriptor {head}, .* 2 oldest"):
            driver.get_each(8)

    def test_a_length_beyond_the_buffer_is_counted(self, rig: Rig) -> None:
        driver = rig.driver(in_order=True)
        driver.add((), [seg(SPOT, 8)], 0)
        driver.publish()
        rig.raw.give(0, 9)
        assert driver.get_each(8) == [(0, 0)]
        assert driver.statistics().bad_lengths == 1


class TestSplitDevice:
    @pytest.mark.virtio("RFB-DEV-3")
    def test_a_chain_that_is_done_waits_for_older_ones(self, rig: Rig) -> None:
        ring = device(rig)
        for head in range(4):
            rig.offer(Desc(SPOT, 8, WRITE), head=head)
        assert [chain[0] for chain in ring.getdescs(8)] == [0, 1, 2, 3]
        for head in (2, 1, 3):
            complete(ring, head, head)
            assert not ring.publish()
            assert rig.raw.used_idx == 0
            assert ring.state().in_flight == 4
        complete(ring, 0, 5)
        ring.publish()
        assert [rig.raw.elem(at) for at in range(rig.raw.used_idx)] == [(0, 5), (1, 1), (2, 2), (3, 3)]
        assert ring.state().in_flight == 0

    @pytest.mark.virtio("SPLIT-DEV-15")
    def test_one_element_marks_all_readable_chains_up_to_its_own_as_used(self, rig: Rig) -> None:
        ring = device(rig)
        for head in range(6):
            rig.offer(Desc(SPOT, 8, WRITE if head == 3 else 0), head=head)
        for at in range(8):
            rig.raw.set_elem(at, 0xEEEE, 0xEEEE)
        heads = [chain[0] for chain in ring.getdescs(8)]
        ring.complete_each([(head, 0) for head in heads])
        ring.publish()
        assert rig.raw.used_idx == 6
        used = {at: rig.raw.elem(at) for at in range(8) if rig.raw.elem(at)[0] != 0xEEEE}
        assert used == {0: (2, 0), 3: (3, 0), 4: (5, 0)}, "an element per batch, at the place of its first chain"

    def test_without_batches_each_chain_has_its_element(self, rig: Rig) -> None:
        ring = device(rig, batches=False)
        for head in range(3):
            rig.offer(Desc(SPOT, 8), head=head)
        ring.complete_each([(chain[0], 0) for chain in ring.getdescs(8)][::-1])
        ring.publish()
        assert [rig.raw.elem(at) for at in range(3)] == [(0, 0), (1, 0), (2, 0)]

    def test_the_chains_to_take_again_are_those_not_shown_oldest_first(self, rig: Rig) -> None:
        ring = device(rig)
        for head in (3, 1, 2):
            rig.offer(Desc(SPOT, 8, WRITE), head=head)
        ring.getdescs(8)
        complete(ring, 1, 0)
        assert ring.in_flight() == [3, 1, 2]

    def test_a_chain_that_waits_is_neither_completed_twice_nor_abandoned(self, rig: Rig) -> None:
        ring = device(rig)
        for head in range(3):
            rig.offer(Desc(SPOT, 8, WRITE), head=head)
        ring.getdescs(8)
        complete(ring, 1, 0)
        with pytest.raises(LocalRingError, match="not taken"):
            complete(ring, 1, 0)
        with pytest.raises(LocalRingError, match="not all of them are in flight"):
            ring.abandon(2)
        assert ring.abandon(1) == [2]
        assert getdesc(ring) is not None


class TestPacked:
    def add(self, rig: PackedRig, count: int, writable: bool = False) -> None:
        for ident in range(count):
            rig.raw.offer(PackedDesc(SPOT, 8, WRITE if writable else 0), ident=ident)

    @pytest.mark.virtio("PACKED-DEV-7")
    def test_one_descriptor_marks_all_readable_chains_up_to_its_own_as_used(self, packed: PackedRig) -> None:
        ring = device(packed)
        packed.raw.offer(PackedDesc(SPOT, 8), PackedDesc(SPOT, 8), ident=7 % 5)
        packed.raw.offer(PackedDesc(SPOT, 8), ident=3)
        packed.raw.offer(PackedDesc(SPOT, 8, WRITE), ident=4)
        before = [packed.raw.read(at) for at in range(5)]
        ring.complete_each([(chain[0], 5 if chain[2] else 0) for chain in ring.getdescs(8)])
        ring.publish()
        after = [packed.raw.read(at) for at in range(5)]
        assert (after[0].id, after[3].id, after[3].size) == (3, 4, 5), "skipped as many descriptors as the batch has"
        assert [after[at] for at in (1, 2, 4)] == [before[at] for at in (1, 2, 4)]
        assert ring.state().used == packed.raw.next_avail | 1 << 15

    @pytest.mark.parametrize("limit", [1, 2, 8])
    def test_a_used_descriptor_stands_for_all_chains_up_to_its_own(self, packed: PackedRig, limit: int) -> None:
        driver = packed.driver(in_order=True)
        for turn in range(5):  # around the ring, whose buffer ids are given out in turn
            tokens = range(3 * turn, 3 * turn + 3)
            for token in tokens:
                driver.add((), [seg(SPOT, 8)], token)
            driver.publish()
            packed.raw.give((3 * turn + 2) % 5, 6, takes=3)
            done: list[tuple[int, int]] = []
            while len(done) < 3:
                assert driver.enable_cb()
                done += driver.get_each(limit)
            assert done == [(tokens[0], 8), (tokens[1], 8), (tokens[2], 6)]
            assert not driver.enable_cb()
            assert driver.num_free == 5

    @pytest.mark.parametrize("ident", [3, 4, 5, 0xFFFF])
    def test_a_buffer_that_is_not_in_flight_breaks_the_queue(self, packed: PackedRig, ident: int) -> None:
        driver = packed.driver(in_order=True)
        for token in range(3):
            driver.add([seg(SPOT, 8)], (), token)
        driver.publish()
        packed.raw.give(0)
        packed.raw.give(ident)
        assert driver.get_each(8) == [(0, 0)]
        assert driver.enable_cb(), "and the driver looks"
        with pytest.raises(BadRing, match=f"names buffer {ident}, which is not one of the 2 oldest"):
            driver.get_each(8)

    def test_a_descriptor_that_is_used_with_none_in_flight_breaks_the_queue(self, packed: PackedRig) -> None:
        driver = packed.driver(in_order=True)
        driver.add([seg(SPOT, 8)], (), 0)
        driver.publish()
        packed.raw.give(0)
        packed.raw.give(1)
        assert driver.get_each(8) == [(0, 0)]
        assert driver.enable_cb()
        with pytest.raises(BadRing, match="0 oldest in flight"):
            driver.get_each(8)
