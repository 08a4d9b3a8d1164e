"""Base classes of the flows of both sides: messages from the bus into a queue, and from a queue into the bus."""

from __future__ import annotations

from abc import abstractmethod
from typing import Generic, TypeVar

import trio

from drivers.devices.rpmsg.bus import RpmsgBus
from drivers.devices.rpmsg.layout import HEADER, HEADER_SIZE
from drivers.flow.pump import QueueEnd, Serve, Signal, Wait

__all__ = ["BUDGET", "RpmsgInFlow", "RpmsgOutFlow"]

BUDGET = 64
"""Maximum messages per batch."""

Q = TypeVar("Q", bound=QueueEnd)


class RpmsgFlow(Generic[Q]):
    """One direction of a device."""

    def __init__(self, queue: Q, bus: RpmsgBus) -> None:
        self.queue: Q = queue
        self._bus = bus


class RpmsgOutFlow(RpmsgFlow[Q]):
    """Flow from the bus into a queue. Implements `Wire`.

    If its pump waits for a message, a sending task moves its message into the ring in place, which saves a round trip
    one turn of the scheduler. A second message without a received one in between suggests a stream: it is left to the
    pump's task, which moves a batch at little more than the cost of one message.
    """

    def __init__(self, queue: Q, bus: RpmsgBus) -> None:
        super().__init__(queue, bus)
        self._outgoing = Signal()  # set for a message while the pump waits for one
        self._message: Wait = self._wait_for_message

    @abstractmethod
    def room(self) -> int:
        """Return the number of messages that may wait to be sent now."""

    @abstractmethod
    def move(self) -> tuple[int, Wait]:
        """Move messages up to the budget. Waits for a message if none is left and no sender waits."""

    def push(self) -> None:
        if not self._outgoing.awaited:
            self.notify_pump()
        elif self._bus.interactive:
            self._bus.interactive = False
            self._outgoing.set()
        else:
            self._outgoing.wake()

    def notify_pump(self) -> None:
        """Note that there is a message to send while the pump waits for buffers or is at work."""

    def request_room(self) -> None:
        if self._outgoing.awaited:
            self._outgoing.wake()

    async def _wait_for_message(self, serve: Serve | None) -> None:
        self._bus.interactive = True
        # Messages that came after the pump found none, and before it published the index, were not pushed.
        if self._bus.outbox or self._bus.waiting:
            await trio.lowlevel.checkpoint()
        else:
            await self._outgoing.wait(serve)


class RpmsgInFlow(RpmsgFlow[Q]):
    """Flow from a queue into the bus."""

    def __init__(self, queue: Q, bus: RpmsgBus) -> None:
        super().__init__(queue, bus)
        self._room: Wait = bus.inbox_freed.wait

    def _take(self, message: memoryview, size: int) -> bool:
        """Deliver a received message of ``size`` bytes. Returns False if it has to wait. Reads the header once."""
        if size < HEADER_SIZE:
            self._bus.drop("short")
            return True
        src, dst, _, length, _ = HEADER.unpack_from(message)
        if length > size - HEADER_SIZE:
            self._bus.drop("too_long")
            return True
        return self._bus.deliver(src, dst, bytes(message[HEADER_SIZE : HEADER_SIZE + length]))
