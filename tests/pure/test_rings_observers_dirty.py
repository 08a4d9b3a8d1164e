"""The dirty log: a copy made by it equals the memory, for any writes of a device and at any time."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rings.chain import Chain
from rings.errors import BadRing, LocalRingError
from rings.formats import FORMATS
from rings.layout import DESC_SIZE, NEXT, WRITE
from rings.memory import Addr, MappedMemory
from rings.observers.dirty import DirtyLog, DirtyObserver, WriteRecorder, dirty_log_size
from rings.observers.observed import ObservedVringh
from support.rigs.ring import get

PAGE, SPAN, NUM = 4096, 32768, 8
BASE = 3 * SPAN
TABLES, BUFFERS, SIZE = 3 * SPAN, 4 * SPAN, 24 * SPAN
"""Places in the memory: the ring before, every area in a span of its own."""


class Moved:
    """A ring in memory that is copied meanwhile: what the driver writes is seen, what the device writes is logged."""

    def __init__(self, form: str, *, event_idx: bool) -> None:
        self.data = bytearray(SIZE)
        self.copy = bytearray(SIZE)
        memory = MappedMemory()
        # Two regions that adjoin within a buffer.
        self.middle = BUFFERS + SPAN
        memory.add(Addr(BASE), memoryview(self.data)[: self.middle])
        memory.add(Addr(BASE + self.middle), memoryview(self.data)[self.middle :])
        self.bits = bytearray(dirty_log_size(BASE + SIZE))
        self.events = 0
        log = DirtyLog(memoryview(self.bits), self.tell)
        kind = FORMATS[form]
        addrs, _ = kind.contiguous(NUM, Addr(BASE), SPAN)
        self.driver = kind.driver(memory, NUM, addrs, event_idx=event_idx, indirect=Addr(BASE + TABLES), indirect_max=4)
        self.copy[:] = self.data
        self.recorder = WriteRecorder(memory)
        inside = kind.device(self.recorder, NUM, addrs, event_idx=event_idx, indirect=True)
        places = zip((addrs.desc, addrs.driver, addrs.device), kind.sizes(NUM), strict=True)
        areas = [place for place, written in zip(places, kind.written, strict=True) if written]
        self.observer = DirtyObserver(log, self.recorder, areas)
        self.device = ObservedVringh(inside, self.observer)
        self.taken: list[Chain] = []
        self.added = 0

    def tell(self) -> None:
        self.events += 1

    def by_driver(self, act: Callable[[], object]) -> None:
        """The copying side sees its processor's writes."""
        before = bytes(self.data)
        act()
        for page in range(0, SIZE, PAGE):
            if self.data[page : page + PAGE] != before[page : page + PAGE]:
                self.copy[page : page + PAGE] = self.data[page : page + PAGE]

    def add(self, number: int) -> None:
        """Chains of one and of several descriptors, over the ends of pages, spans and a region, some only readable."""
        start = BASE + BUFFERS + (1 + self.added % 9) * SPAN
        writable = ((Addr(start - 8), 16), (Addr(start + 4 * PAGE), 2 * PAGE))[: number % 3]
        if self.driver.num_free > 2:
            self.by_driver(lambda: self.driver.add(((Addr(BASE + SIZE - 64), 8),), writable, self.added))
            self.added += 1
        self.by_driver(self.driver.publish)

    def collect(self, _: int) -> None:
        self.by_driver(self.driver.enable_cb)
        while get(self.driver) is not None:
            pass

    def take(self, number: int) -> None:
        self.taken += self.device.getdescs(number)

    def fill(self, number: int) -> None:
        """Receive buffers, written to at once."""
        heads, _, views = self.device.getbufs(number)
        self.taken += [(head, [], []) for head in heads]
        for view in views:
            view[-1] = view[-1] + 1 & 0xFF

    def write(self, number: int) -> None:
        for _, _, writable in self.taken[-number:]:
            for seg in writable:
                seg[-1] = seg[-1] + 1 & 0xFF

    def complete(self, number: int) -> None:
        done, self.taken = self.taken[:number], self.taken[number:]
        self.device.complete_each([(head, 0) for head, _, _ in done])

    def abandon(self, number: int) -> None:
        number = min(number, len(self.taken))
        del self.taken[len(self.taken) - number :]
        self.device.abandon(number)

    def publish(self, _: int) -> None:
        self.device.publish()

    def rearm(self, number: int) -> None:
        if number % 2:
            self.device.notify_disable()
        else:
            self.device.notify_enable()

    def look(self) -> None:
        """Copy what is marked, and clear it: then all is the same but what the device still has to write to."""
        for page in range(SIZE // PAGE):
            number = BASE // PAGE + page
            if self.bits[number // 8] >> number % 8 & 1:
                self.copy[page * PAGE : page * PAGE + PAGE] = self.data[page * PAGE : page * PAGE + PAGE]
        self.bits[:] = bytes(len(self.bits))
        for at in range(0, SIZE, SPAN):
            if self.copy[at : at + SPAN] != self.data[at : at + SPAN]:
                held = [seg for segs in self.observer._taken.values() for seg in segs]
                assert any(addr < BASE + at + SPAN and BASE + at < addr + size for addr, size in held), at // SPAN


ACTS = ["add", "collect", "take", "fill", "write", "complete", "abandon", "publish", "rearm"]


@pytest.mark.hostile("V19")
@pytest.mark.parametrize("event_idx", [False, True], ids=["flags", "event_idx"])
@pytest.mark.parametrize("form", FORMATS)
@given(acts=st.lists(st.tuples(st.sampled_from(ACTS), st.integers(0, 5), st.booleans()), max_size=60))
def test_a_copy_made_by_the_log_is_the_memory_at_the_end(
    form: str, event_idx: bool, acts: list[tuple[str, int, bool]]
) -> None:
    moved = Moved(form, event_idx=event_idx)
    for act, number, looks in acts:
        getattr(moved, act)(number)
        if looks:
            moved.look()
    moved.device.close()
    moved.look()
    assert moved.copy == moved.data


@pytest.mark.parametrize("form", FORMATS)
def test_nothing_is_marked_where_nothing_may_be_written(form: str) -> None:
    moved = Moved(form, event_idx=True)
    for number in (2, 0, 1):
        moved.add(number)
    moved.take(3)
    moved.look()
    moved.complete(3)
    moved.publish(0)
    assert moved.events == 1
    marked = {at - BASE // SPAN for at, byte in enumerate(moved.bits) if byte}
    areas = {at for at, written in zip((0, 0, 1), FORMATS[form].written, strict=True) if written}
    assert marked == areas | {BUFFERS // SPAN + number for number in (0, 1, 2, 3)}


def test_a_log_marks_whole_bytes_and_nothing_beyond_its_end() -> None:
    bits = bytearray(4)
    log = DirtyLog(memoryview(bits)[:3])
    log.mark(0, 0)
    assert bits == bytes(4)
    log.mark(SPAN, 1)
    assert bits == b"\0\xff\0\0"
    log.mark(SPAN - 1, 2)
    assert bits == b"\xff\xff\0\0"
    for addr, size in ((3 * SPAN, 1), (3 * SPAN - 1, 2), (1 << 63, 1 << 40), (-1, 1)):
        assert not log.covers(addr, size)
        with pytest.raises(LocalRingError):
            log.mark(addr, size)
    assert log.covers(3 * SPAN - 1, 1)
    assert bits == b"\xff\xff\0\0"


def test_chains_before_a_bad_one_are_taken_and_the_error_raised_by_the_next_call() -> None:
    moved = Moved("split", event_idx=False)
    moved.add(1)
    moved.add(1)
    desc = memoryview(moved.data).cast("Q")
    second = 2 * 1  # each chain has a table of its own: the second one's descriptor
    desc[second + 1] = DESC_SIZE | (NEXT | WRITE | 4) << 32
    assert len(moved.device.getdescs(5)) == 1
    for _ in range(2):
        with pytest.raises(BadRing):
            moved.device.getdescs(5)
    moved.device.close()
    assert moved.bits[(BASE + BUFFERS) // SPAN]
