"""Any legal sequence of ring operations, against a model made of lists: one model for both formats and both sides."""

from __future__ import annotations

from collections import Counter
from itertools import takewhile
from random import Random
from typing import ClassVar

import attrs
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from rings.chain import Chain, copy_in
from rings.errors import LocalRingError, QueueFull
from rings.in_order import InOrderVringh
from rings.memory import Addr
from rings.packed.virtqueue import PackedVirtqueue
from rings.queue import Segment, Vringh, complete, getdesc
from rings.split.virtqueue import SplitVirtqueue
from support.rigs.packed import PackedRig, position
from support.rigs.ring import Rig, flat, get, seg, tokens

__all__ = ["ANY_NUMS", "LONGEST", "NUMS", "InOrderPackedPair", "InOrderPair", "PackedPair", "Pair"]

SLOT = 256
NUMS = (1, 2, 4, 8, 8, 8)
ANY_NUMS = (1, 2, 3, 5, 8, 8, 9)
LONGEST = 8
"""Segments of the longest chain, and descriptors of most rings."""
SHAPES = [(readable, writable) for readable in range(LONGEST + 1) for writable in range(LONGEST + 1 - readable)][1:]
"""Readable and writable segments of a chain."""
TABLE = 4
"""Segments of the longest chain in an indirect table."""


@attrs.define(eq=False)
class Sent:
    """The contents of one chain in the model."""

    slot: int
    """Its place in the memory; also its token."""
    readable: bytes
    shape: tuple[int, int]
    """Readable and writable segments."""
    room: int
    takes: int
    """Descriptors of the ring."""
    head: int = -1
    answer: bytes = b""


class Pair(RuleBasedStateMachine):
    """Nothing is lost, doubled, or reordered within a chain; no waiting side is forgotten."""

    in_order: ClassVar[bool] = False
    """Whether the device uses buffers in the order in which they were made available."""
    explored: ClassVar[Counter[str]] = Counter()
    """Counts over all runs of the machine."""
    rig: Rig | PackedRig
    driver: SplitVirtqueue | PackedVirtqueue
    device: Vringh

    @initialize(
        num=st.sampled_from(NUMS), event_idx=st.booleans(), indirect=st.booleans(), start=st.sampled_from([0, 65533])
    )
    def begin(self, num: int, event_idx: bool, indirect: bool, start: int) -> None:
        self.ready(Rig(num, event_idx=event_idx, indirect=indirect), start)

    @property
    def turn(self) -> int:
        """Counts after which an index, or the wrap counter, comes back to where it was."""
        return 1 << 16

    def ready(self, rig: Rig | PackedRig, start: int) -> None:
        self.rig = rig
        self.num, self.serial = rig.num, 0
        num = rig.num
        self.out, self.back = self.rig.buffer(num * SLOT), self.rig.buffer(num * SLOT)
        self.epoch(start)

    def epoch(self, start: int) -> None:
        self.driver, self.device = self.pair(start)
        self.start = start
        self.slots = list(range(self.num))
        # The life of a chain, in order: added, available, taken or done, used, and returned.
        self.added: list[Sent] = []
        self.avail: list[Sent] = []
        self.taken: list[Sent] = []
        self.held: list[Sent] = []
        self.done: list[Sent] = []
        # Where buffers are used in order: chains in flight, oldest first, and those of them that the device completed.
        self.order: list[Sent] = []
        self.waiting: list[Sent] = []
        self.used: list[Sent] = []
        # Counts: published, and known to be by the device; shown as used, and known to be by the driver.
        # A split ring counts chains, a packed one descriptors.
        self.published = self.seen = self.shown = self.shown_known = self.got = 0
        self.device_waits: int | None = None  # for more than this many published
        self.driver_waits: int | None = None  # for more than this many shown
        self.kicked = self.called = False

    def pair(self, start: int) -> tuple[SplitVirtqueue | PackedVirtqueue, Vringh]:
        """Both sides anew."""
        driver, device = self.rig.pair(start, in_order=self.in_order)
        return driver, InOrderVringh(device, batches=True) if self.in_order else device

    # The driver.

    @rule(shape=st.sampled_from(SHAPES))
    def add(self, shape: tuple[int, int]) -> None:
        count = sum(shape)
        if not self.slots:
            return
        slot = self.slots[-1]
        self.serial += 1
        sizes = [(7 * self.serial + 5 * at) % 30 for at in range(count)]
        takes = 1 if self.rig.indirect and 1 < count <= min(TABLE, self.num) else count
        at, segs = self.out + slot * SLOT, list[Segment]()
        for index, size in enumerate(sizes):
            if index == shape[0]:
                at = self.back + slot * SLOT
            segs.append(seg(at, size))
            at += size
        readable, writable = segs[: shape[0]], segs[shape[0] :]
        if takes > self.driver.num_free:
            with pytest.raises(QueueFull if count <= self.num else LocalRingError):
                self.driver.add(readable, writable, slot)
            return
        data = bytes((self.serial + 3 * at) & 0xFF for at in range(sum(sizes[: shape[0]])))
        self.rig.memory.view(Addr(self.out + slot * SLOT), SLOT, True)[: len(data)] = data
        self.driver.add(readable, writable, slot)
        self.slots.pop()
        self.added.append(Sent(slot, data, shape, sum(sizes[shape[0] :]), takes))

    @rule(shapes=st.lists(st.sampled_from(SHAPES), min_size=1, max_size=6), order=st.randoms(use_true_random=False))
    def exchange(self, shapes: list[tuple[int, int]], order: Random) -> None:
        """Chains that are added, taken, completed in any order, and returned."""
        for shape in shapes:
            self.add(shape)
        self.driver_publishes()
        while self.avail:
            self.getdescs(4)
        order.shuffle(self.held)
        while self.held:
            self.complete_one(len(self.held) - 1)
        self.device_publishes()
        while self.used:
            self.get_each(4)

    @rule()
    def driver_publishes(self) -> None:
        entries = range(self.published, self.published + self.count(self.added))
        wanted = self.wants_kick(entries)
        events = self.driver.publish()
        assert events == wanted
        self.kicked |= events
        self.explored["kicks" if events else "suppressed"] += bool(entries)
        self.published = entries.stop
        self.avail += self.added
        self.added = []

    # What differs between the formats.

    def count(self, chains: list[Sent]) -> int:
        return len(chains)

    def wants_kick(self, entries: range) -> bool:
        assert isinstance(self.rig, Rig)
        return self.wanted(entries, self.rig.raw.avail_event, self.rig.raw.used_flags)

    def wants_call(self, entries: range) -> bool:
        assert isinstance(self.rig, Rig)
        return self.wanted(entries, self.rig.raw.used_event, self.rig.raw.avail_flags)

    def wanted(self, entries: range, event: int, flags: int) -> bool:
        if self.rig.event_idx:
            return event in {self.start + at & 0xFFFF for at in entries}
        return bool(entries) and not flags

    def offered(self) -> int:
        """How many chains the device can take: a split ring is looked at when all that was seen is taken."""
        known = self.seen - (self.published - len(self.avail))
        if not known:
            self.seen = self.published
            known = len(self.avail)
        return known

    def given(self) -> int:
        """Likewise how many the driver can get back."""
        known = self.shown_known - self.got
        if not known:
            self.shown_known = self.shown
            known = len(self.used)
        return known

    @rule(count=st.integers(1, 4))
    def add_each(self, count: int) -> None:
        batch = [Sent(slot, b"", (0, 1), SLOT, 1) for slot in self.slots[:count]]
        buffers = [(Addr(self.back + sent.slot * SLOT), SLOT, sent.slot) for sent in batch]
        if len(buffers) > self.driver.num_free:
            with pytest.raises(QueueFull):
                self.driver.add_each(buffers, True)
            return
        self.driver.add_each(buffers, True)
        del self.slots[:count]
        self.added += batch

    @rule()
    def get(self) -> None:
        self.got_back([done] if (done := get(self.driver)) else [], 1)

    @rule(limit=st.integers(1, 9))
    def get_each(self, limit: int) -> None:
        self.got_back(self.driver.get_each(limit), limit)

    def got_back(self, result: list[tuple[int, int]], limit: int) -> None:
        """All there is up to a limit, or less where the rest was shown after the last look."""
        self.driver_waits = None
        known = self.given()
        expected, self.used = self.used[: min(known, limit)], self.used[min(known, limit) :]
        assert result == [(sent.slot, len(sent.answer)) for sent in expected]
        for sent in expected:
            assert self.rig.bytes(Addr(self.back + sent.slot * SLOT), len(sent.answer)) == sent.answer
            self.slots.append(sent.slot)
            self.count_returned(sent)
        before, self.got = self.got, self.got + self.count(expected)
        self.explored["laps of the ring"] += self.got // self.num - before // self.num
        wraps = (self.start + self.got) // self.turn - (self.start + before) // self.turn
        self.explored["indices or laps that wrap"] += wraps

    def count_returned(self, sent: Sent) -> None:
        readable, writable = sent.shape
        self.explored["returned"] += 1
        for what in (f"{readable + writable} segments", f"{readable} readable", f"{writable} writable"):
            self.explored[what] += 1
        self.explored["through a table"] += sent.takes < readable + writable
        self.explored["several readable and writable segments"] += readable > 1 < writable

    @rule(delayed=st.booleans())
    def driver_waits_for_a_call(self, delayed: bool) -> None:
        after = (self.published - self.got) * 3 // 4 if delayed else 0
        due = self.driver.enable_cb_delayed() if delayed else self.driver.enable_cb()
        assert due == (self.shown - self.got > after)
        # Without EVENT_IDX every buffer from now on calls.
        self.driver_waits = None if due else self.got + after if self.rig.event_idx else self.shown
        self.called = False

    @rule()
    def driver_is_quiet(self) -> None:
        self.driver.disable_cb()
        self.driver_waits = None

    # The device.

    @rule()
    def getdesc(self) -> None:
        self.took([chain] if (chain := getdesc(self.device)) else [], 1)

    @rule(limit=st.integers(1, 9))
    def getdescs(self, limit: int) -> None:
        self.took(self.device.getdescs(limit), limit)

    def took(self, chains: list[Chain], limit: int) -> None:
        self.device_waits = None
        assert len(chains) == min(self.offered(), limit)
        for sent, (head, readable, writable) in zip(self.avail, chains, strict=False):
            sent.head = head
            assert flat(readable) == sent.readable
            assert sum(map(len, writable)) == sent.room
            assert all(len(view) for view in (*readable, *writable))
            self.answer(sent, writable)
        self.taken += self.avail[: len(chains)]
        self.held += self.avail[: len(chains)]
        self.order += self.avail[: len(chains)]
        del self.avail[: len(chains)]
        self.looked()

    def looked(self) -> None:
        """The device took what it could."""

    def answer(self, sent: Sent, writable: list[memoryview]) -> None:
        self.serial += 1
        text = bytes(self.serial + at & 0xFF for at in range(self.serial % (sent.room + 1)))
        assert copy_in(writable, text) == len(text)
        sent.answer = text

    @rule(count=st.integers(0, 9))
    def abandon(self, count: int) -> None:
        last = list(takewhile(lambda sent: sent in self.held, reversed(self.taken)))
        count %= len(last) + 1
        assert self.device.abandon(count) == [sent.head for sent in last[:count]]
        for sent in last[:count]:
            self.taken.pop()
            self.order.pop()
            self.held.remove(sent)
            self.avail.insert(0, sent)

    @rule(more=st.integers(1, 9))
    def abandon_more_than_may_be(self, more: int) -> None:
        count = sum(1 for _ in takewhile(lambda sent: sent in self.held, reversed(self.taken))) + more
        with pytest.raises(LocalRingError):
            self.device.abandon(count)

    @precondition(lambda self: self.held)
    @rule(index=st.integers(0, 9))
    def complete(self, index: int) -> None:
        self.complete_one(index % len(self.held))

    def complete_one(self, index: int) -> None:
        first = min(self.held, key=self.taken.index)
        sent = self.held.pop(index)
        self.explored["completed out of order"] += sent is not first
        complete(self.device, sent.head, len(sent.answer))
        self.finished([sent])

    @rule()
    def complete_each(self) -> None:
        batch, self.held = self.held[::-1], []
        self.device.complete_each([(sent.head, len(sent.answer)) for sent in batch])
        self.finished(batch)

    def finished(self, batch: list[Sent]) -> None:
        """The device completed these chains, which an order of use may hold back."""
        if not self.in_order:
            self.done += batch
            return
        self.waiting += batch
        while self.order and self.order[0] in self.waiting:
            self.waiting.remove(self.order[0])
            self.done.append(self.order.pop(0))
        self.explored["held back"] += len(self.waiting)

    @rule()
    def device_publishes(self) -> None:
        entries = range(self.shown, self.shown + self.count(self.done))
        wanted = self.wants_call(entries)
        events = self.device.publish()
        assert events == wanted
        self.called |= events
        self.explored["calls" if events else "suppressed"] += bool(entries)
        self.shown = entries.stop
        self.used += self.done
        self.done = []

    @rule()
    def device_waits_for_a_kick(self) -> None:
        due = self.device.notify_enable()
        assert due == (self.published > self.seen)
        self.device_waits = None if due else self.seen
        self.kicked = False

    @rule()
    def device_is_quiet(self) -> None:
        self.device.notify_disable()
        self.device_waits = None

    # Both.

    @rule(start=st.sampled_from([0, 65535]))
    def reset(self, start: int) -> None:
        lost = [*self.added, *self.avail, *self.held, *self.waiting, *self.done, *self.used]
        self.explored["resets"] += 1
        self.device.close()
        self.driver.close()
        assert sorted(tokens(self.driver)) == sorted(sent.slot for sent in lost)
        self.epoch(start)

    @invariant()
    def descriptors_add_up(self) -> None:
        if not hasattr(self, "rig"):
            return
        lives = [*self.added, *self.avail, *self.held, *self.waiting, *self.done, *self.used]
        assert self.driver.num_free == self.num - sum(sent.takes for sent in lives)
        assert self.driver.state().in_flight == len(lives)
        assert self.device.state().in_flight == len(self.held) + len(self.waiting)

    @invariant()
    def a_waiting_side_is_notified(self) -> None:
        if not hasattr(self, "rig"):
            return
        assert self.device_waits is None or self.published <= self.device_waits or self.kicked
        assert self.driver_waits is None or self.shown <= self.driver_waits or self.called

    def teardown(self) -> None:
        if hasattr(self, "rig"):
            self.rig.check()


class PackedPair(Pair):
    """The same over a packed ring, whose events are positions of descriptors, and which is looked at every time."""

    @initialize(
        num=st.sampled_from(ANY_NUMS), event_idx=st.booleans(), indirect=st.booleans(), start=st.integers(0, 20)
    )
    def begin(self, num: int, event_idx: bool, indirect: bool, start: int) -> None:
        self.ready(PackedRig(num, event_idx=event_idx, indirect=indirect), start)

    @property
    def turn(self) -> int:
        return 2 * self.num

    def count(self, chains: list[Sent]) -> int:
        return sum(sent.takes for sent in chains)

    def wants_kick(self, entries: range) -> bool:
        assert isinstance(self.rig, PackedRig)
        return self.passes(entries, self.rig.raw.device_event)

    def wants_call(self, entries: range) -> bool:
        assert isinstance(self.rig, PackedRig)
        return self.passes(entries, self.rig.raw.driver_event)

    def passes(self, entries: range, event: int) -> bool:
        flags = event >> 16
        assert flags in ((0, 1, 2) if self.rig.event_idx else (0, 1))
        if flags == 2:
            return event & 0xFFFF in {position(self.start + at, self.num) for at in entries}
        return bool(entries) and not flags

    def offered(self) -> int:
        return len(self.avail)

    def looked(self) -> None:
        self.seen = max(self.seen, self.published - self.count(self.avail))

    def given(self) -> int:
        return len(self.used)


class InOrderPair(Pair):
    """The same where the device uses buffers in order."""

    in_order = True


class InOrderPackedPair(PackedPair):
    """The same over a packed ring."""

    in_order = True
