"""Shuttles beside the four moves in Python, frame by frame: same frames, figures, and words of ring and buffers."""

from __future__ import annotations

import os
import random
import select
import struct
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import attrs
import pytest

from rings.errors import MemoryFault, RingError
from rings.native import NATIVE
from rings.queue import Virtqueue, Vringh
from support.native import NEEDS_NATIVE
from support.rigs.net_flows import NUM, Stack, frames
from support.rigs.tun import PLAIN, ipv4

if TYPE_CHECKING or NATIVE:
    from vnet.ports.packet.native import _shuttles
    from vnet.ports.packet.native.shuttle import Returned, Shuttle

pytestmark = NEEDS_NATIVE
READ, WRITE = (0, 2), (1, 3)
"""Flows that read frames from a port and that write them, by direction."""
APART = pytest.mark.parametrize("apart", [False, True], ids=["one-process", "two-processes"])
DRIVER, DEVICE = (0, 2), (1, 3)
"""Rings of the driver's and of the device's side, by direction."""


class Carried:
    """A stack whose frames shuttles may carry: one for each direction, or if ``apart`` for each side of it."""

    def __init__(self, stack: Stack, apart: bool = False) -> None:
        self.stack = stack
        self.carried = 0
        self.table, self.epoll, self.stop = _shuttles.new_table(), select.epoll(), os.eventfd(0)
        self.events = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(4 if apart else 0)]
        """For each direction, the event of the side that receives and that of the side that sends."""
        self.shuttles: list[Shuttle] = []
        self.fds: list[int] = []
        for direction in (0, 1):
            for sides in ((True, False), (False, True)) if apart else ((True, True),):
                shuttle = Shuttle(partial(self._offer, len(self.shuttles), direction, *sides))
                self.shuttles.append(shuttle)
                fds = [stack.ports[direction].fileno()] if sides[0] else []
                fds += [self.events[2 * direction + sides[0]]] if apart else []
                for fd in fds:
                    self.epoll.register(fd, select.EPOLLIN | select.EPOLLET)
                    assert _shuttles.set_shuttle(self.table, fd, shuttle.handle)
                self.fds += fds

    def _offer(self, number: int, direction: int, sends: bool, receives: bool) -> None:
        """Lend the flows of a direction: the one that reads frames from its port, the one that writes them, or both."""
        shuttle, flows = self.shuttles[number], cast(list[Any], self.stack.flows)
        lend = shuttle.lend_to_driver if direction else shuttle.lend_to_device
        doorbell = -1 if sends and receives else self.events[2 * direction + receives]
        try:
            lend(flows[READ[direction]] if sends else None, flows[WRITE[direction]] if receives else None, doorbell)
        except (RingError, MemoryFault):
            pass

    def carry(self, waits: int = 2) -> list[Returned]:
        """Carry all frames that are there. Returns what each shuttle did that was lent its state.

        If sides are apart, the second of ``waits`` receives what the first one has sent.
        """
        for _ in range(waits if self.events else 1):
            _shuttles.wait(self.epoll.fileno(), self.stop, 0.0, self.table)
        back = [shuttle.take_back() for shuttle in self.shuttles if shuttle.lent]
        self.carried += sum(each.frames for each in back)
        return back

    def close(self) -> None:
        for fd in self.fds:
            assert _shuttles.set_shuttle(self.table, fd, None)
        self.epoll.close()
        for fd in (self.stop, *self.events):
            os.close(fd)
        self.stack.close()


def arm(stack: Stack, direction: int) -> bool:
    """Let the side that sends frames ask for notifications, as before it waits; returns whether it has work left."""
    if direction == 0:
        return cast(Vringh, stack.rings[DEVICE[0]]).notify_enable()
    return cast(Virtqueue, stack.rings[DRIVER[1]]).enable_cb()


def settle(stack: Stack, direction: int) -> object:
    """Make all moves of one direction in Python, then wait again, as pumps do. Returns the error that ended a flow."""
    error: object = None
    reads = READ[direction]
    for flow in (reads, WRITE[direction], reads):
        try:
            if error is None or flow != reads:
                stack.move(flow)
        except (RingError, MemoryFault) as exc:
            error = error or (type(exc), str(exc))
            stack.rings[(0, 1, 3, 2)[flow]].publish()
    if error is None:
        arm(stack, direction)
    return error


def words(stack: Stack) -> bytes:
    """Rings, and all buffers."""
    start = stack.memory.base
    return bytes(stack.memory.view(start, stack.memory.statistics().peak))


async def start(
    kind: str, filtered: bool, monkeypatch: pytest.MonkeyPatch, apart: bool = False
) -> tuple[Carried, Stack]:
    monkeypatch.setattr("fcntl.ioctl", lambda *_: 0)
    carried, python = Carried(Stack("split", kind, True, filtered), apart), Stack("split", kind, False, filtered)
    for stack in (carried.stack, python):
        await stack.start()
        for direction in (0, 1):
            arm(stack, direction)
    return carried, python


@pytest.mark.parametrize("kind", ["tun", "tap"])
@pytest.mark.parametrize("filtered", [False, True], ids=["unfiltered", "filtered"])
@APART
async def test_each_frame_leaves_the_same_words_and_figures(
    kind: str, filtered: bool, apart: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    carried, python = await start(kind, filtered, monkeypatch, apart)
    rng = random.Random(5)
    count = 0
    for _ in range(30):
        end = rng.randrange(2)
        for frame in frames(rng, kind, end):
            count += 1
            for stack in (carried.stack, python):
                stack.write(end, frame)
            carried.carry()
            assert [settle(stack, end) for stack in (carried.stack, python)] == [None, None]
            assert carried.stack.read(1 - end) == python.read(1 - end)
            assert carried.stack.figures() == python.figures()
            assert words(carried.stack) == words(python)
    assert count / 2 < carried.carried / (1 + apart) < count, "most frames are plain, and not all"
    carried.close()
    python.close()


@pytest.mark.parametrize("kind", ["tun", "tap"])
@APART
async def test_bursts_come_whole_and_in_order_if_a_frame_stops_the_shuttle(
    kind: str, apart: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    carried, python = await start(kind, False, monkeypatch, apart)
    rng = random.Random(6)
    for _ in range(80):
        for end in (0, 1):
            for frame in frames(rng, kind, end):
                for stack in (carried.stack, python):
                    stack.write(end, frame)
        carried.carry()
        for end in (0, 1):
            for _ in range(3):  # a ring has fewer buffers than frames are there
                assert [settle(stack, end) for stack in (carried.stack, python)] == [None, None]
            assert carried.stack.read(1 - end) == python.read(1 - end)
        assert carried.stack.figures()[:2] == python.figures()[:2]  # type: ignore[index]
    assert carried.carried > 100
    carried.close()
    python.close()


async def test_a_burst_notifies_the_other_side_once(monkeypatch: pytest.MonkeyPatch) -> None:
    carried, python = await start("tun", False, monkeypatch)
    frame = PLAIN + ipv4()
    for stack in (carried.stack, python):
        stack.write(0, frame)
    carried.carry()
    settle(carried.stack, 0)  # its heads are known now
    for _ in range(5):
        carried.stack.write(0, frame)
    [back] = carried.carry()
    assert attrs.astuple(back) == (5, False, False, False, 1, 0)
    assert len(carried.stack.read(1)) == 6
    carried.close()
    python.close()


@pytest.mark.parametrize("end", [0, 1], ids=["to-device", "to-driver"])
@pytest.mark.parametrize("waits", [1, 8])
async def test_a_side_without_buffers_goes_on_once_the_other_process_gives_some_back(
    waits: int, end: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In C if the other process is quick enough, else in Python, which lost the event of the frames that are there."""
    carried, python = await start("tun", False, monkeypatch, apart=True)
    frame = PLAIN + ipv4("198.18.0.1" if end else "198.18.0.2")
    carried.stack.write(end, frame)
    settle(carried.stack, end)  # its heads are known now
    carried.carry()
    carried.stack.read(1 - end)
    for _ in range(3 * NUM):
        carried.stack.write(end, frame)
    back = carried.carry(waits)
    if waits == 1:
        assert attrs.astuple(back[0]) == (NUM, False, False, True, 1 - end, end)
        for _ in range(3):
            assert settle(carried.stack, end) is None
    else:
        assert [(each.frames, each.stopped, each.starved) for each in back] == 2 * [(3 * NUM, False, False)]
    assert len(carried.stack.read(1 - end)) == 3 * NUM
    carried.close()
    python.close()


@APART
async def test_a_hostile_word_has_the_same_outcome(apart: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other side changes a word of a ring, or of what was published, before each of many frames."""
    outcomes: dict[object, int] = {}
    carried_frames = 0
    for seed in range(80):
        carried, python = await start("tun", False, monkeypatch, apart)
        rng = random.Random(seed)
        end = seed % 2
        to = "198.18.0.1" if end else "198.18.0.2"
        for step in range(12):
            for stack in (carried.stack, python):
                stack.write(end, PLAIN + ipv4(to, bytes(60)))
            if step > 3:
                # 16-bit words of the descriptors, the available and the used ring
                at = 2 * rng.randrange((16 * NUM + 6 + 2 * NUM + 6 + 8 * NUM + 64) // 2)
                value = rng.choice([0, 1, 2, step, NUM, NUM + 1, 0x7FFF, 0xFFFF, rng.randrange(1 << 16)])
                for stack in (carried.stack, python):
                    place = stack.memory.view(stack.areas[end] + at, 2, True)  # type: ignore[arg-type]
                    place[:] = struct.pack("<H", value)
            carried.carry()
            results = [settle(stack, end) for stack in (carried.stack, python)]
            assert results[0] == results[1], (seed, step)
            assert carried.stack.read(1 - end) == python.read(1 - end), (seed, step)
            assert carried.stack.figures() == python.figures(), (seed, step)
            outcomes[results[0]] = outcomes.get(results[0], 0) + 1
            if results[0] is not None:
                break
        carried_frames += carried.carried
        carried.close()
        python.close()
    assert carried_frames > 200
    assert len(outcomes) > 8, outcomes
