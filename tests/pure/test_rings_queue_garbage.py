"""Random bytes in a ring, against both sides."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rings.errors import MemoryFault, RemoteRingError
from rings.layout import split_sizes
from rings.memory import Addr
from rings.queue import complete, getdesc
from rings.testing import Act, Desc
from support.rigs.ring import Rig, add_chains, get, tokens

NUMS = st.sampled_from([1, 2, 4, 8])
PAYLOAD, TABLE = 0x20_0000, 0x30_0000
ADDRS = st.sampled_from([PAYLOAD, PAYLOAD + 4095, TABLE, TABLE + 16, 0x10_1000, 0, 0x7000_0000, (1 << 64) - 16])
SIZES = st.sampled_from([0, 1, 16, 32, 48, 128, 144, 4096, 1 << 31, (1 << 32) - 1])
U16 = st.integers(0, 10) | st.integers(0, 0xFFFF)
DESCS = st.builds(Desc, ADDRS | st.integers(0, (1 << 64) - 1), SIZES, st.integers(0, 7) | U16, U16)
STEPS = st.lists(
    st.tuples(st.just("desc"), st.integers(0, 7), DESCS)
    | st.tuples(st.just("table"), st.integers(0, 7), DESCS)
    | st.tuples(st.just("entry"), st.integers(0, 7), U16)
    | st.tuples(st.just("idx"), st.just(0), U16)
    | st.tuples(st.just("more"), st.just(0), st.integers(0, 4))
    | st.tuples(st.just("event"), st.just(0), U16)
    | st.tuples(st.just("take"), st.just(0), st.booleans()),
    max_size=30,
)


@pytest.mark.hostile("R01", "R03", "R04", "R05", "R08", "R09", "R12", "R13", "I02", "I03", "I04", "I05")
@given(
    num=NUMS,
    event_idx=st.booleans(),
    indirect=st.booleans(),
    ring=st.lists(DESCS, min_size=8, max_size=8),
    heads=st.lists(U16, min_size=8, max_size=8),
    steps=STEPS,
)
@settings(max_examples=300)
def test_no_driver_makes_the_device_do_more_than_stop(
    num: int, event_idx: bool, indirect: bool, ring: list[Desc], heads: list[int], steps: list[tuple[str, int, object]]
) -> None:
    """Only typed errors, a bounded number of accesses for each chain, none of them outside."""
    rig = Rig(num, event_idx=event_idx, indirect=indirect)
    for addr in (PAYLOAD, TABLE):
        rig.memory.add(Addr(addr), memoryview(bytearray(4096)))
    for at in range(8):
        rig.raw.write(at % num, ring[at])
        rig.raw.set_entry(at, heads[at])
    device = rig.device()
    latched = False
    for step in [*steps, *[("take", 0, True)] * (num + 2)]:
        match step:
            case "desc", int(at), Desc() as desc:
                rig.raw.write(at % num, desc)
            case "table", int(at), Desc() as desc:
                rig.memory.view(Addr(TABLE + 16 * at), 16, True)[:] = desc.emit()
            case "entry", int(at), int(head):
                rig.raw.set_entry(at, head)
            case "idx", _, int(index):
                rig.raw.avail_idx = index
            case "more", _, int(more):
                rig.raw.avail_idx += more
            case "event", _, int(event):
                rig.raw.used_event, rig.raw.avail_flags = event, event >> 3
            case "take", _, finish:
                rig.device_side.log.clear()
                try:
                    chain = getdesc(device)
                except (RemoteRingError, MemoryFault):
                    assert not latched
                    device.latch()
                    latched = True
                    chain = None
                assert len(rig.device_side.log) <= 2 + 4 * (2 * num + 1)
                rig.check()
                if chain is not None:
                    assert not latched
                    head, readable, writable = chain
                    assert sum(map(len, (*readable, *writable))) <= 1 << 32
                    for view in writable:
                        view[:16] = b"\xee" * len(view[:16])
                    if finish:
                        complete(device, head, 0)
                        device.publish()
                        device.notify_enable()
    assert device.state().in_flight <= num
    rig.check()


@pytest.mark.hostile("D01", "D02", "D03", "D05")
@given(
    num=NUMS,
    event_idx=st.booleans(),
    indirect=st.booleans(),
    areas=st.binary(min_size=70, max_size=70),
    index=U16,
    elems=st.lists(st.tuples(st.integers(0, 9) | st.integers(0, (1 << 32) - 1), SIZES), max_size=8),
    chains=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), max_size=8),
)
@settings(max_examples=300)
def test_no_device_makes_the_driver_do_more_than_stop(
    num: int,
    event_idx: bool,
    indirect: bool,
    areas: bytes,
    index: int,
    elems: list[tuple[int, int]],
    chains: list[tuple[int, int]],
) -> None:
    """Only typed errors; a token comes back at most once, never with more bytes than its buffer has."""
    rig = Rig(num, event_idx=event_idx, indirect=indirect)
    driver = rig.driver()
    rooms = add_chains(driver, chains)
    driver.publish()
    given_back = len(rooms)
    used = rig.memory.view(rig.addrs.device, split_sizes(num)[2], True)
    used[:] = areas[: len(used)]
    for at, (head, size) in enumerate(elems):
        rig.raw.set_elem(at, head, size)
    rig.raw.used_idx = index
    try:
        while (done := get(driver)) is not None:
            assert done[1] <= rooms.pop(done[0])
    except RemoteRingError:
        pass
    driver.enable_cb()
    driver.enable_cb_delayed()
    assert driver.state().in_flight == len(rooms) <= given_back
    assert sorted(tokens(driver)) == sorted(rooms)
    assert len(rig.driver_side.acts(Act.LOAD)) <= 8 + 2 * num
    rig.check()
