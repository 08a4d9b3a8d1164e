"""Chains that are shown to the driver first and decided about later: `show` and `decide`, in both formats."""

from __future__ import annotations

import pytest

from rings.formats import FORMATS
from rings.memory import Addr, MappedMemory
from rings.queue import complete, getdesc

BUFFER = Addr(0x8000)


class Queue:
    """Both sides of a queue of eight descriptors."""

    def __init__(self, name: str, event_idx: bool) -> None:
        memory, form = MappedMemory(), FORMATS[name]
        memory.add(Addr(0), memoryview(bytearray(1 << 16)))
        addrs, _ = form.contiguous(8, Addr(0), 64)
        self.driver = form.driver(memory, 8, addrs, event_idx=event_idx)
        self.device = form.device(memory, 8, addrs, event_idx=event_idx, indirect=False)
        self.token = 0

    def use(self) -> bool:
        """Add a chain and use it, and show it. Returns whether shown chains are undecided."""
        self.token += 1
        self.driver.add([], [(BUFFER, 16)], self.token)
        self.driver.publish()
        chain = getdesc(self.device)
        assert chain is not None
        complete(self.device, chain[0], 4)
        return self.device.show()

    def returned(self) -> list[int]:
        return [token for token, _ in self.driver.get_each(8)]


@pytest.fixture(params=["split", "packed"])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("event_idx", [False, True])
def test_shown_chains_are_seen_at_once_and_the_decision_is_for_all_of_them(name: str, event_idx: bool) -> None:
    queue = Queue(name, event_idx)
    for turn in range(20):
        assert not queue.driver.enable_cb()
        assert not queue.device.show()
        assert not queue.device.decide(), "nothing was shown"
        for _ in range(1 + turn % 3):
            assert queue.use()
        assert queue.device.decide(), "the first of them was waited for"
        assert not queue.device.decide()
        assert len(queue.returned()) == 1 + turn % 3
    assert queue.device.statistics().notifications == 20


@pytest.mark.parametrize("event_idx", [False, True])
def test_a_driver_that_suppresses_calls_is_not_called(name: str, event_idx: bool) -> None:
    queue = Queue(name, event_idx)
    for _ in range(20):
        queue.driver.disable_cb()
        queue.use()
        assert len(queue.returned()) == 1
        if event_idx and name == "split":
            queue.driver.enable_cb()  # its event lies behind what it has taken
        assert not queue.device.decide()
    assert queue.device.statistics().notifications == 0


def test_a_decision_after_more_chains_than_the_ring_has_is_one_for_the_last_lap(name: str) -> None:
    queue = Queue(name, True)
    queue.driver.enable_cb()
    for _ in range(20):
        queue.use()
        assert len(queue.returned()) == 1
    assert not queue.driver.enable_cb()
    assert not queue.device.decide(), "the driver waits for the next chain"
    queue.use()
    assert queue.device.decide()


def test_publish_and_show_can_follow_each_other(name: str) -> None:
    queue = Queue(name, True)
    for turn in range(30):
        queue.driver.enable_cb()
        queue.use()
        if turn % 2:
            assert queue.device.decide()
        queue.driver.get_each(8)
        queue.driver.enable_cb()
        queue.token += 1
        queue.driver.add([], [(BUFFER, 16)], queue.token)
        queue.driver.publish()
        chain = getdesc(queue.device)
        assert chain is not None
        complete(queue.device, chain[0], 4)
        assert queue.device.publish()
        assert len(queue.returned()) == 1
