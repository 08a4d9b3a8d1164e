"""A meter counts a queue's accesses: descriptors, buffers and ring fields, each once."""

from __future__ import annotations

import pytest

from rings.errors import BadRing
from rings.features import RingFeature, mask
from rings.formats import FORMATS
from rings.queue import Virtqueue, complete, getdesc
from rings.split.virtqueue import SplitVirtqueue
from rings.testing import Guarded
from support.rigs.ring import get

NUM = 8


class Tape:
    """A meter that remembers."""

    def __init__(self) -> None:
        self.accesses: list[tuple[str, int]] = []

    def read(self, size: int, /) -> None:
        self.accesses.append(("read", size))

    def write(self, size: int, /) -> None:
        self.accesses.append(("write", size))

    def take(self) -> list[tuple[str, int]]:
        taken, self.accesses = self.accesses, []
        return taken


class Queue:
    """Both sides of a queue over one memory, the device's metered."""

    def __init__(self, *, indirect: bool, form: str = "split") -> None:
        self.memory = Guarded()
        addrs = self.memory.grant_ring(NUM, packed=form == "packed")
        tables = self.memory.grant(NUM * 4 * 16) if indirect else None
        self.driver: Virtqueue = FORMATS[form].driver(
            self.memory, NUM, addrs, event_idx=True, indirect=tables, indirect_max=4
        )
        self.tape = Tape()
        features = mask((RingFeature.EVENT_IDX, *([RingFeature.INDIRECT_DESC] if indirect else [])))
        self.device = FORMATS[form].vringh(self.memory, NUM, addrs, features, meter=self.tape)
        self.buffer = self.memory.grant(4096)

    def add(self, readable: list[int], writable: list[int]) -> None:
        self.driver.add([(self.buffer, size) for size in readable], [(self.buffer, size) for size in writable], 7)
        self.driver.publish()


ENTRY, DESC, ELEM = ("read", 2), ("read", 16), ("write", 8)


def test_a_chain_is_billed_when_it_is_given_back() -> None:
    queue = Queue(indirect=False)
    queue.add([100, 1000], [200, 300])
    chain = getdesc(queue.device)
    assert chain is not None
    assert queue.tape.take() == []
    complete(queue.device, chain[0], 250)
    assert queue.tape.take() == [
        ENTRY,
        ("read", 64),
        ("read", 100),
        ("read", 1000),
        ("write", 200),
        ("write", 50),
        ELEM,
    ]
    assert queue.device.publish()
    assert queue.tape.take() == [("write", 2), ("read", 2)]
    assert get(queue.driver) == (7, 250)


@pytest.mark.parametrize(("buffers", "fetched"), [(1, [DESC]), (3, [DESC, ("read", 48)])])
def test_several_descriptors_lie_in_a_table_where_tables_were_agreed_on(
    buffers: int, fetched: list[tuple[str, int]]
) -> None:
    queue = Queue(indirect=True)
    queue.add([10] * buffers, [])
    (chain,) = queue.device.getdescs(4)
    complete(queue.device, chain[0], 0)
    assert queue.tape.take() == [ENTRY, *fetched, *[("read", 10)] * buffers, ELEM]


def test_a_packed_ring_is_billed_by_its_own_fields() -> None:
    """A chain's descriptors lie in the ring itself, one more tells its end, and nothing else says that it is there."""
    queue = Queue(indirect=False, form="packed")
    assert getdesc(queue.device) is None
    assert queue.tape.take() == [DESC]
    queue.add([100, 1000], [200])
    (chain,) = queue.device.getdescs(4)
    complete(queue.device, chain[0], 50)
    assert queue.tape.take() == [("read", 48), ("read", 100), ("read", 1000), ("write", 50), ("write", 16)]
    assert queue.device.publish()
    assert queue.tape.take() == [("read", 4)]
    assert not queue.device.notify_enable()
    assert queue.tape.take() == [("write", 4), DESC]
    assert get(queue.driver) == (7, 50)


def test_an_abandoned_chain_costs_nothing_until_it_is_taken_again() -> None:
    queue = Queue(indirect=False)
    queue.add([10], [])
    for _ in range(3):
        (chain,) = queue.device.getdescs(4)
        assert queue.device.abandon(1) == [chain[0]]
    assert queue.tape.take() == []
    (chain,) = queue.device.getdescs(4)
    complete(queue.device, chain[0], 0)
    assert queue.tape.take() == [ENTRY, DESC, ("read", 10), ELEM]


def test_looking_in_vain_and_arming_are_billed_and_publishing_nothing_is_not() -> None:
    queue = Queue(indirect=False)
    assert getdesc(queue.device) is None
    assert queue.tape.take() == [("read", 2)]
    assert not queue.device.notify_enable()
    assert queue.tape.take() == [("write", 2), ("read", 2)]
    assert not queue.device.publish()
    assert queue.tape.take() == []


def test_everything_else_is_the_ring_inside() -> None:
    queue = Queue(indirect=False)
    queue.add([10], [])
    (chain,) = queue.device.getdescs(4)
    assert queue.device.state().in_flight == 1
    assert queue.device.statistics().chains == 1
    assert (queue.device.num, queue.device.broken, queue.device.reachable()) == (NUM, False, True)
    queue.device.notify_disable()
    queue.device.latch()
    assert queue.device.broken
    complete(queue.device, chain[0], 0)
    assert getdesc(queue.device) is None
    queue.device.close()
    assert not queue.device.reachable()


def test_a_ring_that_lies_is_not_billed() -> None:
    queue = Queue(indirect=False)
    assert isinstance(queue.driver, SplitVirtqueue)
    queue.driver._avail[1] = 100
    with pytest.raises(BadRing):
        getdesc(queue.device)
    assert queue.tape.take() == []
