"""What the flows of both sides share: messages out of the bus into a queue, and out of a queue into the bus."""

from __future__ import annotations

from typing import Generic, TypeVar

from drivers.devices.rpmsg.bus import RpmsgBus
from drivers.devices.rpmsg.layout import HEADER, HEADER_SIZE
from drivers.errors import PortGone
from drivers.flow.pump import Need, QueueEnd, Signal
from rings.errors import MemoryFault, RemoteRingError

__all__ = ["BUDGET", "InFlow", "OutFlow"]

BUDGET = 64
"""Messages per batch."""

Q = TypeVar("Q", bound=QueueEnd)


class RpmsgFlow(Generic[Q]):
    """One direction of a device."""

    def __init__(self, queue: Q, bus: RpmsgBus) -> None:
        self.queue: Q = queue
        self._bus = bus

    def on_port_gone(self, error: PortGone) -> None:
        """A bus is never gone."""


class OutFlow(RpmsgFlow[Q]):
    """From the bus into a queue; a `Wire`.

    While the pump has nothing to do, a message is put into the ring by the task that sends it, which saves an answer
    a turn of the scheduler. A second one that follows with nothing heard in between looks like many: these are left
    to the pump, for which a batch costs little more than one.
    """

    def __init__(self, queue: Q, bus: RpmsgBus, *, direct: bool) -> None:
        """Without ``direct`` only the pump moves messages, since it has to pay the link for them."""
        super().__init__(queue, bus)
        self._direct = direct
        self._signal = Signal()
        self._idle = False
        self._trouble: RemoteRingError | MemoryFault | ValueError | None = None

    def room(self) -> int:
        raise NotImplementedError

    def fill(self) -> tuple[int, Need]:
        """Move messages until they, the buffers or the budget end. SOURCE: nothing is left, and nobody waits."""
        raise NotImplementedError

    def move(self) -> tuple[int, Need]:
        if self._trouble is not None:
            # It was met by a task that sends, and the pump alone knows what to do. It holds frames, they memory.
            trouble, self._trouble = self._trouble, None
            try:
                raise trouble
            finally:
                del trouble
        return self.fill()

    def push(self) -> None:
        if not self._idle:
            self.stir()
        elif not (self._direct and self._bus.heard and self.queue.live):
            self._wake()
        else:
            self._bus.heard = False
            try:
                moved, need = self.fill()
                if moved:
                    self.queue.batches[min(moved.bit_length(), len(self.queue.batches)) - 1] += 1
                    self.queue.flush()
            except (RemoteRingError, MemoryFault, ValueError) as exc:
                self._trouble = exc
                self._wake()
            else:
                if need is not Need.SOURCE:
                    self._wake()

    def stir(self) -> None:
        """Something is to be sent while the pump waits for buffers, or is at work."""

    def starve(self) -> None:
        if self._idle:
            self._wake()

    def _wake(self) -> None:
        self._idle = False
        self._signal.set()

    async def wait(self, need: Need) -> None:
        # The index was not published yet when the pump found nothing more: what came since was not pushed.
        self._idle = not self._bus.outbox and not self._bus.waiting
        self._bus.heard = True
        if not self._idle:
            self._signal.set()
        try:
            await self._signal.wait()
        finally:
            self._idle = False


class InFlow(RpmsgFlow[Q]):
    """From a queue into the bus."""

    async def wait(self, need: Need) -> None:
        await self._bus.resumed.wait()

    def _take(self, message: memoryview, size: int) -> bool:
        """Deliver what the other side put into ``size`` bytes; False where it has to wait. The header is read once."""
        if size < HEADER_SIZE:
            self._bus.drop("short")
            return True
        src, dst, _, length, _ = HEADER.unpack_from(message)
        if length > size - HEADER_SIZE:
            self._bus.drop("too_long")
            return True
        return self._bus.deliver(src, dst, bytes(message[HEADER_SIZE : HEADER_SIZE + length]))
