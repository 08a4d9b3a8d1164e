"""Receive buffers taken by the batch: the same as chain by chain, in either format, and up to a bad chain."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rings.errors import BadRing, MemoryFault
from rings.layout import WRITE
from rings.memory import Addr
from rings.observers.observed import ObservedVringh, Observer
from rings.queue import Vringh, getdesc
from rings.testing import Act, Desc, PackedDesc
from support.rigs.packed import PackedRig
from support.rigs.ring import Rig

HOLE = Addr(0x7000_0000)
EVERYONE = (Rig, PackedRig)


@pytest.fixture(params=EVERYONE)
def rig(request: pytest.FixtureRequest) -> Iterator[Rig | PackedRig]:
    made: Rig | PackedRig = request.param(8)
    yield made
    made.check()


def offer(rig: Rig | PackedRig, *buffers: tuple[int, int, int]) -> None:
    """A chain of one descriptor each: address, bytes, flags."""
    for ident, (addr, size, flags) in enumerate(buffers):
        if isinstance(rig, Rig):
            rig.offer(Desc(Addr(addr), size, flags), head=ident)
        else:
            rig.raw.offer(PackedDesc(Addr(addr), size, flags), ident=ident)


def sizes(views: list[memoryview]) -> list[int]:
    return [len(view) for view in views]


def test_buffers_that_adjoin_are_one_view(rig: Rig | PackedRig) -> None:
    first, other = rig.buffer(3000), rig.buffer(1000)
    device = rig.device()
    offer(rig, (first, 1000, WRITE), (first + 1000, 500, WRITE), (other, 1000, WRITE), (first + 1500, 1500, WRITE))
    heads, rooms, views = device.getbufs(8)
    assert (heads, rooms, sizes(views)) == ([0, 1, 2, 3], [1000, 500, 1000, 1500], [1500, 1000, 1500])
    views[0][990:1010] = b"." * 20
    assert rig.bytes(Addr(first + 980), 40) == bytes(10) + b"." * 20 + bytes(10)
    loaded = [access for access in rig.device_side.acts(Act.LOAD) if rig.area(access) != "driver"]
    assert len({access.addr for access in loaded}) == len(loaded), "each word is believed once"
    assert device.getbufs(8) == ([], [], [])
    assert device.state().in_flight == 4


def test_no_more_are_taken_than_requested_and_those_put_back_come_again(rig: Rig | PackedRig) -> None:
    addr = rig.buffer(4000)
    device = rig.device()
    offer(rig, *((addr + 1000 * at, 1000, WRITE) for at in range(4)))
    assert device.getbufs(1)[0] == [0]
    assert device.getbufs(2)[0] == [1, 2]
    device.abandon(2)
    assert device.getbufs(3)[0] == [1, 2, 3]
    device.complete_each([(0, 1), (1, 2), (2, 3), (3, 4)])
    assert device.publish()
    assert device.state().in_flight == 0


@pytest.mark.parametrize("flags", [0, WRITE], ids=["readable", "empty"])
def test_it_ends_in_front_of_a_chain_that_is_no_room(rig: Rig | PackedRig, flags: int) -> None:
    addr = rig.buffer(4000)
    device = rig.device()
    offer(rig, (addr, 1000, WRITE), (addr, 0 if flags else 1000, flags), (addr + 1000, 1000, WRITE))
    assert device.getbufs(8)[0] == [0]
    assert device.getbufs(8)[0] == []
    chain = getdesc(device)
    assert chain is not None
    assert (chain[0], sizes(chain[1])) == (1, [] if flags else [1000])
    assert device.getbufs(8)[0] == [2]


def test_it_ends_in_front_of_what_is_wrong_and_getdesc_says_what_it_is(rig: Rig | PackedRig) -> None:
    addr = rig.buffer(4000)
    device = rig.device()
    offer(rig, (addr, 1000, WRITE))
    if isinstance(rig, Rig):
        rig.raw.offer(0)  # once more, while it is in flight
    else:
        rig.raw.offer(PackedDesc(addr, 1000, WRITE), ident=0)
    assert device.getbufs(8)[0] == [0]
    assert device.getbufs(8)[0] == []
    with pytest.raises(BadRing, match="in flight"):
        getdesc(device)


@pytest.mark.parametrize("size", [1000, 0xFFFF_FFFF])
def test_where_one_can_not_be_reached_none_is_taken_and_the_good_ones_come_one_by_one(
    rig: Rig | PackedRig, size: int
) -> None:
    addr = rig.buffer(2000)
    device = rig.device()
    offer(rig, (addr, 1000, WRITE), (addr + 1000, 1000, WRITE), (HOLE, size, WRITE))
    assert device.getbufs(8) == ([], [], [])
    assert device.state().in_flight == 0
    for ident in range(2):
        chain = getdesc(device)
        assert chain is not None
        assert chain[0] == ident
    with pytest.raises(MemoryFault):
        getdesc(device)


def test_a_broken_ring_has_none(rig: Rig | PackedRig) -> None:
    addr = rig.buffer(1000)
    device = rig.device()
    offer(rig, (addr, 1000, WRITE))
    device.latch()
    assert device.getbufs(8) == ([], [], [])


@pytest.mark.parametrize("kind", EVERYONE)
@given(
    chains=st.lists(st.lists(st.tuples(st.integers(0, 90), st.booleans()), min_size=1, max_size=3), max_size=6),
    limit=st.integers(1, 8),
)
def test_it_returns_the_same_as_getdescs(
    kind: type[Rig | PackedRig], chains: list[list[tuple[int, bool]]], limit: int
) -> None:
    """Whether a ring does it at once or something around it by its own `getdescs`."""
    rig = kind(32, indirect=False)
    driver = rig.driver()
    for pieces in chains:
        segs = [(rig.buffer(max(size, 1)), size) for size, _ in pieces]
        readable = [seg for seg, (_, write) in zip(segs, pieces, strict=True) if not write]
        writable = [seg for seg, (_, write) in zip(segs, pieces, strict=True) if write]
        driver.add(readable, writable, 0)
    driver.publish()
    inner = rig.device()
    around: Vringh = ObservedVringh(rig.device(), Observer())
    once, by_chain = everything(inner, limit), everything(around, limit)
    assert once == by_chain
    assert len(once) == len(chains)
    rig.check()


def everything(device: Vringh, limit: int) -> list[tuple[int, int]]:
    """Heads, and the bytes that each takes."""
    actual: list[tuple[int, int]] = []
    while True:
        heads, rooms, views = device.getbufs(limit)
        assert len(heads) <= limit
        assert sum(rooms) == sum(sizes(views))
        actual += zip(heads, rooms, strict=True)
        if not heads:
            chain = getdesc(device)
            if chain is None:
                return actual
            actual.append((chain[0], sum(sizes(chain[2]))))
