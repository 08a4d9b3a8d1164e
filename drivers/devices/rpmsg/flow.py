"""Base classes of the flows of both sides: messages from the bus into a queue, and from a queue into the bus."""

from __future__ import annotations

from typing import Generic, TypeVar

from drivers.devices.rpmsg.bus import RpmsgBus
from drivers.devices.rpmsg.layout import HEADER, HEADER_SIZE
from drivers.flow.pump import QueueEnd, Serve, Signal, Wait
from rings.errors import MemoryFault, RemoteRingError

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

    While the pump is idle, the sending task puts its message into the ring itself, which saves a round trip one turn of
    the scheduler. A second message without a received one in between suggests a stream: it is left to the pump, which
    moves a batch at little more than the cost of one message.
    """

    def __init__(self, queue: Q, bus: RpmsgBus, *, direct: bool) -> None:
        """``direct``: sending tasks may move messages in place; else only the pump does, to pay the link for them."""
        super().__init__(queue, bus)
        self._direct = direct
        self._signal = Signal()
        self._message: Wait = self._wait_message
        self._idle = False
        self._error: RemoteRingError | MemoryFault | ValueError | None = None

    def room(self) -> int:
        raise NotImplementedError
        """Return the number of messages that may wait to be sent now."""

    def fill(self) -> tuple[int, Wait]:
        """Move messages up to the budget. Waits for a message if none is left and no sender waits."""
        raise NotImplementedError

    def move(self) -> tuple[int, Wait]:
        if self._error is not None:
            # A sending task met it, and only the pump handles errors. Drop the reference: its traceback holds memory.
            error, self._error = self._error, None
            try:
                raise error
            finally:
                del error
        return self.fill()

    def push(self) -> None:
        if not self._idle:
            self.notify_pump()
        elif not (self._direct and self._bus.interactive and self.queue.live):
            self._wake()
        else:
            self._bus.interactive = False
            try:
                moved, wait = self.fill()
                if moved:
                    self.queue.batches[min(moved.bit_length(), len(self.queue.batches)) - 1] += 1
                    self.queue.flush()
            except (RemoteRingError, MemoryFault, ValueError) as exc:
                self._error = exc
                self._wake()
            else:
                if wait is not self._message:
                    self._wake()

    def notify_pump(self) -> None:
        """Note that there is a message to send while the pump waits for buffers or is at work."""

    def request_room(self) -> None:
        if self._idle:
            self._wake()

    def _wake(self) -> None:
        self._idle = False
        self._signal.set()

    async def _wait_message(self, serve: Serve | None) -> None:
        # Messages that came after the pump found none, and before it published the index, were not pushed.
        self._idle = not self._bus.outbox and not self._bus.waiting
        self._bus.interactive = True
        if not self._idle:
            self._signal.set()
        try:
            await self._signal.wait()
        finally:
            self._idle = False


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
