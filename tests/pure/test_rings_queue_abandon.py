"""Chains put back: the last ones taken, by number, in either format and with observers around the ring."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from rings.errors import LocalRingError
from rings.features import RingFeature, mask
from rings.formats import FORMATS
from rings.layout import WRITE
from rings.memory import Addr
from rings.queue import Vringh, complete
from rings.testing import Desc, Guarded, PackedDesc, RawPackedRing, RawRing

NUM, COUNT = 8, 5


class Ignored:
    """A meter that counts nothing."""

    def read(self, size: int, /) -> None: ...

    def write(self, size: int, /) -> None: ...


def offered(form: str, metered: bool) -> Vringh:
    """A device's side with `COUNT` chains to take, with heads from 0 on."""
    memory = Guarded()
    addrs, buffer = memory.grant_ring(NUM, packed=form == "packed"), memory.grant(8 * NUM)
    for head in range(COUNT):
        if form == "split":
            ring = RawRing(memory, NUM, addrs)
            ring.chain(head, Desc(Addr(buffer + 8 * head), 8, WRITE))
            ring.offer(head)
        else:
            packed = RawPackedRing(memory, NUM, addrs)
            packed.next_avail = head
            packed.offer(PackedDesc(Addr(buffer + 8 * head), 8, WRITE), ident=head)
    features = mask((RingFeature.VERSION_1,))
    return FORMATS[form].vringh(memory, NUM, addrs, features, meter=Ignored() if metered else None)


@pytest.fixture(params=[(form, metered) for form in FORMATS for metered in (False, True)])
def device(request: pytest.FixtureRequest) -> Vringh:
    return offered(*request.param)


def heads(device: Vringh, count: int) -> list[int]:
    return [head for head, _, _ in device.getdescs(count)]


def test_chains_of_several_batches_come_again_in_their_order(device: Vringh) -> None:
    assert heads(device, 2) == [0, 1]
    assert device.getbufs(1)[0] == [2]
    assert heads(device, 1) == [3]
    assert device.abandon(3) == [3, 2, 1]
    assert device.state().in_flight == 1
    assert device.getbufs(2)[0] == [1, 2]
    assert heads(device, 9) == [3, 4]
    assert device.in_flight() == [0, 1, 2, 3, 4]


def test_abandoning_none_changes_nothing(device: Vringh) -> None:
    assert device.abandon(0) == []
    assert heads(device, 1) == [0]
    assert device.abandon(0) == []
    assert heads(device, 9) == [1, 2, 3, 4]


def test_only_chains_taken_after_the_last_completed_one_can_be_abandoned(device: Vringh) -> None:
    heads(device, 5)
    complete(device, 2, 0)
    with pytest.raises(LocalRingError, match="descriptor 2 among them was completed"):
        device.abandon(3)
    assert device.in_flight() == [0, 1, 3, 4], "none of them was put back"
    assert device.abandon(2) == [4, 3]
    with pytest.raises(LocalRingError, match="completed"):
        device.abandon(1)
    assert heads(device, 9) == [3, 4]
    device.complete_each([(0, 0), (1, 0), (3, 0), (4, 0)])
    device.publish()
    with pytest.raises(LocalRingError, match="completed"):
        device.abandon(1)


@pytest.mark.parametrize("count", [-1, 1, 6])
def test_no_more_chains_can_be_abandoned_than_were_taken(device: Vringh, count: int) -> None:
    with pytest.raises(LocalRingError, match=f"{count} chains abandoned, of 0 taken"):
        device.abandon(count)
    assert heads(device, 5) == [0, 1, 2, 3, 4]
    with pytest.raises(LocalRingError, match="of 5 taken"):
        device.abandon(count if count < 0 else 5 + count)
    assert device.state().in_flight == 5


def test_a_split_ring_stopped_twice_before_its_chains_are_taken_again_serves_each_once() -> None:
    """Chains are used out of order: the available ring alone does not tell which of them are left."""
    memory = Guarded()
    ring = RawRing(memory, NUM, memory.grant_ring(NUM, packed=False))
    buffer = memory.grant(8 * NUM)
    for head in range(COUNT):
        ring.chain(head, Desc(Addr(buffer + 8 * head), 8, WRITE))
    ring.offer(*range(COUNT))
    form = FORMATS["split"]

    def resumed(left: Sequence[int]) -> Vringh:
        features, base = mask((RingFeature.VERSION_1,)), ring.used_idx
        device = form.vringh(memory, NUM, ring.addrs, features, base=base, meter=None)
        form.resume(device, base, left)
        return device

    first = resumed(())
    heads(first, 3)
    complete(first, 1, 0)
    first.publish()
    first.close()
    second = resumed(first.in_flight())
    second.close()
    third = resumed(second.in_flight())
    assert [head for _ in range(COUNT) for head in heads(third, 1)] == [0, 2, 3, 4]
