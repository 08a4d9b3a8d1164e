"""The control queue of virtio-net: commands are put into the ring, and their senders wait for the answers."""

from __future__ import annotations

from collections import deque

import attrs
import trio

from drivers.bus.virtio import DriverQueue
from drivers.contracts.hw import DmaMemory
from drivers.devices.net.control import ACK_OK, COMMAND_MAX, NetControl, emit
from drivers.devices.net.flow import ControlFigures
from drivers.errors import NeedsReset, TransportLost
from drivers.flow.pump import QUEUE, Wait
from drivers.memory.buffers import BufferBlock, block_memory
from rings.memory import Addr

__all__ = ["VirtioNetControlQueue"]

SLOTS = 4
"""Maximum number of commands in flight."""
ACK_AT = -(-COMMAND_MAX // 64) * 64
"""Offset of the answer in a slot, on its own cache line."""
UNANSWERED = 0xFF
TIMEOUT = 5.0
"""Seconds to wait for an answer before the device needs a reset."""


@attrs.define(eq=False)
class PendingCommand:
    """A command that waits for its answer."""

    data: bytes
    completion: trio.Event = attrs.field(factory=trio.Event)
    done: bool | None = None
    """Whether the device executed the command; None without an answer."""


def _slots(num: int) -> int:
    """Return the maximum number of commands in flight, in a ring of ``num`` descriptors."""
    return min(SLOTS, max(1, num // 2))


def control_memory(num: int) -> int:
    """Return the maximum bytes of memory for commands."""
    return block_memory(_slots(num), ACK_AT + 1)


class VirtioNetControlQueue:
    """The flow of the control queue, and `execute`, which uses it. Commands are sent and answered in order."""

    def __init__(self, queue: DriverQueue, dma: DmaMemory, figures: ControlFigures) -> None:
        """Allocate slots. Raises MemoryError."""
        self.queue = queue
        self._figures = figures
        self._block = BufferBlock(dma, _slots(queue.ring.num), ACK_AT + 1)
        self._free = list(range(len(self._block.addrs)))
        self._backlog: deque[PendingCommand] = deque()
        self._in_flight: dict[int, PendingCommand] = {}
        self._closed = False

    async def execute(self, control: NetControl) -> bool:
        """Send a command. Returns whether the device executed it.

        Raises TransportLost if the device was reset meanwhile, NeedsReset if it does not answer.
        """
        if self._closed:
            raise TransportLost("the device was reset")
        pending = PendingCommand(emit(control))
        self._backlog.append(pending)
        self.queue.signal.set()
        with trio.move_on_after(TIMEOUT):
            await pending.completion.wait()
        if pending.done is None:
            if self._closed:
                raise TransportLost(f"the device was reset before it answered {control.command.name}")
            raise NeedsReset(f"the device does not answer {control.command.name} within {TIMEOUT:g} s")
        return pending.done

    def move(self) -> tuple[int, Wait]:
        ring, block, figures = self.queue.ring, self._block, self._figures
        moved = 0
        for slot, size in ring.get_each(ring.num):
            pending = self._in_flight.pop(slot)
            pending.done = size > 0 and block.views[slot][ACK_AT] == ACK_OK
            if pending.done:
                figures.commands += 1
            else:
                figures.refused += 1
            figures.bytes += len(pending.data)
            pending.completion.set()
            self._free.append(slot)
            moved += 1
        while self._backlog and self._free:
            pending = self._backlog.popleft()
            slot, size = self._free.pop(), len(pending.data)
            view, addr = block.views[slot], block.addrs[slot]
            view[:size], view[ACK_AT] = pending.data, UNANSWERED
            self._in_flight[slot] = pending
            ring.add(((addr, size),), ((Addr(addr + ACK_AT), 1),), slot)
            moved += 1
        return moved, QUEUE

    def close(self) -> None:
        """Wake all waiting senders after a reset of the device."""
        self._closed = True
        for pending in (*self._in_flight.values(), *self._backlog):
            pending.completion.set()
        self._in_flight.clear()
        self._backlog.clear()
        self._block.close()
