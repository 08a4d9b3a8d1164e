"""The device's side of a split ring and tables of indirect descriptors (VIRTIO 1.4 section 2.7.5.3)."""

from __future__ import annotations

import itertools

import pytest

from rings.errors import BadRing, MemoryFault
from rings.layout import INDIRECT, NEXT, WRITE
from rings.memory import Addr
from rings.queue import complete, getdesc
from rings.testing import Act, Desc
from support.rigs.ring import MakeRig, Rig, flat, latch

HOLE = 0x7000_0000


def test_a_table_is_walked_by_its_own_links(rig: Rig) -> None:
    data, spot = rig.buffer(b"abcd"), rig.buffer()
    device = rig.device()
    entries = [Desc(data, 1, NEXT, 3), Desc(HOLE, 9, NEXT, 9), Desc(data + 2, 2), Desc(data + 1, 1, NEXT, 2)]
    rig.offer(rig.raw.table(spot, *entries), head=6)
    chain = getdesc(device)
    assert chain is not None
    assert (chain[0], flat(chain[1])) == (6, b"abcd")


@pytest.mark.hostile("I01")
def test_a_table_without_the_feature_breaks_the_ring(make_rig: MakeRig) -> None:
    rig = make_rig(indirect=False)
    device = rig.device()
    rig.offer(rig.raw.table(rig.buffer(), Desc(rig.buffer(), 8)))
    latch(rig, device, BadRing, "without the feature")


@pytest.mark.hostile("I02")
@pytest.mark.parametrize("shape", ["nested", "nested behind data", "with next", "itself"])
def test_a_table_in_a_table_or_with_a_successor_breaks_the_ring(rig: Rig, shape: str) -> None:
    data, outer, inner = rig.buffer(), rig.buffer(), rig.buffer()
    device = rig.device()
    nested = rig.raw.table(inner, Desc(data, 8))
    if shape == "nested":
        rig.offer(rig.raw.table(outer, nested))
    elif shape == "nested behind data":
        rig.offer(rig.raw.table(outer, Desc(data, 8, NEXT, 1), nested))
    elif shape == "itself":
        rig.offer(rig.raw.table(outer, Desc(outer, 16, INDIRECT)))
    else:
        rig.offer(nested, Desc(data, 8))
    latch(rig, device, BadRing, "inside a table, or with NEXT")


@pytest.mark.hostile("I03", "I04")
@pytest.mark.parametrize("size", [0, 1, 15, 17, 9 * 16, 0xFFFF_FFF0, 0xFFFF_FFFF])
def test_a_table_of_an_impossible_length_breaks_the_ring(rig: Rig, size: int) -> None:
    device = rig.device()
    rig.offer(Desc(rig.buffer(), size, INDIRECT))
    latch(rig, device, BadRing, f"indirect table of {size} bytes")


@pytest.mark.parametrize("indirect", [False, True])
def test_an_invalid_table_violates_a_section_of_the_split_format(make_rig: MakeRig, indirect: bool) -> None:
    rig = make_rig(indirect=indirect)
    device = rig.device()
    rig.offer(Desc(rig.buffer(), 17, INDIRECT))
    with pytest.raises(BadRing) as caught:
        getdesc(device)
    assert caught.value.section == "2.7.5.3.1"


@pytest.mark.hostile("I05")
@pytest.mark.parametrize("following", [0, 1, 2, 0xFFFF])
@pytest.mark.parametrize("direct", [0, 3])
def test_a_loop_or_a_link_out_of_a_table_breaks_the_ring(rig: Rig, following: int, direct: int) -> None:
    data, spot = rig.buffer(), rig.buffer()
    device = rig.device()
    table = rig.raw.table(spot, Desc(data, 8, NEXT, 1), Desc(data, 8, NEXT, following))
    rig.offer(*[Desc(data, 8)] * direct, table)
    rig.device_side.log.clear()
    latch(rig, device, BadRing, "loops" if following < 2 else f"next descriptor {following} of 2")
    walk = itertools.takewhile(lambda access: access.act is not Act.STORE, rig.device_side.log)
    assert sum(access.act is Act.READ for access in walk) <= 1 + direct + 2, "no entry of it twice"


@pytest.mark.hostile("I06")
def test_a_table_over_two_regions_works_and_one_that_is_partly_there_stops_the_queue(rig: Rig) -> None:
    data = rig.buffer(b"both")
    first = rig.buffer(32)
    rig.buffer(32, adjoining=True)
    device = rig.device()
    spot = Addr(first + 24)  # the first entry lies across the seam
    table = b"".join(desc.emit() for desc in (Desc(data, 2, NEXT, 1), Desc(data + 2, 2)))
    rig.memory.view(spot, 8, True)[:] = table[:8]
    rig.memory.view(Addr(spot + 8), 24, True)[:] = table[8:]
    rig.offer(Desc(spot, 32, INDIRECT))
    chain = getdesc(device)
    assert chain is not None
    assert flat(chain[1]) == b"both"
    complete(device, 0, 0)
    device.publish()
    rig.offer(Desc(first + 48, 32, INDIRECT))
    latch(rig, device, MemoryFault)


@pytest.mark.hostile("I07")
@pytest.mark.virtio("SPLIT-DEV-5")
def test_the_write_flag_of_a_descriptor_that_leads_to_a_table_means_nothing(rig: Rig) -> None:
    data, spot = rig.buffer(b"in"), rig.buffer()
    device = rig.device()
    table = rig.raw.table(spot, Desc(data, 2))
    rig.offer(Desc(data, 2), Desc(table.addr, table.size, INDIRECT | WRITE))
    chain = getdesc(device)
    assert chain is not None
    assert (flat(chain[1]), chain[2]) == (b"inin", [])


@pytest.mark.parametrize("flags", [0xFFF8, 0xFFF8 | WRITE])
def test_reserved_descriptor_flags_mean_nothing(rig: Rig, flags: int) -> None:
    device = rig.device()
    rig.offer(Desc(rig.buffer(), 8, flags))
    chain = getdesc(device)
    assert chain is not None
    assert [len(chain[1]), len(chain[2])] == ([0, 1] if flags & WRITE else [1, 0])
