"""The device's side of a split ring and a driver that means well."""

from __future__ import annotations

import pytest

from rings.errors import BadRing, LocalRingError
from rings.layout import WRITE
from rings.memory import Addr
from rings.packed.ring import FIRST_LAP
from rings.queue import complete, getdesc
from rings.testing import Act, Desc
from support.rigs.packed import PackedRig
from support.rigs.ring import MakeRig, Rig, flat

TOP = 1 << 64
HOLE = 0x7000_0000

# ---------------------------------------------------------------- what must work


def test_a_chain_comes_as_its_head_and_the_bytes_of_both_directions(rig: Rig) -> None:
    out, back = rig.buffer(b"head" + b"body"), rig.buffer(10)
    device = rig.device()
    assert getdesc(device) is None
    rig.offer(Desc(out, 4), Desc(out + 4, 4), Desc(back, 3, WRITE), Desc(back + 3, 7, WRITE), head=5)
    chain = getdesc(device)
    assert chain is not None
    head, readable, writable = chain
    assert (head, [bytes(seg) for seg in readable], [len(seg) for seg in writable]) == (5, [b"head", b"body"], [3, 7])
    writable[1][:] = b"written"
    assert rig.bytes(Addr(back + 3), 7) == b"written"
    assert getdesc(device) is None


def test_a_used_element_is_shown_only_by_publish(rig: Rig) -> None:
    device = rig.device()
    rig.offer(Desc(rig.buffer(), 64, WRITE), head=3)
    assert getdesc(device) is not None
    complete(device, 3, 17)
    assert rig.raw.used_idx == 0
    assert device.publish()
    assert (rig.raw.used_idx, rig.raw.elem(0)) == (1, (3, 17))
    assert not device.publish(), "nothing new: no notification"
    assert rig.raw.used_idx == 1


@pytest.mark.watches_words
@pytest.mark.virtio("SPLIT-DEV-13")
def test_id_and_length_are_stored_before_the_index_that_shows_them(rig: Rig) -> None:
    device = rig.device()
    rig.offer(Desc(rig.buffer(), 64, WRITE))
    getdesc(device)
    complete(device, 0, 64)
    device.publish()
    offsets = [access.addr - rig.addrs.device for access in rig.device_side.acts(Act.STORE)]
    assert offsets == [4, 2], "the element, then idx"


@pytest.mark.watches_words
@pytest.mark.virtio("SPLIT-DEV-4")
def test_the_device_only_ever_writes_the_used_ring(rig: Rig) -> None:
    device = rig.device()
    for at in range(3):
        rig.offer(Desc(rig.buffer(), 8), Desc(rig.buffer(), 8, WRITE), head=2 * at)
        getdesc(device)
        device.notify_disable()
        complete(device, 2 * at, 8)
        device.publish()
        device.notify_enable()
    assert {area for act, area in rig.words(rig.device_side) if act == "store"} == {"used"}


def test_abandon_gives_the_last_chain_back_untouched(rig: Rig) -> None:
    device = rig.device()
    data = rig.buffer(b"abc")
    for head in range(3):
        rig.offer(Desc(Addr(data + head), 1), head=head)
    taken = [getdesc(device) for _ in range(3)]
    assert device.abandon(2) == [2, 1]
    assert device.state().in_flight == 1
    again = [getdesc(device) for _ in range(2)]
    assert [(c[0], flat(c[1])) for c in taken if c] == [(0, b"a"), (1, b"b"), (2, b"c")]
    assert [(c[0], flat(c[1])) for c in again if c] == [(1, b"b"), (2, b"c")]


def test_a_batch_is_taken_up_to_its_limit_and_given_back_at_once(rig: Rig) -> None:
    device = rig.device()
    data = rig.buffer(b"abcdef")
    for head in range(6):
        rig.offer(Desc(data + head, 1), head=head)
    first = device.getdescs(4)
    assert [(head, flat(readable)) for head, readable, _ in first] == [(0, b"a"), (1, b"b"), (2, b"c"), (3, b"d")]
    device.abandon(1)
    device.complete_each([(2, 20), (0, 0)])
    assert rig.raw.used_idx == 0
    device.publish()
    assert [rig.raw.elem(at) for at in range(rig.raw.used_idx)] == [(2, 20), (0, 0)]
    assert [head for head, _, _ in device.getdescs(100)] == [3, 4, 5]
    assert device.getdescs(100) == []
    assert device.state().in_flight == 4


def test_giving_back_what_was_not_taken_is_our_own_mistake(rig: Rig) -> None:
    device = rig.device()
    rig.offer(Desc(rig.buffer(), 8))
    getdesc(device)
    with pytest.raises(LocalRingError, match="was not taken"):
        complete(device, 1, 0)
    complete(device, 0, 0)
    with pytest.raises(LocalRingError, match="was not taken"):
        complete(device, 0, 0)
    assert device.state().in_flight == 0


def test_a_ring_may_start_at_any_index(make_rig: MakeRig) -> None:
    rig = make_rig(2)
    rig.raw.avail_idx = rig.raw.used_idx = 65535
    device = rig.device(base=65535)
    assert getdesc(device) is None
    for head in (1, 0):
        rig.offer(Desc(rig.buffer(), 8), head=head)
        before = device.state().avail
        assert getdesc(device) is not None
        device.abandon(1)
        assert device.state().avail == before
        assert getdesc(device) is not None
        complete(device, head, 0)
        device.publish()
    assert (rig.raw.used_idx, rig.raw.elem(65535), rig.raw.elem(0)) == (1, (1, 0), (0, 0))


@pytest.mark.virtio("SPLIT-DEV-18")
def test_kicks_without_a_buffer_change_nothing(rig: Rig) -> None:
    device = rig.device()
    before = device.state(), device.statistics()
    for _ in range(100):
        assert getdesc(device) is None
        assert not device.publish()
        assert not device.notify_enable()
    assert (device.state(), device.statistics()) == before


def test_a_closed_ring_reads_as_empty_and_touches_nothing(rig: Rig) -> None:
    device = rig.device()
    rig.offer(Desc(rig.buffer(), 8), head=0)
    rig.offer(Desc(rig.buffer(), 8), head=1)
    getdesc(device)
    device.close()
    assert not device.reachable()
    assert getdesc(device) is None
    assert not device.notify_enable()
    with pytest.raises(ValueError, match="released"):
        complete(device, 0, 0)
    assert rig.memory.pinned == 4, "the raw ring's"


def test_a_ring_whose_memory_went_away_raises_instead_of_touching_it(rig: Rig) -> None:
    device = rig.device()
    assert device.reachable()
    rig.memory.remove(rig.addrs.driver)
    assert not device.reachable()
    with pytest.raises(ValueError, match="released"):
        getdesc(device)


# ---------------------------------------------------------------- after a latch


def test_nothing_brings_a_latched_queue_back(rig: Rig) -> None:
    device = rig.device()
    for head in range(3):
        rig.offer(Desc(rig.buffer(), 8), head=head)
    assert getdesc(device) is not None
    device.latch()
    device.latch()
    device.abandon(1)
    assert getdesc(device) is None, "not even what was given up"
    assert not device.notify_enable()
    device.notify_disable()
    assert device.state().broken
    rig.recovers()


@pytest.mark.hostile("V12")
def test_a_ring_that_cannot_be_resumed_names_only_the_first_of_many_heads() -> None:
    num = 1024
    split, packed = Rig(num).device(), PackedRig(num)
    with pytest.raises(BadRing, match=r"^invalid heads to resume with: 0, 1, 2, .*, 19, \.\.\.$") as caught:
        split.resume([*range(num), 0])
    assert len(str(caught.value)) < 150
    with pytest.raises(BadRing, match=r"^invalid heads to resume with: 7, 7$"):
        split.resume([7, 7])
    with pytest.raises(BadRing, match=r"can't resume at 0 with buffers 0, 1, 2, .*, 19, \.\.\.$"):
        packed.device(memory=packed.memory).resume(FIRST_LAP, [[(0, head << 32)] for head in range(num + 1)])
