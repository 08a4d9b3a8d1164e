"""One side of an rpmsg device: its own endpoints, and the announced endpoints of the other side.

Both sides use this class. A bus and its endpoints outlive resets and link failures; a reset unbinds the endpoints, and
they are bound anew afterwards.

* A new endpoint is announced to the other side's name service (address 53), as soon as the device runs. It is bound to
  the first unbound endpoint of the same name that the other side announces, whichever side announced first. Several
  endpoints may share a name; they are bound in order.
* The side that binds an endpoint to an announced one reports its own address: to the address service (54) if both
  sides have it, else by an announcement. Without either service, the first received message binds.
* Every lost message is counted. `Endpoint.send` waits if the transport has no room. A received message for a full
  inbox stays in its buffer, so that the other side's senders wait in turn; messages behind it wait, too. An endpoint
  can be ``lossy`` instead: then only its own messages are dropped. A reset drops accepted unsent messages ("reset").
* Each side has at most 1024 endpoints; further ones are refused.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping
from typing import Protocol

import attrs
import trio

from drivers.contracts.liveness import Liveness
from drivers.devices.rpmsg.directory import MAX_ENDPOINTS, Directory, Receiver
from drivers.devices.rpmsg.endpoint import INBOX, Endpoint, EndpointStatistics
from drivers.devices.rpmsg.layout import (
    ADDR_ANY,
    AS_ADDR,
    DEFAULT_BUFFER,
    FIRST_DYNAMIC,
    HEADER_SIZE,
    NS_ADDR,
    check_name,
    is_endpoint_addr,
)
from drivers.errors import RpmsgError
from drivers.flow.figures import Traffic
from drivers.flow.pump import Signal

__all__ = ["RpmsgBus", "RpmsgStatistics", "Wire"]

CONGESTION = 4 * MAX_ENDPOINTS
"""Number of unsent messages above which nothing is announced or answered."""


class Wire(Protocol):
    """The transport of a running device."""

    def room(self) -> int:
        """Return the number of messages that may wait to be sent now. Never raises."""

    def push(self) -> None:
        """Send from `RpmsgBus.outbox`, now or soon. Never raises."""

    def request_room(self) -> None:
        """Call `RpmsgBus.make_room` as soon as there is room: a sender is about to wait for it."""


@attrs.frozen
class RpmsgStatistics:
    """Counters and state of a bus."""

    online: bool
    max_payload: int
    services: Mapping[int, str]
    """Names of the other side's endpoints, by address."""
    endpoints: tuple[EndpointStatistics, ...]
    unsent: int
    """Messages waiting to be sent."""
    resets: int
    """Number of times that the device went away."""


class RpmsgBus:
    """Endpoints of one side, and their messages to and from a `Wire`."""

    def __init__(self, reserved: Collection[int] = (), *, address_service: bool = True) -> None:
        """``reserved``: addresses that are never assigned dynamically.

        Without ``address_service``, that feature is never negotiated, and its address is available to endpoints.
        """
        self._service_addrs = frozenset({NS_ADDR, AS_ADDR} if address_service else {NS_ADDR})
        self._reserved = reserved
        self.received, self.sent = Traffic(), Traffic()
        self.outbox: deque[tuple[int, int, bytes]] = deque()
        """Source, destination and content of unsent messages, in order."""
        self.inbox_freed = Signal()
        """Set when a received message that had to wait may be delivered."""
        self.interactive = True
        """Whether a message was received, or the outbox was empty, since the last message sent in place."""
        self.max_payload = DEFAULT_BUFFER - HEADER_SIZE
        self.liveness = Liveness()
        """Whether the device runs."""
        self._wire: Wire | None = None
        self._credit = 0  # number of messages that `put` may accept without asking the wire
        self._table: dict[int, Receiver] = {}
        self._endpoints: dict[int, Endpoint] = {}
        self._directory = Directory(self)
        self._senders = trio.lowlevel.ParkingLot()
        self._next = FIRST_DYNAMIC
        self._resets = 0

    # For programs

    @property
    def online(self) -> bool:
        """Whether the device runs."""
        return self._wire is not None

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        return tuple(self._endpoints.values())

    @property
    def services(self) -> Mapping[int, str]:
        """Names of the endpoints that the other side announced, by address."""
        return self._directory.services

    def create(
        self,
        name: str,
        *,
        addr: int | None = None,
        dst: int | None = None,
        inbox: int = INBOX,
        lossy: bool = False,
        announce: bool = True,
    ) -> Endpoint:
        """Create an endpoint at ``addr``, or at a dynamic address, with room for ``inbox`` messages.

        With ``dst``, the endpoint always sends there, and is neither announced nor bound. Without ``announce``, it only
        waits to be bound. Raises RpmsgError.
        """
        check_name(name)
        if len(self._endpoints) >= MAX_ENDPOINTS:
            raise RpmsgError(f"{name}: there are {MAX_ENDPOINTS} endpoints already")
        if self.congested:
            raise RpmsgError(f"{name}: too many unsent messages to announce another endpoint")
        if inbox < 1:
            raise RpmsgError(f"{name}: inbox of {inbox} messages: must be at least 1")
        for address in (addr, dst):
            if address is not None and not is_endpoint_addr(address, self._service_addrs):
                raise RpmsgError(f"{name}: {address} is no endpoint address")
        if addr in self._endpoints:
            raise RpmsgError(f"{name}: {self._endpoints[addr].name} has address {addr}")
        addr = self._dynamic() if addr is None else addr
        endpoint = Endpoint(self, name, addr, ADDR_ANY if dst is None else dst, inbox, lossy, announce)
        self._table[addr] = self._endpoints[addr] = endpoint
        self._directory.add(endpoint)
        return endpoint

    def _dynamic(self) -> int:
        # Addresses are assigned in turn, so that a late message for a closed endpoint does not reach a new one.
        while self._next in self._endpoints or self._next in self._reserved:
            self._next = self._next + 1 if self._next + 1 < ADDR_ANY else FIRST_DYNAMIC
        addr = self._next
        self._next = addr + 1 if addr + 1 < ADDR_ANY else FIRST_DYNAMIC
        return addr

    def statistics(self) -> RpmsgStatistics:
        return RpmsgStatistics(
            online=self.online,
            max_payload=self.max_payload,
            services=self.services,
            endpoints=tuple(endpoint.statistics() for endpoint in self._endpoints.values()),
            unsent=len(self.outbox),
            resets=self._resets,
        )

    # EndpointBus

    @property
    def waiting(self) -> bool:
        return bool(self._senders)

    def is_endpoint_addr(self, addr: int, /) -> bool:
        """Return whether a remote endpoint can have this address, which no negotiated service uses."""
        return is_endpoint_addr(addr, self._directory.online)

    def put(self, src: int, dst: int, data: bytes, /) -> bool:
        if self._credit <= 0 and not self._refresh():
            return False
        self._credit -= 1
        self.outbox.append((src, dst, data))
        assert self._wire is not None
        self._wire.push()
        return True

    def _refresh(self) -> bool:
        self._credit = self._wire.room() - len(self.outbox) if self._wire is not None else 0
        return self._credit > 0

    async def wait_room(self) -> None:
        if self._wire is not None:
            self._wire.request_room()
        await self._senders.park()

    def resume(self) -> None:
        self.inbox_freed.set()

    def count_received(self, size: int, count: int = 1, /) -> None:
        self.received.packets += count
        self.received.bytes += size

    def drop(self, cause: str, count: int = 1, /) -> None:
        self.received.drop(cause, count)

    def remove(self, endpoint: Endpoint, /) -> None:
        del self._table[endpoint.addr], self._endpoints[endpoint.addr]
        self._directory.remove(endpoint)
        self._senders.unpark_all()  # a task may be sending from this endpoint

    # For driver and device

    def start(self, features: int, max_payload: int, wire: Wire) -> None:
        """Start with negotiated ``features``; ``wire`` takes messages of up to ``max_payload`` bytes."""
        self.max_payload, self._wire = max_payload, wire
        self._table.update(self._directory.start(features))
        self._directory.introduce_all()
        self._senders.unpark_all()
        self.liveness.set(True)

    def stop(self) -> None:
        """Forget the device. Does nothing if the bus is offline."""
        if self._wire is None:
            return
        self._wire = None
        self._credit = 0
        self._resets += 1
        self.sent.drop("reset", len(self.outbox))
        self.outbox.clear()
        for addr in self._directory.stop():
            self._table.pop(addr, None)
        self.liveness.set(False)

    def make_room(self) -> None:
        """Wake as many waiting senders as there is room for."""
        if self._senders and self._refresh():
            self._senders.unpark(count=self._credit)

    def deliver(self, src: int, dst: int, data: bytes) -> bool:
        """Deliver a received message. Returns False if it has to be delivered again after `inbox_freed`."""
        self.interactive = True
        receiver = self._table.get(dst)
        if receiver is None:
            self.received.drop("no_recipient")
            return True
        return receiver.take(src, data)

    # DirectoryBus

    @property
    def congested(self) -> bool:
        return len(self.outbox) >= CONGESTION

    def endpoint(self, addr: int, /) -> Endpoint | None:
        return self._endpoints.get(addr)

    def send_service_message(self, src: int, service: int, message: bytes, /) -> None:
        # Without a check for room: endpoints are few, and answers to the other side stop at congestion.
        self._credit -= 1
        self.outbox.append((src, service, message))
        assert self._wire is not None
        self._wire.push()
