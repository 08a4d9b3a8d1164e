"""The device's side of a split ring against a driver that writes arbitrary descriptors."""

from __future__ import annotations

import pytest

from rings.errors import BadRing, MemoryFault
from rings.layout import NEXT, WRITE, RingAddrs
from rings.memory import Addr, MappedMemory
from rings.queue import complete, getdesc
from rings.split.vringh import SplitVringh
from rings.testing import Act, Changing, Desc, RawRing
from support.rigs.ring import MakeRig, Rig, flat, latch

TOP = 1 << 64
HOLE = 0x7000_0000

# chains that are no chains


def every_cycle() -> list[tuple[str, int, dict[int, int]]]:
    """Name, head, and next by descriptor."""
    return [
        ("itself", 0, {0: 0}),
        ("two", 0, {0: 1, 1: 0}),
        ("not through the head", 0, {0: 1, 1: 2, 2: 3, 3: 1}),
        ("all", 7, {at: (at + 1) % 8 for at in range(8)}),
    ]


@pytest.mark.hostile("R01")
@pytest.mark.parametrize("size", [0, 8], ids=["empty", "with bytes"])
@pytest.mark.parametrize(("head", "links"), [c[1:] for c in every_cycle()], ids=[c[0] for c in every_cycle()])
def test_a_loop_breaks_the_ring_after_at_most_its_size(rig: Rig, head: int, links: dict[int, int], size: int) -> None:
    device = rig.device()
    buffer = rig.buffer()
    for at, following in links.items():
        rig.raw.write(at, Desc(buffer, size, NEXT, following))
    rig.raw.offer(head)
    rig.device_side.log.clear()
    latch(rig, device, BadRing, "loops")
    loads = [a for a in rig.device_side.acts(Act.LOAD) if rig.area(a) == "desc"]
    assert len(loads) <= 2 * (rig.num + 1) + 2 * 64 * 256, "walk and recovery"


@pytest.mark.hostile("R01")
def test_a_loop_over_the_largest_ring_ends() -> None:
    memory = MappedMemory()
    memory.add(Addr(0), memoryview(bytearray(1 << 20)))
    addrs = RingAddrs(Addr(0), Addr(1 << 19), Addr((1 << 19) + (1 << 17)))
    raw = RawRing(memory, 32768, addrs)
    for at in range(32768):
        raw.write(at, Desc(0, 1, NEXT, at + 1 & 32767))
    raw.offer(0)
    device = SplitVringh(memory, 32768, addrs, event_idx=False, indirect=False)
    with pytest.raises(BadRing, match="loops"):
        getdesc(device)


@pytest.mark.hostile("R02")
@pytest.mark.virtio("SPLIT-DEV-6")
def test_a_chain_of_the_queue_size_works_and_one_more_breaks_the_ring(rig: Rig) -> None:
    data, spot = rig.buffer(b"abcdefgh"), rig.buffer()
    device = rig.device()
    singles = [Desc(data + at, 1) for at in range(8)]
    rig.offer(*singles)
    rig.raw.chain(0, *singles)
    chain = getdesc(device)
    assert chain is not None
    assert flat(chain[1]) == b"abcdefgh"
    complete(device, 0, 0)
    device.publish()

    def split(direct: int) -> None:
        """Direct descriptors first, the rest through a table at the end."""
        rest = [Desc(d.addr, 1, NEXT, at + 1) for at, d in enumerate(singles[direct:])]
        rest[-1] = Desc(rest[-1].addr, 1)
        rig.offer(*singles[:direct], rig.raw.table(spot, *rest))

    split(7)
    chain = getdesc(device)
    assert chain is not None
    assert flat(chain[1]) == b"abcdefgh"
    complete(device, 0, 0)
    device.publish()

    singles.append(Desc(data, 1))
    split(7)
    latch(rig, device, BadRing, "longer than")


@pytest.mark.hostile("R03")
@pytest.mark.parametrize("following", [8, 9, 0x7FFF, 0xFFFF])
def test_a_next_outside_of_the_table_breaks_the_ring(rig: Rig, following: int) -> None:
    device = rig.device()
    rig.raw.write(0, Desc(rig.buffer(), 8, NEXT, following))
    rig.raw.offer(0)
    latch(rig, device, BadRing, f"next descriptor {following} of 8")


def test_a_next_without_its_flag_means_nothing(rig: Rig) -> None:
    device = rig.device()
    rig.raw.write(0, Desc(rig.buffer(b"x"), 1, 0, 0xFFFF))
    rig.raw.offer(0)
    chain = getdesc(device)
    assert chain is not None
    assert flat(chain[1]) == b"x"


@pytest.mark.hostile("R04")
@pytest.mark.parametrize("head", [8, 0x7FFF, 0xFFFF])
def test_a_head_outside_of_the_table_breaks_the_ring(rig: Rig, head: int) -> None:
    device = rig.device()
    rig.raw.offer(head)
    latch(rig, device, BadRing, f"names descriptor {head} of 8")


@pytest.mark.hostile("R03", "R04", "R07", "R08")
@pytest.mark.parametrize(
    ("head", "desc", "error"),
    [
        (3, Desc(0x1000, 8, NEXT, 8), BadRing),
        (8, Desc(0), BadRing),
        (1, Desc(0x1000, 8), BadRing),
        (3, Desc(HOLE, 8), MemoryFault),
    ],
    ids=["next", "head", "twice", "hole"],
)
def test_chains_before_a_bad_one_are_handed_up_first(rig: Rig, head: int, desc: Desc, error: type[Exception]) -> None:
    device = rig.device()
    for at in range(3):
        rig.offer(Desc(rig.buffer(), 8), head=at)
    if head < rig.num:
        rig.raw.write(head, desc)
    rig.raw.offer(head)
    assert [chain[0] for chain in device.getdescs(8)] == [0, 1, 2]
    latch(rig, device, error, taken=(0, 1, 2))


# addresses and lengths


@pytest.mark.hostile("R08", "R09", "R10")
@pytest.mark.parametrize(
    ("addr", "size"),
    [(0, 1), (0, 0xFFFF_FF00), (HOLE, 16), (-1, 1), (TOP - 1, 1), (TOP - 8, 16), (TOP - 1, 0xFFFF_FF00), (None, 4097)],
    ids=["null", "null, long", "hole", "last byte", "top", "wraps", "wraps, long", "end of memory"],
)
@pytest.mark.parametrize("flags", [0, WRITE], ids=["readable", "writable"])
@pytest.mark.parametrize("behind", [0, 1], ids=["alone", "in a chain"])
def test_bytes_that_are_not_there_stop_the_queue(
    rig: Rig, addr: int | None, size: int, flags: int, behind: int
) -> None:
    good = rig.buffer()
    device = rig.device()
    rig.offer(*[Desc(good, 16)] * behind, Desc(good if addr is None else addr, size, flags))
    latch(rig, device, MemoryFault)


@pytest.mark.hostile("R08")
@pytest.mark.parametrize("behind", [0, 1], ids=["alone", "in a chain"])
@pytest.mark.parametrize("size", [16, 4096 + 16], ids=["one region", "two regions"])
def test_memory_that_may_only_be_read_is_never_lent_for_writing(rig: Rig, behind: int, size: int) -> None:
    good, fixed = rig.buffer(), Addr(0x50_0000)
    for at in range(2):
        rig.memory.add(Addr(fixed + 4096 * at), memoryview(bytearray(4096)), writable=False)
    device = rig.device()
    rig.offer(*[Desc(good, 16)] * behind, Desc(fixed, size))
    chain = getdesc(device)
    assert chain is not None
    complete(device, 0, 0)
    device.publish()
    rig.offer(*[Desc(good, 16)] * behind, Desc(fixed, size, WRITE))
    latch(rig, device, MemoryFault, "read-only")


@pytest.mark.hostile("R09")
def test_memory_at_both_ends_of_the_address_space_does_not_make_a_wrapping_range_legal(rig: Rig) -> None:
    for addr in (0, TOP - 4096):
        rig.memory.add(Addr(addr), memoryview(bytearray(4096)))
    device = rig.device()
    rig.offer(Desc(TOP - 16, 16), head=0)
    rig.offer(Desc(TOP - 16, 17), head=1)
    chain = getdesc(device)
    assert chain is not None
    assert len(chain[1][0]) == 16
    latch(rig, device, MemoryFault, taken=(0,))


@pytest.mark.hostile("R10")
@pytest.mark.parametrize("flags", [0, WRITE], ids=["readable", "writable"])
@pytest.mark.parametrize("behind", [0, 1], ids=["alone", "in a chain"])
def test_a_buffer_over_two_regions_comes_in_two_pieces(rig: Rig, flags: int, behind: int) -> None:
    first = rig.buffer(b"a" * 100)
    rig.buffer(b"b" * 100, adjoining=True)
    device = rig.device()
    rig.offer(*[Desc(first, 1)] * behind, Desc(first + 90, 30, flags))
    chain = getdesc(device)
    assert chain is not None
    segs = chain[2] if flags else chain[1][behind:]
    assert [bytes(seg) for seg in segs] == [b"a" * 10, b"b" * 20]
    complete(device, 0, 0)
    device.publish()
    rig.offer(*[Desc(first, 1)] * behind, Desc(first + 90, 111, flags))
    latch(rig, device, MemoryFault)


@pytest.mark.hostile("R11")
@pytest.mark.parametrize("addr", [0, HOLE, TOP - 1])
def test_an_empty_descriptor_is_an_empty_segment_wherever_it_points(rig: Rig, addr: int) -> None:
    data, back = rig.buffer(b"data"), rig.buffer(4)
    device = rig.device()
    rig.offer(Desc(addr, 0), head=7)
    assert getdesc(device) == (7, [], []), "no bytes at all: what that means is for the device to say"
    rig.offer(Desc(addr, 0, WRITE), head=6)
    assert getdesc(device) == (6, [], [])
    rig.offer(Desc(addr), Desc(data, 2), Desc(addr), Desc(data + 2, 2), Desc(back, 4, WRITE), Desc(addr, 0, WRITE))
    chain = getdesc(device)
    assert chain is not None
    assert [len(seg) for seg in (*chain[1], *chain[2])] == [2, 2, 4]
    assert flat(chain[1]) == b"data"


@pytest.mark.hostile("R12")
@pytest.mark.parametrize("through_table", [False, True])
def test_a_chain_of_more_than_4_gib_breaks_the_ring(make_rig: MakeRig, through_table: bool) -> None:
    rig = make_rig(64)
    # One region of 64 MiB that is lent over and over; its pages are never touched.
    big = Addr(0x10_0000_0000)
    rig.memory.add(big, memoryview(bytearray(1 << 26)))
    device = rig.device()
    descs = [Desc(big, 1 << 26)] * 63 + [Desc(big, (1 << 26) + 1)]
    if through_table:
        spot = rig.buffer()
        entries = [Desc(d.addr, d.size, NEXT, at + 1) for at, d in enumerate(descs)]
        entries[-1] = Desc(descs[-1].addr, descs[-1].size)
        descs = [rig.raw.table(spot, *entries)]
    rig.offer(*descs)
    latch(rig, device, BadRing, "more than 2\\^32 bytes")


@pytest.mark.hostile("R13")
@pytest.mark.parametrize("size", [0, 8])
def test_a_readable_descriptor_behind_a_writable_one_breaks_the_ring(rig: Rig, size: int) -> None:
    buffer = rig.buffer()
    device = rig.device()
    rig.offer(Desc(buffer, 8), Desc(buffer, 8, WRITE), Desc(buffer, size))
    latch(rig, device, BadRing, "readable descriptor after a writable")


@pytest.mark.hostile("R13")
def test_order_is_checked_though_the_writable_descriptor_was_empty(rig: Rig) -> None:
    buffer = rig.buffer()
    device = rig.device()
    rig.offer(Desc(buffer, 0, WRITE), Desc(buffer, 8))
    latch(rig, device, BadRing, "readable descriptor after a writable")


@pytest.mark.hostile("R15")
@pytest.mark.parametrize("area", ["desc", "driver", "device"])
def test_a_buffer_over_its_own_ring_hurts_only_its_driver(rig: Rig, area: str) -> None:
    """The device writes to the driver's memory only; its indices are its own."""
    device = rig.device()
    start: Addr = getattr(rig.addrs, area)
    size = {"desc": 128, "driver": 22, "device": 70}[area]
    rig.offer(Desc(start, size, WRITE), head=0)
    chain = getdesc(device)
    assert chain is not None
    for seg in chain[2]:
        seg[:] = b"\xff" * len(seg)
    complete(device, 0, size)
    device.publish()
    assert (rig.raw.used_idx, rig.raw.elem(0)) == (1, (0, size))
    if area == "driver":
        latch(rig, device, BadRing, "ahead of 1")  # its index reads 0xffff now
    else:
        assert getdesc(device) is None
        rig.recovers()


@pytest.mark.hostile("R16", "D10")
@pytest.mark.parametrize("shape", ["single", "chain", "table", "chain and table"])
def test_every_word_of_a_chain_is_fetched_once(rig: Rig, shape: str) -> None:
    """In a memory where no word reads the same twice, the chain is the one that was written."""
    out, back, spot = rig.buffer(b"payload!"), rig.buffer(8), rig.buffer()
    pieces = [Desc(out, 5), Desc(out + 5, 3), Desc(back, 8, WRITE)]
    linked = [Desc(out, 5, NEXT, 1), Desc(out + 5, 3, NEXT, 2), pieces[2]]
    descs = {
        "single": [Desc(out, 8)],
        "chain": pieces,
        "table": [rig.raw.table(spot, *linked)],
        "chain and table": [Desc(out, 0), rig.raw.table(spot, *linked)],
    }[shape]
    rig.offer(*descs, head=3)
    memory = Changing(rig.memory)
    device = rig.device(memory=memory)
    chain = getdesc(device)
    assert chain is not None
    head, readable, writable = chain
    # The last range that was lent has not changed yet: the payload of earlier ranges changes already.
    assert (head, sum(map(len, readable)), sum(map(len, writable))) == (3, 8, 0 if shape == "single" else 8)
    loads = memory.acts(Act.LOAD)
    assert len(loads) == len(set(loads)), "no word twice"
    tables = [access for access in memory.acts(Act.READ) if access.addr == spot]
    assert len(tables) == ("table" in shape), "a table is copied once"
    complete(device, head, 8)
    device.publish()
    assert rig.raw.elem(0) == (3, 8)
