"""The view of a ring shows its words and chains as they stand in memory, also of broken rings, and changes nothing."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from rings.in_order import InOrderVringh
from rings.layout import DESC_SIZE, INDIRECT, NEXT, WRITE, RingAddrs
from rings.memory import Addr, MappedMemory
from rings.packed.ring import FIRST_LAP
from rings.packed.virtqueue import PackedVirtqueue
from rings.packed.vringh import PackedVringh
from rings.queue import Vringh
from rings.split.virtqueue import SplitVirtqueue
from rings.split.vringh import SplitVringh
from rings.testing import Desc, Guarded, PackedDesc, RawPackedRing, RawRing, dump
from rings.view import TABLE_SHOWN, TABLES_SHOWN, flag_names, lines, view_packed, view_split

NUM = 8
BUFFER = Addr(0x10_0000)


def raw_split(num: int = NUM) -> RawRing:
    memory = Guarded(1 << 20)
    return RawRing(memory, num, memory.grant_ring(num, packed=False))


def raw_packed(num: int = NUM) -> RawPackedRing:
    memory = Guarded(1 << 20)
    return RawPackedRing(memory, num, memory.grant_ring(num, packed=True))


class TestSplit:
    def test_an_outstanding_chain_has_its_descriptors_in_order(self) -> None:
        ring = raw_split()
        ring.chain(3, Desc(0x1000, 12), Desc(0x2000, 1500, WRITE))
        ring.offer(3)
        ring.used_event, ring.avail_event = 7, 9
        view = view_split(ring.memory, NUM, ring.addrs)
        [chain] = view.chains
        assert (chain.position, chain.head, chain.fault) == (0, 3, "")
        assert [(d.index, d.addr, d.size, d.writable) for d in chain.descriptors] == [
            (3, 0x1000, 12, False),
            (4, 0x2000, 1500, True),
        ]
        assert (dict(view.driver), dict(view.device)) == (
            {"flags": 0, "idx": 1, "used_event": 7},
            {"flags": 0, "idx": 0, "avail_event": 9},
        )

    def test_used_elements_are_the_latest_ones(self) -> None:
        ring = raw_split()
        ring.offer(*range(NUM))
        for head in range(NUM):
            ring.give(head, 100 + head)
        view = view_split(ring.memory, NUM, ring.addrs)
        assert view.chains == ()
        assert [(one.head, one.written) for one in view.used] == [(head, 100 + head) for head in range(NUM)]

    def test_indices_that_have_wrapped_are_followed(self) -> None:
        ring = raw_split()
        ring.avail_idx = ring.used_idx = 0xFFFF
        ring.offer(5, 6)
        view = view_split(ring.memory, NUM, ring.addrs)
        assert [(chain.position, chain.head) for chain in view.chains] == [(0xFFFF % NUM, 5), (0, 6)]

    def test_an_indirect_table_is_shown_with_its_entries(self) -> None:
        ring = raw_split()
        table = ring.table(ring.memory.grant(64), Desc(0x1000, 16, NEXT, 1), Desc(0x2000, 512, WRITE))  # type: ignore[attr-defined]
        ring.chain(0, table)
        ring.offer(0)
        [chain] = view_split(ring.memory, NUM, ring.addrs).chains
        assert [(entry.index, entry.size, entry.writable) for entry in chain.descriptors[0].table] == [
            (0, 16, False),
            (1, 512, True),
        ]
        assert chain.fault == ""

    @pytest.mark.parametrize(
        ("descs", "fault"),
        [
            ([Desc(0, 1, NEXT, 1), Desc(0, 1, NEXT, 0)], "loops"),
            ([Desc(0, 1, NEXT, 9)], "names descriptor 9 of 8"),
            ([Desc(0, 1, WRITE | NEXT, 1), Desc(0, 1)], "a readable descriptor after a writable one"),
            ([Desc(BUFFER, 17, INDIRECT)], "an indirect table of 17 bytes"),
            ([Desc(0xDEAD_0000, 16, INDIRECT)], "no memory there"),
        ],
    )
    def test_a_broken_chain_says_why(self, descs: list[Desc], fault: str) -> None:
        memory = MappedMemory()
        memory.add(Addr(0), memoryview(bytearray(0x2000)))
        memory.add(BUFFER, memoryview(bytearray(DESC_SIZE)))
        ring = RawRing(memory, NUM, RingAddrs(*map(Addr, (0, 256, 512))))
        for index, desc in enumerate(descs):
            ring.write(index, desc)
        ring.offer(0)
        [chain] = view_split(memory, NUM, ring.addrs).chains
        assert fault in chain.fault

    def test_an_index_too_far_ahead_is_a_fault_and_shows_one_ring_of_chains(self) -> None:
        ring = raw_split()
        ring.avail_idx = 1000
        view = view_split(ring.memory, NUM, ring.addrs)
        assert len(view.chains) == NUM
        assert view.fault == "available index 1000 is 1000 ahead of used index 0"

    def test_chains_that_all_loop_are_cut_together(self) -> None:
        """Chains that each show as many descriptors as the ring has would together show the square of that."""
        num = 256
        memory = MappedMemory()
        memory.add(Addr(0), memoryview(bytearray(0x4000)))
        ring = RawRing(memory, num, RingAddrs(*map(Addr, (0, 0x1000, 0x2000))))
        ring.write(0, Desc(0, 1, NEXT, 0))
        ring.offer(*[0] * num)
        chains = view_split(memory, num, ring.addrs).chains
        assert len(chains) == num
        assert sum(len(chain.descriptors) for chain in chains) <= 4 * num
        assert chains[0].fault == "loops"
        assert chains[-1].fault == f"cut: the chains have more than {4 * num} descriptors"

    def test_a_huge_table_is_cut(self) -> None:
        memory = MappedMemory()
        memory.add(Addr(0), memoryview(bytearray(1 << 21)))
        ring = RawRing(memory, NUM, RingAddrs(*map(Addr, (0, 256, 512))))
        ring.write(0, Desc(1 << 20, 1 << 20, INDIRECT))
        ring.offer(0)
        [chain] = view_split(memory, NUM, ring.addrs).chains
        assert len(chain.descriptors[0].table) == TABLE_SHOWN


class TestPacked:
    def test_outstanding_chains_stand_in_the_order_of_the_ring(self) -> None:
        ring = raw_packed()
        ring.offer(PackedDesc(0x1000, 12), PackedDesc(0x2000, 1500, WRITE), ident=4)
        ring.offer(PackedDesc(0x3000, 64), ident=2)
        view = view_packed(ring.memory, NUM, ring.addrs, FIRST_LAP)
        assert [(chain.position, chain.head, len(chain.descriptors)) for chain in view.chains] == [(0, 4, 2), (2, 2, 1)]
        assert [one.writable for one in view.chains[0].descriptors] == [False, True]
        assert view.used == ()

    def test_used_elements_come_before_chains_that_are_outstanding(self) -> None:
        ring = raw_packed()
        for ident in range(3):
            ring.offer(PackedDesc(0x1000 * ident, 64), ident=ident)
        ring.give(1, 20)
        view = view_packed(ring.memory, NUM, ring.addrs, FIRST_LAP)
        assert [(one.position, one.head, one.written) for one in view.used] == [(0, 1, 20)]
        assert [chain.head for chain in view.chains] == [1, 2]

    def test_a_chain_over_the_end_of_the_ring_continues_in_the_next_lap(self) -> None:
        ring = raw_packed(3)
        ring.next_avail = ring.next_used = 2
        ring.offer(PackedDesc(0x1000, 1), PackedDesc(0x2000, 2), ident=0)
        [chain] = view_packed(ring.memory, 3, ring.addrs, FIRST_LAP | 2).chains
        assert [one.index for one in chain.descriptors] == [2, 0]

    def test_event_areas_are_shown_with_their_meaning(self) -> None:
        ring = raw_packed()
        ring.driver_event, ring.device_event = 1 << 16, 2 << 16 | FIRST_LAP | 5
        view = view_packed(ring.memory, NUM, ring.addrs, FIRST_LAP)
        assert view.driver["meaning"] == "disabled"
        assert dict(view.device) == {"desc": 5, "wrap": 1, "flags": 2, "meaning": "at position"}

    def test_a_list_without_an_end_is_a_fault(self) -> None:
        ring = raw_packed(2)
        for position in range(2):
            ring.write(position, PackedDesc(0, 1, NEXT | ring.available(position)))
        [chain] = view_packed(ring.memory, 2, ring.addrs, FIRST_LAP).chains
        assert "NEXT is set" in chain.fault

    def test_a_position_beyond_the_ring_shows_no_chain(self) -> None:
        ring = raw_packed()
        assert view_packed(ring.memory, NUM, ring.addrs, FIRST_LAP | 100).chains == ()


def test_looking_changes_no_byte_and_pins_nothing() -> None:
    for packed in (False, True):
        memory = Guarded(1 << 18)
        addrs = memory.grant_ring(NUM, packed=packed)
        driver: Any = (PackedVirtqueue if packed else SplitVirtqueue)(memory, NUM, addrs, event_idx=True)
        device = (PackedVringh if packed else SplitVringh)(memory, NUM, addrs, event_idx=True, indirect=False)
        buffer = memory.grant(64)
        driver.add_each([(buffer, 64, slot) for slot in range(3)], True)
        driver.publish()
        device.getdescs(1)
        before, pins = [bytes(memory.view(start, 4)) for start in attrs.astuple(addrs)], memory.pinned
        view = view_packed(memory, NUM, addrs, FIRST_LAP) if packed else view_split(memory, NUM, addrs)
        assert len(view.chains) == 3
        assert all(chain.descriptors[0].size == 64 and chain.descriptors[0].writable for chain in view.chains)
        assert ([bytes(memory.view(start, 4)) for start in attrs.astuple(addrs)], memory.pinned) == (before, pins)
        driver.close()
        device.close()


def test_areas_that_are_unmapped_are_a_fault_and_no_error() -> None:
    addrs = raw_split().addrs
    for view in (view_split(MappedMemory(), NUM, addrs), view_packed(MappedMemory(), NUM, addrs, FIRST_LAP)):
        assert view.fault
        assert view.chains == ()


def test_text_of_a_split_ring() -> None:
    memory = MappedMemory()
    memory.add(Addr(0), memoryview(bytearray(0x1000)))
    ring = RawRing(memory, 4, RingAddrs(*map(Addr, (0, 0x100, 0x200))))
    ring.chain(0, Desc(0x400, 12), Desc(0x500, 1500, WRITE))
    ring.offer(0)
    ring.give(0, 99)
    ring.offer(0)
    assert dump(ring).splitlines() == [
        "split ring of 4 descriptors at 0x0, driver area 0x100, device area 0x200",
        "driver  flags 0  idx 2  used_event 0",
        "device  flags 0  idx 1  avail_event 0",
        "the device requests kicks",
        "the driver requests calls",
        "1 chain outstanding",
        "      1: head 0",
        "         0: 0x400 +12 device reads -> 1",
        "         1: 0x500 +1500 device writes",
        "      0: used 0, 99 bytes written",
    ]


def test_text_of_a_packed_ring_names_buffer_ids() -> None:
    ring = raw_packed()
    ring.offer(PackedDesc(0x1000, 12), ident=6)
    text = list(lines(view_packed(ring.memory, NUM, ring.addrs, FIRST_LAP)))
    assert "      0: id 6" in text
    assert "         0: 0x1000 +12 device reads" in text


def test_flags_are_named() -> None:
    assert flag_names(NEXT | WRITE | INDIRECT) == "NEXT WRITE INDIRECT"


@pytest.mark.parametrize(
    ("event", "words"),
    [
        (2, "the device requests a kick for the next available entry, 2"),
        (5, "the device suppresses kicks until available entry 5"),
        (1, "the device suppresses kicks: its event, available entry 1, has passed"),
    ],
)
def test_an_event_index_is_compared_with_the_index_of_the_other_side(event: int, words: str) -> None:
    ring = raw_split()
    ring.offer(0, 1)
    ring.avail_event = event
    assert view_split(ring.memory, NUM, ring.addrs, event_idx=True).kicks == words


def test_a_flag_suppresses_without_event_indices() -> None:
    ring = raw_split()
    ring.memory.view(ring.addrs.driver, 2, True)[0] = 1
    view = view_split(ring.memory, NUM, ring.addrs)
    assert (view.kicks, view.calls) == ("the device requests kicks", "the driver suppresses calls")


@pytest.mark.parametrize("packed", [False, True])
def test_a_driver_shows_its_ring_with_the_bytes_of_the_areas(packed: bool) -> None:
    memory = Guarded(1 << 20)
    addrs = memory.grant_ring(NUM, packed=packed)
    driver = (PackedVirtqueue if packed else SplitVirtqueue)(memory, NUM, addrs, event_idx=True)
    driver.add([(BUFFER, 12)], [], 0)
    driver.publish()
    driver.enable_cb()
    view = driver.view()
    assert [[desc.addr for desc in chain.descriptors] for chain in view.chains] == [[BUFFER]]
    position = "descriptor 0 with wrap counter 1" if packed else "a call for the next used entry, 0"
    assert position in view.calls
    starts = attrs.astuple(addrs)
    held = [bytes(memory.view(at, len(area), False)) for at, area in zip(starts, view.areas, strict=True)]
    assert list(view.areas) == held
    driver.close()


@pytest.mark.parametrize("in_order", [False, True])
@pytest.mark.parametrize("returned", [0, 1, 2])
def test_a_used_descriptor_of_a_packed_ring_stands_for_all_that_the_driver_knows(in_order: bool, returned: int) -> None:
    """The ring keeps the descriptors behind a used one, whose flags still say that they are available."""
    memory = Guarded(1 << 20)
    addrs = memory.grant_ring(NUM, packed=True)
    driver = PackedVirtqueue(memory, NUM, addrs, event_idx=True, in_order=in_order)
    ring = PackedVringh(memory, NUM, addrs, event_idx=True, indirect=False)
    device: Vringh = InOrderVringh(ring, batches=True) if in_order else ring
    buffer = memory.grant(64)
    for token in range(4):
        driver.add([(buffer, 12), (buffer, 13)], [], token)
    driver.publish()
    heads = [head for head, _, _ in device.getdescs(3)]
    device.complete_each([(head, 0) for head in heads])
    device.publish()
    assert len(driver.get_each(returned)) == returned
    assert [chain.head for chain in driver.view().chains] == [device.getdescs(1)[0][0]]
    driver.close()
    device.close()


def test_the_entries_of_all_tables_together_have_a_limit() -> None:
    memory = MappedMemory()
    memory.add(Addr(0), memoryview(bytearray(1 << 20)))
    num = 2 * TABLES_SHOWN // TABLE_SHOWN
    ring = RawRing(memory, num, RingAddrs(*map(Addr, (0, 0x1000, 0x2000))))
    for head in range(num):
        ring.chain(head, Desc(0x10000, TABLE_SHOWN * DESC_SIZE, INDIRECT))
        ring.offer(head)
    chains = view_split(memory, num, ring.addrs).chains
    assert len(chains) == num
    assert sum(len(desc.table) for chain in chains for desc in chain.descriptors) == TABLES_SHOWN
