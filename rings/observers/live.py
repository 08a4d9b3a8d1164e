"""Observers of both sides of a ring that is in use: they come and go at any time, and cost nothing while away."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import cast

import attrs

from rings.chain import Chain
from rings.memory import Addr, Memory
from rings.observers.observed import ObservedVringh, Observer
from rings.observers.overlay import Overlay
from rings.queue import Segment, Virtqueue, Vringh
from rings.sides import DeviceSide, DriverSide

__all__ = ["Access", "AddedChain", "DriverObserver", "TakenBuffers", "device_side", "watch_device", "watch_driver"]

DEVICE_CALLS = (
    *("native", "getdescs", "getbufs", "getplain", "complete_read"),
    *("abandon", "complete_each", "publish", "show", "close"),
)


# The driver's side


@attrs.frozen
class AddedChain:
    """A chain that the driver added."""

    head: int
    readable: Sequence[Segment]
    writable: Sequence[Segment]
    indirect: bool
    """Whether its descriptors are in an indirect table."""


class DriverObserver:
    """Watches the driver's side of one ring. Each hook follows the call that it reports, and does nothing unless an
    observer defines it.
    """

    def added(self, chains: Sequence[AddedChain], /) -> None:
        """These chains were added; the device does not see them yet."""

    def published(self, kick: bool, /) -> None:
        """All added chains are shown to the device, which is kicked or not."""

    def returned(self, done: Sequence[tuple[int, int]], /) -> None:
        """These used chains, each as (head, bytes written), were taken back."""

    def closed(self) -> None:
        """The ring's memory was released."""


class _WatchedVirtqueue:
    """Calls of a driver's side that report to its observer."""

    def __init__(self, ring: Virtqueue, side: DriverSide, observer: DriverObserver) -> None:
        self._side = side
        self._observer = observer
        self._heads = {token: head for head, token in enumerate(side.tokens) if token is not None}
        self._add, self._add_each, self._publish = ring.add, ring.add_each, ring.publish
        self._get_each, self._close = ring.get_each, ring.close

    def add(self, readable: Sequence[Segment], writable: Sequence[Segment], token: int, /) -> None:
        before = self._side.num_free
        self._add(readable, writable, token)
        if token not in self._heads:  # else the ring has used `add_each`
            slots, count = before - self._side.num_free, len(readable) + len(writable)
            self._observer.added((AddedChain(self._note(token), readable, writable, slots < count),))

    def add_each(self, buffers: Sequence[tuple[Addr, int, int]], writable: bool, /) -> None:
        self._add_each(buffers, writable)
        chains = []
        for addr, size, token in buffers:
            seg = ((addr, size),)
            chains.append(AddedChain(self._note(token), () if writable else seg, seg if writable else (), False))
        if chains:
            self._observer.added(chains)

    def publish(self) -> bool:
        kick = self._publish()
        self._observer.published(kick)
        return kick

    def get_each(self, limit: int, /) -> list[tuple[int, int]]:
        done = self._get_each(limit)
        if done:
            self._observer.returned([(self._heads.pop(token), written) for token, written in done])
        return done

    def close(self) -> None:
        self._close()
        self._observer.closed()

    def _note(self, token: int) -> int:
        head = self._heads[token] = self._side.tokens.index(token)
        return head


def watch_driver(ring: Virtqueue, observer: DriverObserver) -> Overlay:
    """Let ``observer`` watch a driver's side from now on, until the overlay is removed."""
    assert isinstance(ring, DriverSide)
    watched = _WatchedVirtqueue(ring, ring, observer)
    calls = ("add", "add_each", "publish", "get_each", "close")
    return Overlay(ring, {name: getattr(watched, name) for name in calls})


# The device's side


class _Calls:
    """The calls of a device's side as they were before it was watched."""

    def __init__(self, ring: Vringh) -> None:
        self.num = ring.num
        self.getdescs, self.abandon, self.complete_each = ring.getdescs, ring.abandon, ring.complete_each
        self.publish, self.show, self.close = ring.publish, ring.show, ring.close


@attrs.frozen
class Access:
    """A range of the driver's memory that the device's side asked for, and its views."""

    addr: int
    size: int
    writable: bool
    views: Sequence[memoryview]


class TakenBuffers:
    """A `rings.memory.Memory` that remembers the buffers of the chains taken last: views have no addresses."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._accesses: list[Access] = []
        self.pin, self.unpin, self.fence = memory.pin, memory.unpin, memory.fence

    def view(self, addr: Addr, size: int, writable: bool = False, /) -> memoryview:
        view = self._memory.view(addr, size, writable)
        self._accesses.append(Access(addr, size, writable, (view,)))
        return view

    def segments(self, addr: Addr, size: int, writable: bool = False, /) -> list[memoryview]:
        views = self._memory.segments(addr, size, writable)
        self._accesses.append(Access(addr, size, writable, views))
        return views

    def forget(self) -> None:
        """Forget all buffers, before chains are taken."""
        self._accesses.clear()

    def of(self, chains: Sequence[Chain]) -> Iterator[tuple[list[Access], bool]]:
        """Yield the buffers of each chain taken since `forget`, and whether an indirect table describes them.

        Empty descriptors are left out. A bad chain behind them may have left more accesses.
        """
        accesses = iter(self._accesses)
        for _, readable, writable in chains:
            buffers: list[Access] = []
            indirect = False
            views = [*readable, *writable]
            at = 0
            while at < len(views):
                access = next(accesses)
                if access.views[0] is views[at]:
                    buffers.append(access)
                    at += len(access.views)
                else:  # the chain's table, which is no buffer
                    indirect = True
            yield buffers, indirect


def device_side(ring: Vringh) -> DeviceSide:
    """Return the ring itself, inside of all its observers."""
    while isinstance(ring, ObservedVringh):
        ring = ring.ring
    assert isinstance(ring, DeviceSide)
    return ring


def watch_device(ring: Vringh, make: Callable[[TakenBuffers], Observer]) -> Callable[[], None]:
    """Let an observer watch a device's side from now on. Returns the function that ends it.

    ``make`` returns the observer, which learns from its argument the addresses of the chains taken last.
    """
    side = device_side(ring)
    buffers = TakenBuffers(side.memory)
    # The observed ring only lends its methods: the calls that it makes are the former ones.
    observed = ObservedVringh(cast("Vringh", _Calls(ring)), make(buffers))
    overlays = (
        Overlay(ring, {name: getattr(observed, name) for name in DEVICE_CALLS}),
        Overlay(side, {"memory": buffers}),
    )

    def end() -> None:
        for overlay in overlays:
            overlay.remove()

    return end
