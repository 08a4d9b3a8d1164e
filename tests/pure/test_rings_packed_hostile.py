"""Both sides of a packed ring against a peer that writes anything."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rings.errors import BadRing, MemoryFault, RemoteRingError
from rings.layout import AVAIL, INDIRECT, NEXT, USED, WRITE
from rings.memory import Addr
from rings.packed.virtqueue import PackedVirtqueue
from rings.packed.vringh import PackedVringh
from rings.queue import complete, getdesc
from rings.testing import Act, Changing, PackedDesc
from support.rigs.packed import PackedRig
from support.rigs.ring import EVENT_IDX, add_chains, collect, fill, get, seg, serve, tokens

HOLE = 0x7000_0000


@pytest.fixture
def rig() -> PackedRig:
    return PackedRig()


def latched(rig: PackedRig, device: PackedVringh, match: str, error: type[Exception] = BadRing) -> None:
    """The exact outcome LATCH: one error, then an empty queue."""
    with pytest.raises(error, match=match):
        getdesc(device)
    device.latch()
    assert getdesc(device) is None
    assert not device.notify_enable()
    assert device.state().broken
    rig.check()


def broken(rig: PackedRig, driver: PackedVirtqueue, match: str, in_flight: int) -> None:
    """One typed error, each time it is asked; every buffer still ends once."""
    for _ in range(2):
        with pytest.raises(BadRing, match=match):
            get(driver)
    assert len(tokens(driver)) == in_flight
    rig.check()


# ---------------------------------------------------------------- a driver that lies


@pytest.mark.hostile("P01")
@pytest.mark.parametrize("flags", [0, AVAIL | USED, USED], ids=["neither", "both", "other lap"])
def test_a_descriptor_of_another_lap_is_not_available(rig: PackedRig, flags: int) -> None:
    device = rig.device()
    rig.raw.write(0, PackedDesc(rig.buffer(), 8, flags))
    assert getdesc(device) is None
    assert not device.notify_enable()


@pytest.mark.hostile("P01")
@pytest.mark.parametrize("flags", [0, AVAIL | USED, USED], ids=["neither", "both", "other lap"])
def test_a_list_of_which_a_part_is_not_available_breaks_the_ring(rig: PackedRig, flags: int) -> None:
    device = rig.device()
    rig.raw.offer(PackedDesc(rig.buffer(), 8), PackedDesc(rig.buffer(), 8), PackedDesc(rig.buffer(), 8))
    rig.raw.write(1, PackedDesc(rig.buffer(), 8, flags | NEXT))
    latched(rig, device, "1 in its list was not made available")


@pytest.mark.hostile("P01", "R03")
def test_a_descriptor_in_flight_is_never_taken_twice() -> None:
    """The driver goes on to the next lap before anything came back."""
    rig = PackedRig(2)
    device = rig.device()
    for ident in range(2):
        rig.raw.offer(PackedDesc(rig.buffer(), 8), ident=ident)
    assert len(device.getdescs(9)) == 2
    rig.raw.offer(PackedDesc(rig.buffer(), 8), ident=0)
    latched(rig, device, "available again while in flight")


@pytest.mark.hostile("P02")
@pytest.mark.parametrize("ident", [8, 0x7FFF, 0xFFFF])
@pytest.mark.parametrize("shape", ["one", "list", "table"])
def test_a_buffer_id_beyond_the_queue_breaks_it(rig: PackedRig, ident: int, shape: str) -> None:
    device = rig.device()
    descs = [PackedDesc(rig.buffer(), 8)] * (2 if shape == "list" else 1)
    if shape == "table":
        descs = [rig.raw.table(rig.buffer(), *descs)]
    rig.raw.offer(*descs, ident=ident)
    latched(rig, device, f"names buffer {ident} of 8")


@pytest.mark.hostile("P02")
@pytest.mark.parametrize("completed", [False, True])
def test_a_buffer_id_in_flight_breaks_the_queue(rig: PackedRig, completed: bool) -> None:
    """It is so until its end was published: before, the driver can't know."""
    device = rig.device()
    rig.raw.offer(PackedDesc(rig.buffer(), 8), ident=3)
    serve(device, 1) if completed else getdesc(device)
    rig.raw.offer(PackedDesc(rig.buffer(), 8), ident=3)
    latched(rig, device, "buffer 3 was made available again")


def test_chains_before_a_bad_descriptor_are_handed_out_first(rig: PackedRig) -> None:
    device = rig.device()
    for ident in (1, 2, 99):
        rig.raw.offer(PackedDesc(rig.buffer(), 8), ident=ident)
    assert [chain[0] for chain in device.getdescs(8)] == [1, 2]
    latched(rig, device, "names buffer 99 of 8")
    device.complete_each([(1, 0), (2, 0)])
    assert device.publish()


@pytest.mark.hostile("P03")
def test_reserved_flags_mean_nothing(rig: PackedRig) -> None:
    device = rig.device()
    reserved = 0xFFFF & ~(AVAIL | USED | NEXT | WRITE | INDIRECT)
    rig.raw.offer(PackedDesc(rig.buffer(), 8, reserved))
    chain = getdesc(device)
    assert chain is not None
    assert len(chain[1][0]) == 8


@pytest.mark.hostile("P03", "I02")
def test_tables_in_lists_and_tables_without_the_feature_break_the_ring() -> None:
    for descs, indirect, match in (
        ((PackedDesc(0x1000, 16, INDIRECT | NEXT),), True, "an indirect table in a list"),
        ((PackedDesc(0x1000, 16), PackedDesc(0x1000, 16, INDIRECT)), True, "an indirect table in a list"),
        ((PackedDesc(0x1000, 16, INDIRECT),), False, "without the feature"),
    ):
        rig = PackedRig(indirect=indirect)
        device = rig.device()
        rig.raw.offer(*descs)
        latched(rig, device, match)


@pytest.mark.hostile("I03", "I04", "I05")
@pytest.mark.parametrize("size", [0, 15, 17, 16 * 9, 0xFFFF_FFF0])
def test_a_table_of_an_impossible_size_breaks_the_ring(rig: PackedRig, size: int) -> None:
    device = rig.device()
    rig.raw.offer(PackedDesc(rig.buffer(), size, INDIRECT))
    latched(rig, device, f"indirect table of {size} bytes")


@pytest.mark.parametrize("indirect", [False, True])
def test_an_invalid_table_violates_a_section_of_the_packed_format(indirect: bool) -> None:
    rig = PackedRig(indirect=indirect)
    device = rig.device()
    rig.raw.offer(PackedDesc(rig.buffer(), 17, INDIRECT))
    with pytest.raises(BadRing) as caught:
        getdesc(device)
    assert caught.value.section == "2.8.19"


@pytest.mark.hostile("P06", "R05")
@pytest.mark.parametrize("num", [1, 2, 3, 8])
def test_a_list_without_an_end_breaks_the_ring_after_one_lap(num: int) -> None:
    rig = PackedRig(num)
    device = rig.device()
    data = rig.buffer()
    for place in range(num):
        rig.raw.write(place, PackedDesc(data, 1, rig.raw.available(place) | NEXT))
    rig.device_side.log.clear()
    latched(rig, device, "a list longer than|was not made available")
    assert len(rig.device_side.acts(Act.LOAD)) <= 2 * num + 2


@pytest.mark.hostile("R08", "R09")
def test_a_readable_buffer_after_a_writable_one_breaks_the_ring(rig: PackedRig) -> None:
    device = rig.device()
    rig.raw.offer(PackedDesc(rig.buffer(), 8, WRITE), PackedDesc(rig.buffer(), 8))
    latched(rig, device, "a readable buffer after a writable one")


@pytest.mark.hostile("R06")
def test_a_list_of_more_than_4_gib_breaks_the_ring(rig: PackedRig) -> None:
    device = rig.device()
    rig.raw.offer(PackedDesc(0, 0xFFFF_FFFF), PackedDesc(0, 2))
    latched(rig, device, "more than 2\\^32 bytes")


@pytest.mark.hostile("R12", "R13")
@pytest.mark.parametrize("addr", [HOLE, (1 << 64) - 4])
@pytest.mark.parametrize("in_list", [False, True])
def test_an_address_where_nothing_is_faults_and_breaks_nothing_else(rig: PackedRig, addr: int, in_list: bool) -> None:
    device = rig.device()
    rig.raw.offer(*[PackedDesc(rig.buffer(), 4)] * in_list, PackedDesc(addr, 8))
    latched(rig, device, "no memory there", MemoryFault)


@pytest.mark.hostile("P04", "R19")
@EVENT_IDX
@pytest.mark.parametrize("word", [0xFFFF_FFFF, 2 << 16 | 0x7FFF, 2 << 16 | 0xFFFF, 2 << 16 | 8, 3 << 16, 2 << 16])
def test_an_impossible_event_index_does_not_stall_the_device(event_idx: bool, word: int) -> None:
    rig = PackedRig(event_idx=event_idx)
    driver, device = rig.driver(), rig.device()
    called = kicked = 0
    for _ in range(40):
        rig.raw.device_event = rig.raw.driver_event = word
        fill(driver)
        kicked += driver.publish()
        serve(device)
        called += device.publish()
        assert collect(driver) == 1
    # The last one names a descriptor that is there: the first of every other lap.
    due = 2 if event_idx and word == 2 << 16 else 40
    assert (kicked, called) == (due, due)


@pytest.mark.hostile("R10", "D10")
def test_every_descriptor_is_loaded_once() -> None:
    """In a memory where no word reads the same twice, the checked values are used."""
    rig = PackedRig()
    memory = Changing(rig.memory)
    device = rig.device(memory=memory)
    there, back = rig.buffer(8), rig.buffer(8)
    rig.raw.offer(PackedDesc(there, 8), PackedDesc(back, 8, WRITE), ident=5)
    chain = getdesc(device)
    assert chain is not None
    assert (chain[0], len(chain[1][0]), len(chain[2][0])) == (5, 8, 8)
    loads = memory.acts(Act.LOAD)
    assert len(loads) == len(set(loads)) == 4


# ---------------------------------------------------------------- a device that lies


@pytest.mark.hostile("D01")
@pytest.mark.parametrize("ident", [8, 0xFFFF])
def test_a_used_id_beyond_the_queue_breaks_the_ring(rig: PackedRig, ident: int) -> None:
    driver = rig.driver()
    fill(driver)
    driver.publish()
    rig.raw.give(ident)
    assert driver.enable_cb(), "the waiting side is notified"
    broken(rig, driver, f"names buffer {ident} of 8", 1)


@pytest.mark.hostile("D02")
def test_a_buffer_that_is_returned_twice_is_delivered_once(rig: PackedRig) -> None:
    driver = rig.driver()
    fill(driver, 3)
    driver.publish()
    rig.raw.give(1)
    rig.raw.give(1)
    assert driver.get_each(9) == [(1, 0)]
    broken(rig, driver, "buffer 1, which is not in flight", 2)


@pytest.mark.hostile("D05")
def test_a_descriptor_that_is_used_with_nothing_in_flight_breaks_the_ring(rig: PackedRig) -> None:
    driver = rig.driver()
    fill(driver)
    driver.publish()
    fill(driver)  # not shown yet
    rig.raw.give(0)
    rig.raw.give(1)
    assert driver.get_each(9) == [(0, 0)]
    broken(rig, driver, "with none in flight", 1)


@pytest.mark.hostile("D03")
@pytest.mark.parametrize("indirect", [False, True])
def test_a_used_length_beyond_the_buffer_is_refused_and_counted(indirect: bool) -> None:
    rig = PackedRig(indirect=indirect)
    driver = rig.driver()
    driver.add((seg(0x1000, 100),), (seg(0x1000, 10), seg(0x1000, 10)), 1)
    driver.publish()
    rig.raw.give(0, 21)
    assert get(driver) == (1, 0)
    assert (driver.statistics().bad_lengths, driver.num_free) == (1, 8)


@pytest.mark.hostile("D04")
@pytest.mark.parametrize("indirect", [False, True])
def test_a_device_that_rewrites_the_ring_does_not_confuse_the_driver(indirect: bool) -> None:
    rig = PackedRig(indirect=indirect)
    driver = rig.driver()
    for turn in range(20):
        driver.add((seg(0x1000, 10),), (seg(0x2000, 20), seg(0x3000, 30)), turn)
        driver.publish()
        for place in range(8):
            if place != rig.raw.next_used % 8:
                rig.raw.write(place, PackedDesc(0xDEAD, 0xFFFF_FFFF, NEXT, 7 - place))
        rig.raw.give(0, 50, takes=1 if indirect else 3)
        assert get(driver) == (turn, 50)
        assert driver.num_free == 8
    rig.check()


# ---------------------------------------------------------------- garbage

PAYLOAD, TABLE = 0x20_0000, 0x30_0000
ADDRS = st.sampled_from([PAYLOAD, PAYLOAD + 4095, TABLE, TABLE + 16, 0x10_1000, 0, HOLE, (1 << 64) - 16])
SIZES = st.sampled_from([0, 1, 16, 32, 48, 128, 144, 4096, 1 << 31, (1 << 32) - 1])
FLAGS = st.builds(lambda low, high: low | high, st.integers(0, 7), st.sampled_from([0, AVAIL, USED, AVAIL | USED]))
IDS = st.integers(0, 9) | st.integers(0, 0xFFFF)
DESCS = st.builds(PackedDesc, ADDRS, SIZES, FLAGS, IDS)
WORDS = st.integers(0, (1 << 32) - 1)


@pytest.mark.hostile("P01", "P02", "P03", "P06")
@given(
    num=st.sampled_from([1, 2, 3, 8]),
    event_idx=st.booleans(),
    indirect=st.booleans(),
    ring=st.lists(DESCS, min_size=8, max_size=8),
    steps=st.lists(st.tuples(st.integers(0, 7), DESCS, WORDS, st.booleans()), max_size=20),
)
@settings(max_examples=300)
def test_no_driver_makes_the_device_do_more_than_stop(
    num: int,
    event_idx: bool,
    indirect: bool,
    ring: list[PackedDesc],
    steps: list[tuple[int, PackedDesc, int, bool]],
) -> None:
    """Only typed errors, a bounded number of accesses for each chain, none of them outside."""
    rig = PackedRig(num, event_idx=event_idx, indirect=indirect)
    for addr in (PAYLOAD, TABLE):
        rig.memory.add(Addr(addr), memoryview(bytearray(4096)))
    for place in range(num):
        rig.raw.write(place, ring[place])
    device = rig.device()
    latched = False
    for place, desc, word, finish in steps:
        rig.raw.write(place, desc)
        rig.memory.view(Addr(TABLE + 16 * place), 16, True)[:] = desc.emit()
        rig.raw.driver_event = word
        rig.device_side.log.clear()
        try:
            chain = getdesc(device)
        except (RemoteRingError, MemoryFault):
            assert not latched
            device.latch()
            latched = True
            continue
        assert len(rig.device_side.log) <= 4 + 4 * (2 * num + 1)
        rig.check()
        if chain is not None:
            assert not latched
            for view in chain[2]:
                view[:16] = b"\xee" * len(view[:16])
            if finish:
                complete(device, chain[0], 0)
                device.publish()
                device.notify_enable()
    assert device.state().in_flight <= num
    rig.check()


@pytest.mark.hostile("D01", "D02", "D03", "D05")
@given(
    num=st.sampled_from([1, 2, 3, 8]),
    event_idx=st.booleans(),
    indirect=st.booleans(),
    ring=st.lists(DESCS, min_size=8, max_size=8),
    chains=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), max_size=8),
    word=WORDS,
)
@settings(max_examples=300)
def test_no_device_makes_the_driver_do_more_than_stop(
    num: int, event_idx: bool, indirect: bool, ring: list[PackedDesc], chains: list[tuple[int, int]], word: int
) -> None:
    """Only typed errors; a token comes back at most once, never with more bytes than its buffer has."""
    rig = PackedRig(num, event_idx=event_idx, indirect=indirect)
    driver = rig.driver()
    rooms = add_chains(driver, chains)
    rig.raw.device_event = word
    driver.publish()
    for place in range(num):
        rig.raw.write(place, ring[place])
    try:
        while (done := get(driver)) is not None:
            assert done[1] <= rooms.pop(done[0])
    except RemoteRingError:
        pass
    driver.enable_cb()
    driver.enable_cb_delayed()
    assert sorted(tokens(driver)) == sorted(rooms)
    assert len(rig.driver_side.acts(Act.LOAD)) <= 8 + 4 * num
    rig.check()
