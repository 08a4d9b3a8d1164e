"""Endpoints: a program's end of a channel, with a bounded inbox."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from typing import Protocol

import attrs
import trio

from drivers.devices.rpmsg.layout import ADDR_ANY
from drivers.errors import MessageTooLong, NoBuffer, NotBound, RpmsgError, SendTimeout
from drivers.flow.pump import Signal

__all__ = ["INBOX", "SEND_TIMEOUT", "Endpoint", "EndpointBus", "EndpointStatistics"]

SEND_TIMEOUT = 15.0
"""Default timeout of `Endpoint.send`, in seconds."""
INBOX = 256
"""Default size of an inbox, in messages."""
PACE = 64
"""Number of messages after which a task yields, even if it never has to wait."""

Data = bytes | bytearray | memoryview


class EndpointBus(Protocol):
    """The bus, as an endpoint sees it."""

    @property
    def max_payload(self) -> int:
        """Maximum bytes of a message."""

    @property
    def waiting(self) -> bool:
        """Whether a sender waits for a buffer."""

    def is_endpoint_addr(self, addr: int, /) -> bool:
        """Return whether an endpoint of the other side can have this address."""

    def put(self, src: int, dst: int, data: bytes, /) -> bool:
        """Send a message. Returns False if no buffer is free."""

    async def wait_room(self) -> None:
        """Return when it is the caller's turn to try `put`; may return early."""

    def make_room(self) -> None:
        """Wake waiting senders for which there is room."""

    def resume(self) -> None:
        """Note that an inbox that blocked received messages has room again."""

    def count_received(self, size: int, count: int = 1, /) -> None:
        """Count messages put into an inbox, ``size`` bytes in all; negative if they are dropped unread."""

    def drop(self, cause: str, count: int = 1, /) -> None:
        """Count dropped messages."""

    def remove(self, endpoint: Endpoint, /) -> None:
        """Remove a closed endpoint."""


@attrs.frozen
class EndpointStatistics:
    """Counters of one endpoint since it was created."""

    name: str
    addr: int
    dst: int | None
    """Destination; None while the endpoint is unbound."""
    sent: int
    received: int
    """Number of messages put into the inbox."""
    unread: int
    """Number of messages still in the inbox."""
    drops: Mapping[str, int]
    """Number of dropped messages, by cause."""


class Endpoint:
    """An rpmsg endpoint, made by `RpmsgBus.create`. See `drivers.contracts.ports.RpmsgEndpoint`."""

    def __init__(
        self, bus: EndpointBus, name: str, addr: int, dst: int, inbox: int, lossy: bool, announce: bool
    ) -> None:
        self._bus = bus
        self.name = name
        self.addr = addr
        self.dst = dst
        """Destination; ADDR_ANY while the endpoint is unbound."""
        self.fixed = dst != ADDR_ANY
        """Whether the program chose the destination; the other side cannot change it then."""
        self.announce = announce
        """Whether to announce the endpoint."""
        self.announced = False
        """Whether the endpoint was announced to the other side."""
        self.assigned_peer: int | None = None
        """Address of the remote endpoint to which the address service assigned this one."""
        self._inbox: deque[tuple[int, bytes]] = deque()
        self._room = inbox
        self._lossy = lossy
        self._blocking = False  # whether a received message waits for room in the inbox
        self._arrival = Signal()
        self._reading = False
        self._unbound = trio.lowlevel.ParkingLot()
        self._closed = False
        self._turn = 0
        self._sent = self._received = 0
        self._drops: Counter[str] = Counter()

    def __repr__(self) -> str:
        dst = "unbound" if self.dst == ADDR_ANY else f"bound to {self.dst}"
        return f"<rpmsg endpoint {self.name!r} at {self.addr}, {dst}>"

    @property
    def bound(self) -> bool:
        return self.dst != ADDR_ANY

    @property
    def max_payload(self) -> int:
        return self._bus.max_payload

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
        """Send to ``dst``, or to the bound endpoint. Raises as `drivers.contracts.ports.RpmsgEndpoint` does."""
        to, message = self._check(data, dst)
        if to == ADDR_ANY:
            raise NotBound(f"{self.name}: not bound to an endpoint of the other side")
        bus = self._bus
        # Senders that wait for a buffer go first.
        if bus.waiting or not bus.put(self.addr, to, message):
            raise NoBuffer(f"{self.name}: no free buffer")
        self._sent += 1

    async def send(self, data: Data, dst: int | None = None, *, timeout: float = SEND_TIMEOUT) -> None:
        """Like `send_nowait`, but wait up to ``timeout`` seconds until bound and for a buffer. Raises SendTimeout."""
        await trio.lowlevel.checkpoint_if_cancelled()
        to, message = self._check(data, dst)
        bus = self._bus
        if to == ADDR_ANY or bus.waiting or not bus.put(self.addr, to, message):
            await self._send(message, dst, timeout)
            return
        self._sent += 1
        self._turn = turn = self._turn + 1
        if not turn % PACE:
            # The message is sent: do not raise Cancelled now.
            await trio.lowlevel.cancel_shielded_checkpoint()

    async def _send(self, message: bytes, dst: int | None, timeout: float) -> None:
        bus = self._bus
        waited = False
        with trio.move_on_after(timeout):
            while True:
                to, _ = self._check(message, dst)  # max_payload may have changed with the device
                if to == ADDR_ANY:
                    bus.make_room()  # pass on this task's turn
                    await self._unbound.park()
                elif (waited or not bus.waiting) and bus.put(self.addr, to, message):
                    self._sent += 1
                    return
                else:
                    await bus.wait_room()
                    waited = True
        why = "no free buffer" if self.bound or dst is not None else "not bound to an endpoint of the other side"
        raise SendTimeout(f"{self.name}: {why} within {timeout:g} s")

    def _check(self, data: Data, dst: int | None) -> tuple[int, bytes]:
        message = bytes(data)  # no copy if data is bytes
        if len(message) > self._bus.max_payload:
            raise MessageTooLong(f"{self.name}: message of {len(message)} bytes: at most {self._bus.max_payload}")
        if self._closed:
            raise trio.ClosedResourceError
        if dst is not None and not 0 <= dst < ADDR_ANY:
            raise RpmsgError(f"{self.name}: {dst} is no endpoint address")
        return self.dst if dst is None else dst, message

    async def wait_bound(self) -> None:
        """Return when the endpoint is bound. Raises trio.ClosedResourceError."""
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
        """Return the sender's address and the next message. Raises as `receive` does."""
        self._turn = turn = self._turn + 1
        if self._inbox:  # else the wait below is a checkpoint
            if turn % PACE:
                await trio.lowlevel.checkpoint_if_cancelled()
            else:
                await trio.lowlevel.checkpoint()
        while not self._inbox:
            if self._closed:
                raise trio.ClosedResourceError
            if self._reading:
                raise trio.BusyResourceError(f"{self.name}: another task is receiving")
            self._reading = True
            try:
                await self._arrival.wait()
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
        if self._blocking and 2 * len(self._inbox) <= self._room:
            self._resume()
        return message

    def _resume(self) -> None:
        if self._blocking:
            self._blocking = False
            self._bus.resume()

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._bus.remove(self)
            self._bus.count_received(-sum(len(data) for _, data in self._inbox), -len(self._inbox))
            self._drop("unread", len(self._inbox))
            self._inbox.clear()
            self._resume()
            self._arrival.set()
            self._unbound.unpark_all()

    # Called by the bus and its directory.

    def take(self, src: int, data: bytes, /) -> bool:
        """Take a received message. Returns False if it has to wait, because the inbox is full and not lossy."""
        inbox = self._inbox
        if len(inbox) >= self._room:
            if self._lossy:
                self._drop("inbox_full")
                return True
            self._blocking = True
            return False
        if self.dst == ADDR_ANY and self._bus.is_endpoint_addr(src):
            self.bind(src)  # without name and address service, the first message binds
        inbox.append((src, data))
        self._received += 1
        self._bus.count_received(len(data))
        if self._reading:
            self._reading = False
            self._arrival.set()
        return True

    def bind(self, addr: int) -> None:
        """Send to ``addr`` from now on."""
        self.dst = addr
        self._unbound.unpark_all()

    def unbind(self) -> None:
        """Forget the remote endpoint, which is gone."""
        if not self.fixed:
            self.dst = ADDR_ANY
            self.assigned_peer = None

    def reset_binding(self) -> None:
        """Return to the state before any announcement, after a reset."""
        self.unbind()
        self.announced, self.assigned_peer, self._blocking = False, None, False

    def _drop(self, cause: str, count: int = 1) -> None:
        if count:
            self._drops[cause] += count
            self._bus.drop(cause, count)
