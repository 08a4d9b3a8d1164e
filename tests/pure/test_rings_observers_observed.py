"""An observer learns what becomes of a ring's chains, in either format; several observers may watch one ring."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from rings.chain import Chain
from rings.errors import LocalRingError
from rings.formats import FORMATS
from rings.layout import DESC_SIZE
from rings.memory import Addr
from rings.observers.observed import ObservedVringh, Observer
from rings.queue import Virtqueue, Vringh, complete
from rings.testing import Guarded

NUM = 8


class Notes(Observer):
    """Notes each hook by name, with the heads that it is told."""

    def __init__(self, name: str = "", notes: list[object] | None = None) -> None:
        self.name = name
        self.notes: list[object] = [] if notes is None else notes

    def note(self, hook: str, *values: object) -> None:
        self.notes.append((self.name + hook, *values))

    def taking(self) -> None:
        self.note("taking")

    def took(self, chains: Sequence[Chain], /) -> None:
        self.note("took", [head for head, _, _ in chains])

    def put_back(self, heads: Sequence[int], /) -> None:
        self.note("put back", list(heads))

    def completed(self, done: Sequence[tuple[int, int]], /) -> None:
        self.note("completed", list(done))

    def publishing(self) -> None:
        self.note("publishing")

    def published(self) -> None:
        self.note("published")

    def kicks_switched(self, enabled: bool, /) -> None:
        self.note("kicks switched", enabled)

    def closed(self) -> None:
        self.note("closed")

    def take(self) -> list[object]:
        notes, self.notes = self.notes, []
        return notes


def sides(form: str) -> tuple[Virtqueue, Vringh]:
    """Both sides of a ring of `NUM` descriptors; the driver added three writable buffers and one readable one."""
    memory = Guarded()
    addrs, buffer = memory.grant_ring(NUM, packed=form == "packed"), memory.grant(NUM * DESC_SIZE)
    driver = FORMATS[form].driver(memory, NUM, addrs, event_idx=False)
    device = FORMATS[form].device(memory, NUM, addrs, event_idx=False, indirect=False)
    driver.add_each([(Addr(buffer + 8 * token), 8, token) for token in range(3)], True)
    driver.add_each([(buffer, 8, 3)], False)
    driver.publish()
    return driver, device


@pytest.fixture(params=FORMATS)
def ring(request: pytest.FixtureRequest) -> Vringh:
    return sides(request.param)[1]


def test_each_call_is_reported_with_its_chains(ring: Vringh) -> None:
    notes = Notes()
    device = ObservedVringh(ring, notes)
    first, second, third, fourth = [head for head, _, _ in device.getdescs(9)]
    device.abandon(2)
    device.complete_each([(second, 8), (first, 0)])
    device.publish()
    device.notify_disable()
    device.notify_enable()
    assert notes.take() == [
        ("taking",),
        ("took", [first, second, third, fourth]),
        ("put back", [fourth, third]),
        ("completed", [(second, 8), (first, 0)]),
        ("publishing",),
        ("published",),
        ("kicks switched", False),
        ("kicks switched", True),
    ]
    device.getbufs(9)
    assert notes.take() == [("taking",), ("took", [third, fourth]), ("put back", [fourth])]
    device.latch()
    device.getdescs(9)
    device.close()
    assert notes.take() == [("taking",), ("took", []), ("closed",)]


def test_a_call_that_raises_is_not_reported(ring: Vringh) -> None:
    notes = Notes()
    device = ObservedVringh(ring, notes)
    for misuse in (lambda: device.abandon(1), lambda: complete(device, 0, 0)):
        with pytest.raises(LocalRingError):
            misuse()
    assert notes.take() == []


def test_of_several_observers_the_inner_one_is_called_first(ring: Vringh) -> None:
    inner = Notes("inner ")
    device = ObservedVringh(ObservedVringh(ring, inner), Notes("outer ", inner.notes))
    [(head, _, _)] = device.getdescs(1)
    assert inner.take()[2:] == [("inner took", [head]), ("outer took", [head])]


def test_everything_else_is_the_ring_inside(ring: Vringh) -> None:
    device = ObservedVringh(ring, Observer())
    [(head, _, _)] = device.getdescs(1)
    assert device.in_flight() == [head]
    assert (device.state(), device.statistics()) == (ring.state(), ring.statistics())
    device.pace(5)
    device.spend(5)
    assert device.paused
    assert device.reachable()
    assert (device.num, device.broken) == (NUM, False)
    device.latch()
    assert (device.broken, ring.broken) == (True, True)
    device.close()
    assert not ring.reachable()
