"""The log of chains in flight: whatever instant a device ends at, the next one goes on with exactly what is owed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ring_rig import SPOT, Rig, seg

from rings.errors import BadRing
from rings.queue import Vringh
from rings.split.inflight import InflightLog, LoggedVringh, log_size

NUM = 8


class Killed(Exception):
    """The device's process is gone."""


class MortalLog(InflightLog):
    """Its process is killed before the store that brings ``left`` to 0."""

    left = 1 << 30

    def _step(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Killed

    def took(self, head: int) -> None:
        self._step()
        super().took(head)

    def gives(self, head: int) -> None:
        self._step()
        super().gives(head)

    def gave(self, heads: Sequence[int], used: int) -> None:
        for head in heads:
            self._step()
            self.untook(head)
        self._step()
        super().gave(heads, used)


class Life:
    """One ring and its log, and one device after the other on it."""

    def __init__(self, num: int = NUM) -> None:
        self.rig = Rig(num)
        self.driver = self.rig.driver(memory=self.rig.memory)
        self.memory = memoryview(bytearray(log_size(num)))
        self.owed: list[int] = []
        self.served: Counter[object] = Counter()
        self.added = 0
        self.device: Vringh
        self.start()

    def start(self) -> None:
        self.log = MortalLog(self.memory[:], self.rig.num)
        used = self.rig.raw.used_idx
        found = self.log.recover(used)
        assert len(found.again) <= len(self.owed) + self.rig.num
        base = used + len(found.again) & 0xFFFF
        self.device = LoggedVringh(self.rig.device(base, memory=self.rig.memory), self.log, found)
        self.owed = []

    def add(self, count: int) -> None:
        for _ in range(min(count, self.driver.num_free)):
            self.driver.add((), (seg(SPOT, 1),), self.added)
            self.added += 1
        self.driver.publish()

    def take(self, count: int) -> None:
        self.owed += [head for head, _, _ in self.device.getdescs(count)]

    def give(self, place: int) -> None:
        if self.owed:
            self.device.complete(self.owed.pop(place % len(self.owed)), 1)

    def publish(self, _: int) -> None:
        self.device.publish()

    def kill(self, steps: int) -> None:
        self.log.left = steps

    def collect(self) -> None:
        while (used := self.driver.get()) is not None:
            self.served[used[0]] += 1


def test_what_was_taken_and_not_given_back_is_taken_again_in_the_same_order() -> None:
    life = Life()
    life.add(6)
    life.take(5)
    life.give(1)
    life.give(2)
    life.publish(0)
    life.collect()
    left = list(life.owed)
    life.start()
    assert [head for head, _, _ in life.device.getdescs(2)] == left[:2]
    assert [head for head, _, _ in life.device.getdescs(8)] == left[2:]
    assert len(life.device.getdescs(8)) == 1, "then what nobody took before"
    assert life.device.getdescs(8) == []


@pytest.mark.hostile("C02")
@given(
    st.lists(
        st.tuples(st.sampled_from(["add", "take", "give", "publish", "kill"]), st.integers(0, NUM)),
        max_size=60,
    )
)
def test_killed_at_any_store_every_chain_comes_back_exactly_once(acts: list[tuple[str, int]]) -> None:
    life = Life()
    for act, number in acts:
        try:
            getattr(life, act)(number)
        except Killed:
            life.start()
        life.collect()
    life.start()
    for _ in range(4 * NUM):
        life.take(1)
        life.give(0)
        life.publish(0)
        life.collect()
    assert life.served == Counter(range(life.added)), "none twice, none lost"


def test_an_abandoned_chain_is_not_in_flight() -> None:
    life = Life()
    life.add(2)
    life.take(2)
    life.device.abandon(life.owed.pop())
    life.start()
    life.take(1)
    life.device.abandon(life.owed.pop())
    assert life.device.state().in_flight == 0
    life.start()
    assert [len(life.device.getdescs(8)) for _ in range(3)] == [1, 1, 0], "one from the log, one from the ring"


@pytest.mark.hostile("C06")
@pytest.mark.parametrize(
    ("position", "value"),
    [(4, 2), (4, 0xFFFF), (5, NUM + 1), (5, 0), (7, 100), (7, 0xFFF0)],
    ids=["version", "version", "desc_num", "desc_num", "used_idx", "used_idx"],
)
def test_a_log_that_can_not_be_is_refused(position: int, value: int) -> None:
    life = Life()
    life.memory.cast("H")[position] = value
    with pytest.raises(BadRing):
        life.start()


@pytest.mark.hostile("C06")
@given(st.binary(min_size=log_size(NUM), max_size=log_size(NUM)), st.integers(0, 0xFFFF))
def test_any_log_at_all_gives_heads_of_the_ring_or_is_refused(content: bytes, used: int) -> None:
    memory = memoryview(bytearray(content))
    words = memory.cast("H")
    words[4], words[5], words[7] = 1, NUM, used - 3 & 0xFFFF
    log = InflightLog(memory, NUM)
    try:
        found = log.recover(used)
    except BadRing:
        return
    assert len(set(found.again)) == len(found.again)
    assert all(0 <= head < NUM for head in found.again)
    assert found.used == used
