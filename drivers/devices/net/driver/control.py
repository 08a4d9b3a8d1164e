"""virtio-net's end of the control queue: commands are put into the ring, and whoever gave one waits for its answer."""

from __future__ import annotations

from collections import deque

import attrs
import trio

from drivers.bus.virtio import DriverQueue
from drivers.contracts.hw import DmaMemory
from drivers.devices.net.control import ACK_OK, COMMAND_MAX, Control, emit
from drivers.devices.net.flow import ControlFigures
from drivers.errors import NeedsReset, TransportLost
from drivers.flow.pump import Need, QueueFlow
from drivers.memory.buffers import BufferBlock, block_memory
from rings.memory import Addr

__all__ = ["ControlQueue"]

SLOTS = 4
ACK_AT = -(-COMMAND_MAX // 64) * 64
"""Where the answer goes: on a cache line of its own."""
UNANSWERED = 0xFF
TIMEOUT = 5.0
"""Seconds after which a device that does not answer is given up."""


@attrs.define(eq=False)
class Asked:
    """A command under way."""

    data: bytes
    answered: trio.Event = attrs.field(factory=trio.Event)
    done: bool | None = None
    """Whether the device carried it out; None where the device went away first."""


def _slots(num: int) -> int:
    """Commands under way at most, in a ring of ``num`` descriptors."""
    return min(SLOTS, max(1, num // 2))


def control_memory(num: int) -> int:
    """Bytes of memory that commands take at most."""
    return block_memory(_slots(num), ACK_AT + 1)


class ControlQueue(QueueFlow):
    """The flow of the control queue, and `ask`, which uses it. Commands are answered in the order they were given."""

    def __init__(self, queue: DriverQueue, dma: DmaMemory, figures: ControlFigures) -> None:
        """Raises MemoryError."""
        self.queue = queue
        self._figures = figures
        self._block = BufferBlock(dma, _slots(queue.ring.num), ACK_AT + 1)
        self._free = list(range(len(self._block.addrs)))
        self._waiting: deque[Asked] = deque()
        self._under_way: dict[int, Asked] = {}
        self._closed = False

    async def ask(self, control: Control) -> bool:
        """Whether the device carried the command out.

        Raises TransportLost where it was reset meanwhile, NeedsReset where it does not answer.
        """
        if self._closed:
            raise TransportLost("the device was reset")
        asked = Asked(emit(control))
        self._waiting.append(asked)
        self.queue.signal.set()
        with trio.move_on_after(TIMEOUT):
            await asked.answered.wait()
        if asked.done is None:
            if self._closed:
                raise TransportLost(f"the device was reset before it answered {control.command.name}")
            raise NeedsReset(f"the device does not answer {control.command.name} within {TIMEOUT:g} s")
        return asked.done

    def move(self) -> tuple[int, Need]:
        ring, block, figures = self.queue.ring, self._block, self._figures
        moved = 0
        for slot, size in ring.get_each(ring.num):
            asked = self._under_way.pop(slot)
            asked.done = size > 0 and block.views[slot][ACK_AT] == ACK_OK
            if asked.done:
                figures.commands += 1
            else:
                figures.refused += 1
            figures.bytes += len(asked.data)
            asked.answered.set()
            self._free.append(slot)
            moved += 1
        while self._waiting and self._free:
            asked = self._waiting.popleft()
            slot, size = self._free.pop(), len(asked.data)
            view, addr = block.views[slot], block.addrs[slot]
            view[:size], view[ACK_AT] = asked.data, UNANSWERED
            self._under_way[slot] = asked
            ring.add(((addr, size),), ((Addr(addr + ACK_AT), 1),), slot)
            moved += 1
        return moved, Need.QUEUE

    def close(self) -> None:
        """After the device was reset. Whoever still waits is told."""
        self._closed = True
        for asked in (*self._under_way.values(), *self._waiting):
            asked.answered.set()
        self._under_way.clear()
        self._waiting.clear()
        self._block.close()
