"""The log of chains in flight: after a device ends at any instant, the next one resumes exactly the chains owed."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rings.chain import total
from rings.errors import BadRing, MemoryFault
from rings.formats import FORMATS
from rings.memory import Addr, Memory
from rings.observers.observed import ObservedVringh
from rings.queue import Virtqueue, complete
from support.rigs.packed import PackedRig
from support.rigs.ring import SPOT, Rig, get, seg

NUM = 8
RIGS: dict[str, Any] = {"split": Rig, "packed": PackedRig}
BOTH = pytest.mark.parametrize("name", RIGS)


class Killed(Exception):
    """The device's process is gone."""


class Process:
    """A device's process, which is killed before the store that brings ``left`` to 0."""

    left = 1 << 30

    def view(self, view: Any) -> MortalView:
        return MortalView(self, view)


class MortalView:
    """A typed view that only a living process stores through."""

    def __init__(self, process: Process, view: Any) -> None:
        self.process, self.inner = process, view

    def cast(self, form: str) -> MortalView:
        return MortalView(self.process, self.inner.cast(form))

    def __getitem__(self, key: Any) -> Any:
        return self.inner[key]

    def __setitem__(self, key: Any, value: Any) -> None:
        self.process.left -= 1
        if self.process.left < 0:
            raise Killed
        self.inner[key] = value

    def __len__(self) -> int:
        return len(self.inner)

    def release(self) -> None:
        self.inner.release()


class MortalMemory:
    """A memory whose pinned views are a process's."""

    def __init__(self, process: Process, memory: Memory) -> None:
        self._process, self._memory = process, memory
        self.view, self.segments, self.fence = memory.view, memory.segments, memory.fence

    def pin(self, addr: Addr, size: int, form: str, /) -> Any:
        return self._process.view(self._memory.pin(addr, size, form))

    def unpin(self, view: Any, /) -> None:
        self._memory.unpin(view.inner)


class Life:
    """One ring and its log, and one device after the other on it."""

    def __init__(self, name: str, num: int = NUM, entries: int = NUM, *, tables: bool = True) -> None:
        """Without ``tables``, a chain of several descriptors takes as many in the ring itself."""
        self.form = FORMATS[name]
        self.rig: Any = RIGS[name](num, indirect=tables)
        self.driver: Virtqueue = self.rig.driver(memory=self.rig.memory)
        self.memory = memoryview(bytearray(self.form.log_size(entries)))
        self.entries = entries
        self.owed: list[int] = []
        self.last = -1
        self.served: Counter[object] = Counter()
        self.sizes: dict[object, int] = {}
        self.added = 0
        self.device: ObservedVringh
        self.start()

    def start(self) -> None:
        self.process = Process()
        memory: Any = MortalMemory(self.process, self.rig.memory)
        # A front end that lost its back end knows no place in a packed ring: the log does.
        base = self.rig.raw.used_idx if self.form.name == "split" else 0
        log: Any = self.process.view(self.memory[:])
        self.device = self.form.with_log(self.rig.device(base, memory=memory), log, self.entries)
        self.owed = []

    def add(self, count: int, segments: int = 1) -> None:
        for _ in range(count):
            if self.driver.num_free < segments:
                break
            self.driver.add((), (seg(SPOT, 1 + self.added % 200),) * segments, self.added)
            self.sizes[self.added] = segments * (1 + self.added % 200)
            self.added += 1
        self.driver.publish()

    def take(self, count: int) -> list[int]:
        """Take chains; their sizes say which these are."""
        chains = self.device.getdescs(count)
        self.owed += [head for head, _, _ in chains]
        self.last = self.owed[-1] if chains else -1
        return [total(writable) for _, _, writable in chains]

    def give(self, place: int) -> None:
        if self.owed:
            complete(self.device, self.owed.pop(place % len(self.owed)), 1)

    def undo(self, _: int) -> None:
        """Give the chain taken last back untouched, unless it was completed."""
        if self.owed and self.owed[-1] == self.last:
            self.owed.pop()
            self.device.abandon(1)
            self.last = -1

    def publish(self, _: int) -> None:
        self.device.publish()

    def kill(self, steps: int) -> None:
        self.process.left = steps

    def collect(self) -> None:
        while (used := get(self.driver)) is not None:
            self.served[used[0]] += 1

    def finish(self) -> None:
        """Serve everything that there is."""
        for _ in range(4 * self.rig.num):
            self.take(1)
            self.give(0)
            self.publish(0)
            self.collect()


@BOTH
@pytest.mark.parametrize(("segments", "tables"), [(1, False), (2, True), (3, False)])
def test_chains_taken_and_not_given_back_are_taken_again_in_the_same_order(
    name: str, segments: int, tables: bool
) -> None:
    life = Life(name, 32, 32, tables=tables)
    life.add(6, segments)
    sizes = life.take(5)
    life.give(1)
    life.give(2)
    life.publish(0)
    life.collect()
    left = [sizes[i] for i in (0, 2, 4)]
    life.start()
    assert life.take(2) == left[:2]
    life.start()
    assert life.take(2) == left[:2], "also where the device died while it took them again"
    assert life.take(8) == left[2:]
    assert len(life.take(8)) == 1, "then the one that was not taken before"
    assert life.take(8) == []


@BOTH
def test_chains_of_which_the_ring_keeps_no_copy_come_back_as_they_were(name: str) -> None:
    """One chain stays in flight while the others go around the ring: its place there has long been overwritten."""
    life = Life(name)
    life.add(1)
    life.take(1)
    for _ in range(5 * NUM):
        life.add(1)
        life.take(1)
        life.give(1)
        life.publish(0)
        life.collect()
    assert life.served == Counter(range(1, 5 * NUM + 1))
    life.start()
    assert life.take(8) == [1]
    life.give(0)
    life.publish(0)
    life.finish()
    assert life.served == Counter(range(life.added))


ACTS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["add", "take", "give", "publish", "undo"]), st.integers(0, NUM)),
        st.tuples(st.just("kill"), st.integers(0, 40)),
    ),
    max_size=60,
)


@pytest.mark.hostile("C01", "C02")
@BOTH
@settings(max_examples=300)
@example([("add", 3), ("take", 3), ("give", 2), ("publish", 0), ("kill", 0), ("give", 0), ("publish", 0)], [1], True)
@given(ACTS, st.lists(st.integers(1, 3), min_size=1, max_size=5), st.booleans())
def test_killed_at_any_store_every_chain_comes_back_exactly_once(
    name: str, acts: list[tuple[str, int]], segments: list[int], tables: bool
) -> None:
    life = Life(name, tables=tables)
    for step, (act, number) in enumerate(acts):
        try:
            if act == "add":
                life.add(number, segments[step % len(segments)])
            else:
                getattr(life, act)(number)
        except Killed:
            life.start()
        life.collect()
        assert set(life.served.values()) <= {1}, "none twice"
    life.start()
    life.finish()
    assert life.served == Counter(range(life.added)), "none lost"


@BOTH
def test_a_batch_of_the_whole_ring_is_committed_or_rolled_back(name: str) -> None:
    """The used index of a packed ring is the same afterwards, and only the wrap counter tells."""
    for steps in range(200):
        life = Life(name)
        life.add(NUM)
        life.take(NUM)
        for _ in range(NUM):
            life.give(0)
        life.kill(steps)
        try:
            life.publish(0)
            done = True
        except Killed:
            done = False
        life.collect()
        life.start()
        life.finish()
        assert life.served == Counter(range(NUM))
        if done:
            return
    raise AssertionError("the process was killed before every store")


@BOTH
def test_an_abandoned_chain_is_not_in_flight(name: str) -> None:
    life = Life(name)
    life.add(2)
    life.take(2)
    life.undo(0)
    life.start()
    life.take(1)
    life.undo(0)
    assert life.device.state().in_flight == 0
    life.start()
    assert [len(life.take(8)) for _ in range(3)] == [1, 1, 0], "one from the log, one from the ring"
    life.give(0)
    life.give(0)
    life.publish(0)
    life.collect()
    assert life.served == Counter(range(2))


@BOTH
def test_a_log_may_have_more_entries_than_the_ring_has_descriptors(name: str) -> None:
    life = Life(name, 4, 16)
    for _ in range(5):
        life.add(4)
        life.take(3)
        life.give(1)
        life.publish(0)
        life.collect()
        life.start()
    life.finish()
    assert life.served == Counter(range(life.added))


@BOTH
def test_chains_that_another_device_left_are_in_flight_before_they_are_taken(name: str) -> None:
    life = Life(name)
    life.add(2)
    life.take(2)
    heads = sorted(life.device.in_flight())
    life.start()
    assert sorted(life.device.in_flight()) == heads
    life.take(1)
    assert sorted(life.device.in_flight()) == heads
    assert life.device.state().in_flight == 1, "held by this device"
    life.undo(0)
    assert sorted(life.device.in_flight()) == heads


SPLIT_HEADER = [(4, 2), (4, 0xFFFF), (5, NUM + 1), (5, 0), (7, 100), (7, 0xFFF0)]
PACKED_HEADER = [(4, 2), (4, 0xFFFF), (5, NUM + 1), (5, 0), (7, NUM), (7, 0xFFFF), (9, NUM), (9, 0xFFFF), (8, 0x8001)]


@pytest.mark.hostile("C06")
@pytest.mark.parametrize(
    ("name", "position", "value"),
    [("split", *case) for case in SPLIT_HEADER] + [("packed", *case) for case in PACKED_HEADER],
)
def test_a_log_that_can_not_be_is_refused(name: str, position: int, value: int) -> None:
    life = Life(name)
    life.memory.cast("H")[position] = value
    with pytest.raises(BadRing):
        life.start()


@pytest.mark.hostile("C06")
@given(st.binary(min_size=16 + 16 * NUM, max_size=16 + 16 * NUM), st.integers(0, 0xFFFF))
def test_any_split_log_at_all_gives_heads_of_the_ring_or_is_refused(content: bytes, used: int) -> None:
    life = Life("split")
    life.memory[: len(content)] = content
    words = life.memory.cast("H")
    words[4], words[5], words[7] = 1, NUM, used - 3 & 0xFFFF
    life.rig.raw.used_idx = used
    _start_and_serve(life)


@pytest.mark.hostile("C06")
@given(st.data(), st.lists(st.tuples(st.integers(0, NUM - 1), st.integers(0, 15), st.integers(0, NUM)), max_size=4))
def test_any_packed_log_at_all_gives_chains_of_the_ring_or_is_refused(
    data: st.DataObject, stores: list[tuple[int, int, int]]
) -> None:
    life = Life("packed")
    if data.draw(st.booleans()):
        content = data.draw(st.binary(min_size=32 * NUM, max_size=32 * NUM))
        life.memory[32 : 32 + len(content)] = content
    else:
        life.add(6, 2)
        life.take(data.draw(st.integers(0, 4)))
    for entry, word, value in stores:
        life.memory.cast("H")[16 + 16 * entry + word] = value
    _start_and_serve(life)


def _start_and_serve(life: Life) -> None:
    """Any contents of the log end in a ring that serves or latches, BadRing, or a buffer out of memory."""
    try:
        life.start()
        assert all(0 <= head < NUM for head in life.owed)
        life.take(NUM)
        for _ in range(NUM):
            life.give(0)
        life.publish(0)
    except (BadRing, MemoryFault):
        pass
