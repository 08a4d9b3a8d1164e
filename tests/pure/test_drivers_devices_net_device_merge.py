"""Receive buffers taken, filled and given back over a real ring: what the driver finds, and what is untouched."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Sequence
from types import SimpleNamespace
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.bus.device_queue import DeviceQueue
from drivers.contracts.ports import HEADER_SIZE, PacketQueue
from drivers.devices.net.device.flows import VhostNetToDriver
from drivers.devices.net.device.merge import NUM_BUFFERS_AT, TakenChains, put
from drivers.flow.figures import Traffic
from drivers.flow.pump import AGAIN
from rings.chain import copy_in, total
from rings.errors import MemoryFault
from rings.memory import Addr
from rings.queue import Segment
from rings.split.virtqueue import SplitVirtqueue
from rings.split.vringh import SplitVringh
from rings.testing import Act
from support.rigs.ring import Rig, get

HEAD = bytes(HEADER_SIZE)
HOLE = Addr(1 << 40)
PATTERN = random.Random(2).randbytes(1 << 16)
Buffer = list[Segment]
LARGEST = 3000
"""Bytes of header and frame."""
BIG_ENOUGH: list[int | tuple[int, ...]] = [(1000, 1000, 1000)]


class Receive:
    """A receive queue, and a driver that gave it these buffers: each a size, or the sizes of its pieces."""

    def __init__(self, *buffers: int | tuple[int, ...], num: int = 16, memory: int = 1 << 18) -> None:
        self.rig = Rig(num, indirect=False, memory=memory)
        self.driver: SplitVirtqueue = self.rig.driver()
        self.ring: SplitVringh = self.rig.device()
        self.posted: list[Buffer] = []
        self.post(*buffers)

    def post(self, *buffers: int | tuple[int, ...]) -> None:
        for sizes in buffers:
            pieces = [(self.rig.buffer(n), n) for n in (sizes if isinstance(sizes, tuple) else (sizes,))]
            self.driver.add((), pieces, len(self.posted))
            self.posted.append(pieces)
        self.driver.publish()

    def post_readable(self, writable: int = 0) -> None:
        """A chain that no driver should put into a receive queue."""
        segments = [(self.rig.buffer(n), n) for n in (8, writable) if n]
        self.driver.add(segments[:1], segments[1:], len(self.posted))
        self.posted.append([])
        self.driver.publish()

    def taken(self) -> int:
        """Chains that the device has and did not complete."""
        return self.ring.state().in_flight

    def used(self) -> list[tuple[Buffer, int]]:
        """The used buffers that the driver gets back."""
        self.ring.publish()
        actual = []
        while (done := get(self.driver)) is not None:
            token, size = done
            actual.append((self.posted[token], size))
        return actual

    def frame(self) -> bytes:
        """One frame, put together as section 5.1.9.4 says."""
        used = self.used()
        data = b"".join(self.bytes(token, size) for token, size in used)
        assert int.from_bytes(data[NUM_BUFFERS_AT:HEADER_SIZE], "little") == len(used)
        return data[:NUM_BUFFERS_AT] + bytes(2) + data[HEADER_SIZE:]

    def bytes(self, token: Buffer, size: int) -> bytes:
        return b"".join(self.rig.bytes(Addr(addr), n) for addr, n in token)[:size]


def cut(data: bytes, *sizes: int) -> list[memoryview]:
    whole, parts, at = memoryview(data), [], 0
    for size in sizes:
        parts.append(whole[at : at + size])
        at += size
    return [*parts, whole[at:]]


# TakenChains


def test_as_many_buffers_are_taken_as_it_takes_and_no_more() -> None:
    queue = Receive(100, 100, 100, 100)
    taken = TakenChains(queue.ring)
    assert taken.gather(150, 16) == 200
    assert (len(taken), queue.taken()) == (2, 2)
    assert taken.gather(150, 16) == 200
    assert taken.gather(201, 16) == 300, "what is there already counts"
    assert taken.gather(1000, 3) == 300, "three are the limit"
    assert taken.gather(1000, 16) == 400, "there are no more"


def test_chains_given_back_are_taken_again_in_the_same_order_and_untouched() -> None:
    queue = Receive(64, (10, 20), 64)
    first = TakenChains(queue.ring)
    first.gather(1000, 16)
    first.give_back()
    assert queue.taken() == 0
    again = TakenChains(queue.ring)
    assert again.gather(1000, 16) == 158
    assert again.segments() == first.segments()
    assert not any(map(any, again.segments()))
    assert queue.used() == []


@pytest.mark.virtio("NET-DEV-31")
def test_only_what_was_filled_is_completed_and_the_driver_sees_all_of_it_at_once() -> None:
    queue = Receive(64, 64, 64, 64)
    taken = TakenChains(queue.ring)
    taken.gather(256, 16)
    taken.complete(100)
    assert get(queue.driver) is None, "nothing before it is published"
    assert [size for _, size in queue.used()] == [64, 36]
    assert (queue.taken(), len(taken)) == (2, 2)
    taken.give_back()
    assert queue.taken() == 0
    rest = TakenChains(queue.ring)
    assert rest.gather(256, 16) == 128


@pytest.mark.virtio("NET-DEV-29")
@pytest.mark.parametrize("first", [1, 10, 11, 12, 13])
def test_num_buffers_is_set_wherever_a_buffer_ends(first: int) -> None:
    queue = Receive(first, 64)
    taken = TakenChains(queue.ring)
    taken.gather(40, 16)
    taken.complete(40)
    used = queue.used()
    data = b"".join(queue.bytes(token, size) for token, size in used)
    assert data[NUM_BUFFERS_AT:HEADER_SIZE] == b"\2\0"
    assert len(data) == 40


@pytest.mark.hostile("R08", "R17")
def test_one_that_can_not_be_reached_costs_those_before_it_a_second_look_and_no_third() -> None:
    num = 32
    queue = Receive(*(13,) * (num - 2), 4000, num=num)
    queue.driver.add((), ((HOLE, 13),), 0)
    queue.driver.publish()
    queue.rig.device_side.log.clear()
    taken = TakenChains(queue.ring)
    assert taken.gather(13 * num, num) == 13 * (num - 2) + 4000
    assert len([access for access in queue.rig.device_side.log if access.act is Act.LOAD]) < 8 * num
    with pytest.raises(MemoryFault):
        taken.gather(1 << 16, num)
    assert len(taken) == num - 1


# put


@pytest.mark.virtio("NET-DEV-29", "NET-DEV-30")
@pytest.mark.parametrize("sizes", [(), (1,), (9, 0, 200)], ids=["one", "two", "four"])
@pytest.mark.parametrize(
    "buffers", [(2000,), ((12, 1988),), (700, 700, 700), (64,) * 16, ((5, 3), 1, (1, 90), 2000)], ids=str
)
def test_a_mergeable_frame_crosses_unchanged(
    buffers: tuple[int | tuple[int, ...], ...], sizes: tuple[int, ...]
) -> None:
    queue = Receive(*buffers)
    payload = PATTERN[:1000]
    assert put(queue.ring, HEAD, cut(payload, *sizes), True) == HEADER_SIZE + 1000
    assert queue.frame() == HEAD + payload
    queue.rig.check()


def test_a_head_with_rewritten_headers_goes_in_front_of_what_is_still_where_it_was() -> None:
    queue = Receive(30, 30, 30)
    assert put(queue.ring, HEAD + b"headers", cut(b"payload" * 4, 3), True) == HEADER_SIZE + 35
    assert queue.frame() == HEAD + b"headers" + b"payload" * 4


@pytest.mark.virtio("NET-DEV-27", "NET-DEV-28")
def test_without_mergeable_buffers_a_frame_goes_into_the_first_or_nowhere() -> None:
    queue = Receive((12, 100), 2000)
    assert put(queue.ring, HEAD, cut(PATTERN[:200]), False) == 0, "it can never fit"
    assert queue.taken() == 0
    assert put(queue.ring, HEAD, cut(PATTERN[:100]), False) == 112
    ((token, size),) = queue.used()
    assert queue.bytes(token, size) == HEAD[:NUM_BUFFERS_AT] + b"\1\0" + PATTERN[:100]


@pytest.mark.parametrize("mergeable", [False, True])
def test_without_buffers_a_frame_waits(mergeable: bool) -> None:
    queue = Receive()
    assert put(queue.ring, HEAD, cut(PATTERN[:100]), mergeable) is None
    queue.post(200)
    assert put(queue.ring, HEAD, cut(PATTERN[:100]), mergeable) == 112


def test_a_frame_waits_for_more_buffers_with_those_that_are_there_untouched() -> None:
    queue = Receive(64, 64)
    assert put(queue.ring, HEAD, cut(PATTERN[:500]), True) is None
    assert (queue.taken(), queue.used()) == (0, [])
    queue.post(*[64] * 6)
    assert put(queue.ring, HEAD, cut(PATTERN[:500]), True) == 512
    assert queue.frame() == HEAD + PATTERN[:500]


def test_a_frame_that_all_buffers_of_the_ring_do_not_hold_can_never_fit() -> None:
    queue = Receive(64, 64, 64, 64, num=4)
    assert put(queue.ring, HEAD, cut(PATTERN[:500]), True) == 0
    assert (queue.taken(), queue.used()) == (0, [])
    assert put(queue.ring, HEAD, cut(PATTERN[:244]), True) == 256


@pytest.mark.parametrize("mergeable", [False, True])
@pytest.mark.parametrize("writable", [0, 500])
def test_a_chain_that_is_no_receive_buffer_comes_back_empty_and_holds_nothing_up(
    mergeable: bool, writable: int
) -> None:
    queue = Receive()
    queue.post_readable(writable)
    queue.post_readable(writable)
    queue.post(200)
    assert put(queue.ring, HEAD, cut(PATTERN[:100]), mergeable) == 112
    assert [(bool(token), size) for token, size in queue.used()] == [(False, 0), (False, 0), (True, 112)]


def test_in_the_middle_of_a_frame_it_counts_as_one_of_its_buffers_with_nothing_in_it() -> None:
    queue = Receive(64)
    queue.post_readable(500)
    queue.post(64)
    assert put(queue.ring, HEAD, cut(PATTERN[:100]), True) == 112
    assert [size for _, size in queue.used()] == [64, 0, 48]


@given(
    buffers=st.lists(st.integers(1, 90), max_size=16),
    sizes=st.lists(st.integers(0, 400), min_size=1, max_size=12),
    mergeable=st.booleans(),
)
def test_nothing_is_lost_or_made_up(buffers: list[int], sizes: list[int], mergeable: bool) -> None:
    """Frames into any buffers: each crosses whole, waits, or never fits, and then the ring is as it was."""
    queue = Receive(*buffers)
    left = len(buffers)
    for size in sizes:
        room = sum(buffers[len(buffers) - left :]) if mergeable else (buffers[-left] if left else 0)
        copied = put(queue.ring, HEAD, cut(PATTERN[:size]), mergeable)
        assert queue.taken() == 0
        if copied:
            assert copied == size + HEADER_SIZE <= room
            used = queue.used()
            left -= len(used)
            data = b"".join(queue.bytes(token, n) for token, n in used)
            assert data[HEADER_SIZE:] == PATTERN[:size]
        else:
            assert room < size + HEADER_SIZE
            assert copied == (0 if left and (not mergeable or left == 16) else None)
            assert queue.used() == []
    queue.rig.check()


# A flow


class Frames:
    """A port with frames to be read, each behind its header."""

    def __init__(self) -> None:
        self.frames: deque[bytes] = deque()

    def pending(self) -> bool:
        return bool(self.frames)

    def recv_into(self, segs: Sequence[memoryview]) -> int:
        if not self.frames:
            return 0
        frame = self.frames.popleft()
        assert total(segs) >= len(frame), "it would be dropped here without a cause"
        return copy_in(segs, frame)

    async def wait_readable(self) -> None: ...

    async def wait_writable(self) -> None: ...


PIECES = st.integers(1, 700)
BUFFERS = st.one_of(PIECES, st.tuples(PIECES, PIECES), st.tuples(PIECES, PIECES, PIECES))
LENGTHS = st.one_of(st.integers(26, 120), st.integers(26, LARGEST))
STEPS = st.lists(st.tuples(st.lists(BUFFERS, max_size=8), st.lists(LENGTHS, max_size=4)), min_size=1, max_size=12)


@pytest.mark.virtio("NET-DEV-26", "NET-DEV-29", "NET-DEV-31")
@given(STEPS)
def test_with_any_buffers_frames_come_whole_and_in_order_and_each_is_accounted_for(
    steps: list[tuple[list[int | tuple[int, ...]], list[int]]],
) -> None:
    queue, port, traffic = Receive(memory=1 << 22), Frames(), Traffic()
    holder = cast(DeviceQueue, SimpleNamespace(ring=queue.ring))
    flow = VhostNetToDriver(holder, cast(PacketQueue, port), traffic, LARGEST, True)
    sent: list[bytes] = []
    used: list[tuple[Buffer, int]] = []
    refill = [(BIG_ENOUGH, list[int]())] * 60  # a frame takes one at least
    for buffers, lengths in [*steps, *refill]:
        for buffer in buffers:
            if queue.driver.num_free >= (len(buffer) if isinstance(buffer, tuple) else 1):
                queue.post(buffer)
        for length in lengths:
            sent.append(HEAD + PATTERN[len(sent) : len(sent) + length - HEADER_SIZE])
            port.frames.append(sent[-1])
        turns = 0
        while flow.move()[1] is AGAIN:
            turns += 1
            assert turns < 100, "it goes on for ever"
        assert queue.taken() == 0
        used += queue.used()

    got = frames(queue, used)
    rest = iter(sent)
    assert all(frame in rest for frame in got), "in order, and none twice"
    waiting = len(sent) - len(got) - sum(traffic.drops.values())
    assert waiting == len(port.frames) + bool(flow._spill)
    assert traffic.packets == len(got)
    if waiting:
        assert queue.driver.num_free < 3, "only where the driver can't post more"


def frames(queue: Receive, used: list[tuple[Buffer, int]]) -> list[bytes]:
    """The frame as the driver puts it together from used buffers (section 5.1.9.4)."""
    got = []
    parts = [queue.bytes(*buffer) for buffer in used]
    while parts:
        data, count = b"", 0
        while len(data) < HEADER_SIZE:
            data += parts[count]
            count += 1
        wanted = int.from_bytes(data[NUM_BUFFERS_AT:HEADER_SIZE], "little")
        assert count <= wanted <= len(parts)
        data = b"".join(parts[:wanted])
        del parts[:wanted]
        got.append(data[:NUM_BUFFERS_AT] + bytes(2) + data[HEADER_SIZE:])
    return got
