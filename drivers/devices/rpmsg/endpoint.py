"""Endpoints: what a program holds of a channel, with an inbox that is bounded."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Protocol

import attrs
import trio

from drivers.devices.rpmsg.layout import ADDR_ANY
from drivers.errors import MessageTooLong, NoBuffer, NotBound, RpmsgError, SendTimeout
from drivers.flow.pump import Signal

__all__ = ["INBOX", "SEND_TIMEOUT", "Endpoint", "EndpointStatistics", "Hub"]

SEND_TIMEOUT = 15.0
"""Seconds that `Endpoint.send` waits for a buffer."""
INBOX = 256
"""Messages that wait in an endpoint for its program."""
PACE = 64
"""Messages after which a task that never has to wait lets others run."""

Data = bytes | bytearray | memoryview


class Hub(Protocol):
    """What an endpoint is part of."""

    @property
    def max_payload(self) -> int: ...

    @property
    def waiting(self) -> bool:
        """Whether somebody waits for a buffer."""

    def is_endpoint_addr(self, addr: int, /) -> bool:
        """Whether an endpoint of the other side can have this address."""

    def put(self, src: int, dst: int, data: bytes, /) -> bool:
        """Send; False where no buffer is free."""

    async def wait_room(self) -> None:
        """Return when `put` may succeed, and it is the caller's turn; may return early."""

    def make_room(self) -> None:
        """Wake those whose turn it is, if any."""

    def resume(self) -> None:
        """There is room in an inbox that held up what comes in."""

    def count(self, size: int, count: int = 1, /) -> None:
        """Messages of ``size`` bytes in all were put into an inbox; fewer than none where they are taken back."""

    def drop(self, cause: str, count: int = 1, /) -> None:
        """Messages that came in were dropped."""

    def remove(self, endpoint: Endpoint, /) -> None:
        """The endpoint was closed."""


@attrs.frozen
class EndpointStatistics:
    """Figures of one endpoint since it was created."""

    name: str
    addr: int
    dst: int | None
    """Where it sends to, None while it is not bound."""
    sent: int
    received: int
    """Messages that were put into its inbox."""
    unread: int
    """Of these, how many are still there."""
    drops: Mapping[str, int]
    """Messages for it that were dropped, by cause."""


class Endpoint:
    """See `drivers.contracts.ports.RpmsgEndpoint`. Made by `RpmsgBus.create`."""

    def __init__(self, hub: Hub, name: str, addr: int, dst: int, inbox: int, lossy: bool, announce: bool) -> None:
        self._hub = hub
        self.name = name
        self.addr = addr
        self.dst = dst
        """Where it sends to; ADDR_ANY while it is not bound."""
        self.fixed = dst != ADDR_ANY
        """Whether the program said where it sends to: nothing the other side does changes that."""
        self.wants_announcing = announce
        self.announced = False
        """Whether the other side was told that it is there."""
        self.told: int | None = None
        """The endpoint of the other side that was assigned this one's address."""
        self._inbox: deque[tuple[int, bytes]] = deque()
        self._room = inbox
        self._lossy = lossy
        self._holding = False
        self._came = Signal()
        self._reading = False
        self._unbound = trio.lowlevel.ParkingLot()
        self._closed = False
        self._turn = 0
        self._sent = self._received = 0
        self._drops: dict[str, int] = {}

    def __repr__(self) -> str:
        to = "nobody" if self.dst == ADDR_ANY else self.dst
        return f"<rpmsg endpoint {self.name!r} at {self.addr}, bound to {to}>"

    @property
    def bound(self) -> bool:
        return self.dst != ADDR_ANY

    @property
    def max_payload(self) -> int:
        return self._hub.max_payload

    @property
    def lossy(self) -> bool:
        return self._lossy

    @lossy.setter
    def lossy(self, lossy: bool) -> None:
        self._lossy = lossy
        if lossy:
            self._resume()

    def statistics(self) -> EndpointStatistics:
        dst = self.dst if self.bound else None
        drops = dict(self._drops)
        return EndpointStatistics(self.name, self.addr, dst, self._sent, self._received, len(self._inbox), drops)

    # Sending

    def send_nowait(self, data: Data, dst: int | None = None) -> None:
        """Send to ``dst``, or to the bound endpoint. Raises the errors of `drivers.contracts.ports.RpmsgEndpoint`."""
        to, message = self._check(data, dst)
        if to == ADDR_ANY:
            raise NotBound(f"{self.name}: the other side has shown no endpoint yet")
        hub = self._hub
        # Whoever waits for a buffer was here first.
        if hub.waiting or not hub.put(self.addr, to, message):
            raise NoBuffer(f"{self.name}: every buffer is under way")
        self._sent += 1

    async def send(self, data: Data, dst: int | None = None, *, timeout: float = SEND_TIMEOUT) -> None:
        """The same, waiting ``timeout`` seconds at most until it is bound and for a buffer. Raises SendTimeout."""
        await trio.lowlevel.checkpoint_if_cancelled()
        to, message = self._check(data, dst)
        hub = self._hub
        if to == ADDR_ANY or hub.waiting or not hub.put(self.addr, to, message):
            await self._send(message, dst, timeout)
            return
        self._sent += 1
        self._turn = turn = self._turn + 1
        if not turn % PACE:
            # The message is away: a cancellation is left for the next one.
            await trio.lowlevel.cancel_shielded_checkpoint()

    async def _send(self, message: bytes, dst: int | None, timeout: float) -> None:
        hub = self._hub
        waited = False
        with trio.move_on_after(timeout):
            while True:
                to, _ = self._check(message, dst)  # the device may be another one by now
                if to == ADDR_ANY:
                    hub.make_room()  # if it was this one's turn, it is somebody else's now
                    await self._unbound.park()
                elif (waited or not hub.waiting) and hub.put(self.addr, to, message):
                    self._sent += 1
                    return
                else:
                    await hub.wait_room()
                    waited = True
        why = "no buffer came back" if self.bound or dst is not None else "the other side showed no endpoint"
        raise SendTimeout(f"{self.name}: {why} within {timeout:g} s")

    def _check(self, data: Data, dst: int | None) -> tuple[int, bytes]:
        message = bytes(data)  # which for bytes is no copy
        if len(message) > self._hub.max_payload:
            raise MessageTooLong(f"{self.name}: {len(message)} bytes; a message has {self._hub.max_payload} at most")
        if self._closed:
            raise trio.ClosedResourceError
        if dst is not None and not 0 <= dst < ADDR_ANY:
            raise RpmsgError(f"{self.name}: {dst} is no address")
        return self.dst if dst is None else dst, message

    async def wait_bound(self) -> None:
        """Return when it knows an endpoint of the other side. Raises trio.ClosedResourceError."""
        await trio.lowlevel.checkpoint()
        while not self.bound:
            if self._closed:
                raise trio.ClosedResourceError
            await self._unbound.park()

    # Receiving

    def receive_nowait(self) -> bytes:
        if self._closed:
            raise trio.ClosedResourceError
        if not self._inbox:
            raise trio.WouldBlock
        return self._pop()[1]

    async def receive(self) -> bytes:
        return (await self.receive_from())[1]

    async def receive_from(self) -> tuple[int, bytes]:
        """The next message behind the address of the endpoint that sent it; raises what `receive` raises."""
        self._turn = turn = self._turn + 1
        if self._inbox:  # else it waits, which is a checkpoint
            if turn % PACE:
                await trio.lowlevel.checkpoint_if_cancelled()
            else:
                await trio.lowlevel.checkpoint()
        while not self._inbox:
            if self._closed:
                raise trio.ClosedResourceError
            if self._reading:
                raise trio.BusyResourceError(f"{self.name}: another task receives already")
            self._reading = True
            try:
                await self._came.wait()
            finally:
                self._reading = False
        return self._pop()

    def __aiter__(self) -> Endpoint:
        return self

    async def __anext__(self) -> bytes:
        try:
            return (await self.receive_from())[1]
        except trio.ClosedResourceError:
            raise StopAsyncIteration from None

    def _pop(self) -> tuple[int, bytes]:
        message = self._inbox.popleft()
        if self._holding and 2 * len(self._inbox) <= self._room:
            self._resume()
        return message

    def _resume(self) -> None:
        if self._holding:
            self._holding = False
            self._hub.resume()

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._hub.remove(self)
            self._hub.count(-sum(len(data) for _, data in self._inbox), -len(self._inbox))
            self._drop("unread", len(self._inbox))
            self._inbox.clear()
            self._resume()
            self._came.set()
            self._unbound.unpark_all()

    # What the bus says.

    def take(self, src: int, data: bytes, /) -> bool:
        """A message came in. False where it has to wait: there is no room, and nothing may be dropped."""
        inbox = self._inbox
        if len(inbox) >= self._room:
            if self._lossy:
                self._drop("inbox_full")
                return True
            self._holding = True
            return False
        if self.dst == ADDR_ANY and self._hub.is_endpoint_addr(src):
            self.bind(src)  # without name or address service the first message is what tells
        inbox.append((src, data))
        self._received += 1
        self._hub.count(len(data))
        if self._reading:
            self._reading = False
            self._came.set()
        return True

    def bind(self, addr: int) -> None:
        """It sends to ``addr`` from now on."""
        self.dst = addr
        self._unbound.unpark_all()

    def unbind(self) -> None:
        """The endpoint it sent to is gone."""
        if not self.fixed:
            self.dst = ADDR_ANY
            self.told = None

    def forget(self) -> None:
        """Both sides start anew: nobody was told anything."""
        self.unbind()
        self.announced, self.told, self._holding = False, None, False

    def _drop(self, cause: str, count: int = 1) -> None:
        if count:
            self._drops[cause] = self._drops.get(cause, 0) + count
            self._hub.drop(cause, count)
