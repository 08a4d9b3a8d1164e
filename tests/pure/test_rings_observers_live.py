"""Observers of both sides of a ring come while it is used, learn all of each chain, and go without a trace."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import attrs
import pytest

from rings.chain import Chain
from rings.errors import BadRing
from rings.features import RingFeature, mask
from rings.formats import FORMATS, RingFormat
from rings.in_order import InOrderVringh
from rings.layout import DESC_SIZE
from rings.memory import Addr, MappedMemory
from rings.observers.live import (
    Access,
    AddedChain,
    DriverObserver,
    TakenBuffers,
    device_side,
    watch_device,
    watch_driver,
)
from rings.observers.observed import ObservedVringh, Observer
from rings.observers.overlay import Overlay
from rings.queue import Virtqueue, Vringh

NUM = 8
TABLES, BUFFERS = Addr(0x8000), Addr(0x1_0000)
SPLIT_AT = Addr(0x1_1000)
"""Two regions of memory meet here: a buffer across it has two views."""


class TwoRegions(MappedMemory):
    def __init__(self) -> None:
        super().__init__()
        self.add(Addr(0), memoryview(bytearray(SPLIT_AT)))
        self.add(SPLIT_AT, memoryview(bytearray(0x1000)))


class DriverNotes(DriverObserver):
    def __init__(self) -> None:
        self.notes: list[tuple[object, ...]] = []

    def added(self, chains: Sequence[AddedChain], /) -> None:
        self.notes += [("added", *attrs.astuple(chain, recurse=False)) for chain in chains]

    def published(self, kick: bool, /) -> None:
        self.notes.append(("published", kick))

    def returned(self, done: Sequence[tuple[int, int]], /) -> None:
        self.notes.append(("returned", *done))

    def closed(self) -> None:
        self.notes.append(("closed",))


class DeviceNotes(Observer):
    def __init__(self, buffers: TakenBuffers) -> None:
        self.buffers = buffers
        self.notes: list[tuple[object, ...]] = []

    def taking(self) -> None:
        self.buffers.forget()

    def took(self, chains: Sequence[Chain], /) -> None:
        for (head, _, _), (accesses, indirect) in zip(chains, self.buffers.of(chains), strict=True):
            self.notes.append(("took", head, [self._plain(access) for access in accesses], indirect))

    def put_back(self, heads: Sequence[int], /) -> None:
        self.notes.append(("put back", *heads))

    def completed(self, done: Sequence[tuple[int, int]], /) -> None:
        self.notes.append(("completed", *done))

    @staticmethod
    def _plain(access: Access) -> tuple[int, int, bool]:
        return access.addr, access.size, access.writable


@attrs.define
class Rig:
    """A ring, and what its two observers are told."""

    form: RingFormat
    driver: Virtqueue
    device: Vringh
    driver_notes: DriverNotes = attrs.field(factory=DriverNotes)
    device_notes: list[DeviceNotes] = attrs.field(factory=list)

    @contextmanager
    def watched(self) -> Iterator[None]:
        def make(buffers: TakenBuffers) -> Observer:
            self.device_notes.append(DeviceNotes(buffers))
            return self.device_notes[-1]

        overlay, end = watch_driver(self.driver, self.driver_notes), watch_device(self.device, make)
        yield
        overlay.remove()
        end()

    def heads(self, count: int) -> list[int]:
        return [head for head, _, _ in self.device.getdescs(count)]


WRAPPERS: Mapping[str, Callable[[Vringh], Vringh]] = {
    "bare": lambda ring: ring,
    "observed": lambda ring: ObservedVringh(ring, Observer()),
    "in order": lambda ring: InOrderVringh(ring, batches=True),
}


@pytest.fixture(params=[(form, wrapper) for form in FORMATS for wrapper in WRAPPERS], ids=str)
def rig(request: pytest.FixtureRequest) -> Rig:
    name, wrapper = request.param
    form, memory = FORMATS[name], TwoRegions()
    addrs, _ = form.contiguous(NUM, Addr(0), 64)
    features = mask((RingFeature.INDIRECT_DESC,))
    driver = form.driver(memory, NUM, addrs, event_idx=False, indirect=TABLES, indirect_max=4)
    device = form.vringh(memory, NUM, addrs, features, meter=None)
    return Rig(form, driver, WRAPPERS[wrapper](device))


def test_each_chain_is_reported_with_its_descriptors_on_both_sides(rig: Rig) -> None:
    with rig.watched():
        rig.driver.add([(BUFFERS, 10), (Addr(BUFFERS + 64), 20)], [(Addr(SPLIT_AT - 8), 16)], 70)
        rig.driver.add([(Addr(BUFFERS + 128), 30)], [], 71)
        rig.driver.add_each([(Addr(BUFFERS + 256), 40, 72), (Addr(BUFFERS + 320), 50, 73)], True)
        assert rig.driver.publish()
        heads = rig.heads(9)
        rig.device.abandon(1)
        rig.device.complete_each([(heads[0], 16), (heads[1], 0)])
        rig.device.publish()
        assert rig.driver.get_each(9) == [(70, 16), (71, 0)]
    seen = [
        ([(BUFFERS, 10, False), (BUFFERS + 64, 20, False), (SPLIT_AT - 8, 16, True)], True),
        ([(BUFFERS + 128, 30, False)], False),
        ([(BUFFERS + 256, 40, True)], False),
        ([(BUFFERS + 320, 50, True)], False),
    ]
    assert rig.driver_notes.notes == [
        ("added", heads[0], [(BUFFERS, 10), (BUFFERS + 64, 20)], [(SPLIT_AT - 8, 16)], True),
        ("added", heads[1], ((BUFFERS + 128, 30),), (), False),
        ("added", heads[2], (), ((BUFFERS + 256, 40),), False),
        ("added", heads[3], (), ((BUFFERS + 320, 50),), False),
        ("published", True),
        ("returned", (heads[0], 16), (heads[1], 0)),
    ]
    assert rig.device_notes[0].notes == [
        *(("took", head, buffers, indirect) for head, (buffers, indirect) in zip(heads, seen, strict=True)),
        ("put back", heads[3]),
        ("completed", (heads[0], 16), (heads[1], 0)),
    ]


def test_an_observer_that_comes_late_learns_the_chains_that_are_already_in_flight(rig: Rig) -> None:
    rig.driver.add_each([(Addr(BUFFERS + 64 * at), 8, 30 + at) for at in range(4)], True)
    rig.driver.publish()
    heads = rig.heads(3)
    with rig.watched():
        assert list(device_side(rig.device).taken_last()) == heads
        heads += rig.heads(9)
        rig.device.complete_each([(head, 1) for head in heads])
        rig.device.publish()
        rig.driver.get_each(9)
    assert rig.device_notes[0].notes[0][:2] == ("took", heads[3])
    assert rig.driver_notes.notes == [("returned", *((head, 1) for head in heads))]


def test_receive_buffers_taken_by_the_column_are_reported_one_by_one(rig: Rig) -> None:
    rig.driver.add_each([(Addr(BUFFERS + 64 * at), 64, at) for at in range(3)], True)
    rig.driver.publish()
    with rig.watched():
        heads, sizes, views = rig.device.getbufs(9)
        assert (sizes, sum(map(len, views))) == ([64] * 3, 192)
    assert [note[1:3] for note in rig.device_notes[0].notes] == [
        (head, [(BUFFERS + 64 * at, 64, True)]) for at, head in enumerate(heads)
    ]


def test_nothing_is_left_of_observers_that_have_gone(rig: Rig) -> None:
    side = device_side(rig.device)
    before = [dict(vars(ring)) for ring in (rig.driver, rig.device, side)]
    memory = side.memory
    with rig.watched():
        assert side.memory is not memory
    after = [dict(vars(ring)) for ring in (rig.driver, rig.device, side)]
    assert after == before
    rig.driver.add([(BUFFERS, 10)], [], 1)
    rig.driver.publish()
    rig.device.complete_each([(head, 0) for head in rig.heads(1)])
    assert rig.driver_notes.notes == rig.device_notes[0].notes == []


def test_a_bad_chain_is_not_reported_and_the_good_ones_before_it_are(rig: Rig) -> None:
    with rig.watched():
        rig.driver.add([(BUFFERS, 10)], [], 1)
        rig.driver.add([(BUFFERS, 10), (Addr(BUFFERS + 64), 20)], [], 2)
        device_side(rig.device).memory.view(TABLES, NUM * 4 * DESC_SIZE, True)[:] = b"\xff" * (NUM * 4 * DESC_SIZE)
        rig.driver.publish()
        assert len(rig.heads(9)) == 1
        with pytest.raises(BadRing):
            rig.heads(9)
    assert [note[0] for note in rig.device_notes[0].notes] == ["took"]


def test_a_ring_that_closes_tells_its_observers(rig: Rig) -> None:
    with rig.watched():
        rig.driver.close()
        rig.device.close()
    assert rig.driver_notes.notes == [("closed",)]
    assert not rig.driver.reachable()
    assert not rig.device.reachable()


class Thing:
    def __init__(self) -> None:
        self.own = "own"

    def call(self) -> str:
        return "class"


def test_an_overlay_replaces_attributes_of_one_object_until_it_is_removed() -> None:
    thing, other = Thing(), Thing()
    overlay = Overlay(thing, {"call": lambda: "overlay", "own": "another"})
    assert (thing.call(), thing.own, other.call()) == ("overlay", "another", "class")
    overlay.remove()
    overlay.remove()
    assert (thing.call(), thing.own) == ("class", "own")
    assert vars(thing) == {"own": "own"}


def test_overlays_of_one_object_end_in_the_reverse_order() -> None:
    thing = Thing()
    overlays = [Overlay(thing, {"call": lambda text=text: text}) for text in ("first", "second")]
    assert thing.call() == "second"
    overlays[1].remove()
    assert thing.call() == "first"
    overlays[0].remove()
    assert thing.call() == "class"


def test_an_overlay_of_an_overlay_ends_also_if_a_value_is_that_of_the_class() -> None:
    thing = Thing()
    overlays = [Overlay(thing, {"call": Thing.call}) for _ in range(2)]
    for overlay in reversed(overlays):
        overlay.remove()
    assert thing.call() == "class"
    assert vars(thing) == {"own": "own"}
