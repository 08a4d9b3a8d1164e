"""One side of an rpmsg device, whatever carries it: its endpoints, and what it knows of those of the other side.

The same on both sides, and for as long as the program wants: devices are reset and links go, endpoints stay. What
they were bound to is forgotten then, and found out again.

* An endpoint that is created is announced to the other side's name service (address 53) and, before the device runs,
  as soon as it does. It is bound to the first endpoint of the same name that the other side announces, whichever came
  first; names may be used many times, and are then bound in order.
* Whoever binds an endpoint to one that was announced tells its own address: to the address service (54) where both
  sides have it, else by announcing it as well. Without either, the first message that comes binds.
* Nothing is lost without being counted. What can't be sent yet waits where `Endpoint.send` waits. What comes in for
  an inbox that is full stays in its buffer, which the other side does not get back: its senders wait in turn, at the
  price that everything behind it waits, too. An endpoint that nobody may be reading can be ``lossy`` instead: then
  only its own messages are dropped. A reset drops what was accepted and not sent ("reset").
* There are at most 1024 endpoints, and as many of the other side are known; further ones are refused.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping
from typing import Protocol

import attrs
import trio

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

CROWD = 4 * MAX_ENDPOINTS
"""Messages that wait to be sent, from which on nothing is announced or answered any more."""


class Wire(Protocol):
    """What carries messages to the other side while the device runs."""

    def room(self) -> int:
        """How many messages may wait to be sent now. Never raises."""

    def push(self) -> None:
        """There is something in `RpmsgBus.outbox`. Never raises."""

    def starve(self) -> None:
        """Somebody is about to wait for room: say so through `RpmsgBus.make_room`."""


@attrs.frozen
class RpmsgStatistics:
    """Figures of a bus."""

    online: bool
    max_payload: int
    services: Mapping[int, str]
    """Names of the other side's endpoints, by address."""
    endpoints: tuple[EndpointStatistics, ...]
    unsent: int
    """Messages that wait to be sent."""
    resets: int
    """Times the device went away."""


class RpmsgBus:
    """Endpoints of one side, and the messages between them and a `Wire`."""

    def __init__(self, given: Collection[int] = (), *, address_service: bool = True) -> None:
        """``given`` addresses go to endpoints that ask for them only.

        Without ``address_service``, which is then never agreed on, its address is one like any other.
        """
        self._reserved = frozenset({NS_ADDR, AS_ADDR} if address_service else {NS_ADDR})
        self._given = given
        self.received, self.sent = Traffic(), Traffic()
        self.outbox: deque[tuple[int, int, bytes]] = deque()
        """Source, destination and content of what is to be sent, in order."""
        self.resumed = Signal()
        """Set when a message that had to wait may be delivered."""
        self.heard = True
        """Whether anything came in, or all was sent, since somebody last sent."""
        self.max_payload = DEFAULT_BUFFER - HEADER_SIZE
        self._wire: Wire | None = None
        self._credit = 0  # messages that may be put into the outbox without asking
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
        """The names of the endpoints that the other side announced, by address."""
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
        """A new endpoint, at ``addr`` or at a dynamic address, with room for ``inbox`` messages.

        With ``dst`` it sends there for good, and is neither announced nor bound. Without ``announce`` it only waits
        to be bound. Raises RpmsgError.
        """
        check_name(name)
        if len(self._endpoints) >= MAX_ENDPOINTS:
            raise RpmsgError(f"{name}: there are {MAX_ENDPOINTS} endpoints already")
        if self.crowded:
            raise RpmsgError(f"{name}: too much waits to be sent, and it could not be announced")
        if inbox < 1:
            raise RpmsgError(f"{name}: an inbox of {inbox} messages")
        for given in (addr, dst):
            if given is not None and not is_endpoint_addr(given, self._reserved):
                raise RpmsgError(f"{name}: {given} is no address of an endpoint")
        if addr in self._endpoints:
            raise RpmsgError(f"{name}: {self._endpoints[addr].name} has address {addr}")
        addr = self._dynamic() if addr is None else addr
        endpoint = Endpoint(self, name, addr, ADDR_ANY if dst is None else dst, inbox, lossy, announce)
        self._table[addr] = self._endpoints[addr] = endpoint
        self._directory.add(endpoint)
        return endpoint

    def _dynamic(self) -> int:
        # Addresses go round, so that a message for an endpoint that is gone does not find a new one.
        while self._next in self._endpoints or self._next in self._given:
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

    # For endpoints (`Hub`)

    @property
    def waiting(self) -> bool:
        return bool(self._senders)

    def is_endpoint_addr(self, addr: int, /) -> bool:
        """Whether an endpoint of the other side can have this address: no service that was agreed on has it."""
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
            self._wire.starve()
        await self._senders.park()

    def resume(self) -> None:
        self.resumed.set()

    def count(self, size: int, count: int = 1, /) -> None:
        self.received.packets += count
        self.received.bytes += size

    def drop(self, cause: str, count: int = 1, /) -> None:
        self.received.drop(cause, count)

    def remove(self, endpoint: Endpoint, /) -> None:
        del self._table[endpoint.addr], self._endpoints[endpoint.addr]
        self._directory.remove(endpoint)
        self._senders.unpark_all()  # one of them may be sending from it

    # For the driver and the device

    def start(self, features: int, max_payload: int, wire: Wire) -> None:
        """The device runs: ``features`` were agreed on, ``wire`` takes messages of up to ``max_payload`` bytes."""
        self.max_payload, self._wire = max_payload, wire
        self._table.update(self._directory.start(features))
        self._directory.introduce_all()
        self._senders.unpark_all()

    def stop(self) -> None:
        """The device is gone. Harmless where it was not there."""
        if self._wire is None:
            return
        self._wire = None
        self._credit = 0
        self._resets += 1
        self.sent.drop("reset", len(self.outbox))
        self.outbox.clear()
        for addr in self._directory.stop():
            self._table.pop(addr, None)

    def make_room(self) -> None:
        """Messages left, or buffers came back: wake as many as may send now."""
        if self._senders and self._refresh():
            self._senders.unpark(count=self._credit)

    def deliver(self, src: int, dst: int, data: bytes) -> bool:
        """A message came in; False where it has to wait for `resumed`, and then be delivered anew."""
        self.heard = True
        receiver = self._table.get(dst)
        if receiver is None:
            self.received.drop("no_recipient")
            return True
        return receiver.take(src, data)

    # For the directory (`Exchange`)

    @property
    def crowded(self) -> bool:
        return len(self.outbox) >= CROWD

    def endpoint(self, addr: int, /) -> Endpoint | None:
        return self._endpoints.get(addr)

    def tell(self, src: int, service: int, message: bytes, /) -> None:
        # No room is asked for: endpoints are few, and what answers the other side ends where it is crowded.
        self._credit -= 1
        self.outbox.append((src, service, message))
        assert self._wire is not None
        self._wire.push()
