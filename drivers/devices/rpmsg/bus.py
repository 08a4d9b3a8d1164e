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
from collections.abc import Iterator, Mapping
from typing import Protocol

import attrs
import trio

from drivers.devices.rpmsg.endpoint import INBOX, Endpoint, EndpointStatistics
from drivers.devices.rpmsg.layout import (
    ADDR_ANY,
    AS_ADDR,
    DEFAULT_BUFFER,
    FIRST_DYNAMIC,
    HEADER_SIZE,
    NS_ADDR,
    AddressMessage,
    AsFlag,
    Malformed,
    NameMessage,
    NsFlag,
    RpmsgFeature,
    check_name,
    is_peer_addr,
)
from drivers.errors import RpmsgError
from drivers.pump import Signal

__all__ = ["MAX_ENDPOINTS", "RpmsgBus", "RpmsgStatistics", "Traffic", "Wire"]

MAX_ENDPOINTS = 1024
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


class Receiver(Protocol):
    """What has an address: an endpoint, or one of the two services."""

    def take(self, src: int, data: bytes, /) -> bool:
        """A message came in; False where it has to wait."""


class Traffic:
    """Figures of one direction since the bus exists: in = out + dropped."""

    __slots__ = ("bytes", "drops", "packets")

    def __init__(self) -> None:
        self.packets = 0
        """Messages passed on, those of the services included."""
        self.bytes = 0
        """Bytes of these, without their headers."""
        self.drops: dict[str, int] = {}
        """Messages not passed on, by cause."""

    def drop(self, cause: str, count: int = 1) -> None:
        if count:
            self.drops[cause] = self.drops.get(cause, 0) + count


@attrs.frozen
class Service:
    """An endpoint that the other side announced."""

    name: str
    assign: bool
    """Whether it wants to be assigned the address of the endpoint that is bound to it."""


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

    def __init__(self) -> None:
        self.received, self.sent = Traffic(), Traffic()
        self.outbox: deque[tuple[int, int, bytes]] = deque()
        """Source, destination and content of what is to be sent, in order."""
        self.resumed = Signal()
        """Set when a message that had to wait may be delivered."""
        self.max_payload = DEFAULT_BUFFER - HEADER_SIZE
        self._features = 0
        self._wire: Wire | None = None
        self._credit = 0  # messages that may be put into the outbox without asking
        self._table: dict[int, Receiver] = {}
        self._endpoints: dict[int, Endpoint] = {}
        self._named: dict[str, dict[int, Endpoint]] = {}
        self._services: dict[int, Service] = {}
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
        return {addr: service.name for addr, service in self._services.items()}

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
        if len(self.outbox) >= CROWD:
            raise RpmsgError(f"{name}: too much waits to be sent, and it could not be announced")
        if inbox < 1:
            raise RpmsgError(f"{name}: an inbox of {inbox} messages")
        for given in (addr, dst):
            if given is not None and not (0 <= given and is_peer_addr(given) and given < ADDR_ANY):
                raise RpmsgError(f"{name}: {given} is no address of an endpoint")
        if addr in self._endpoints:
            raise RpmsgError(f"{name}: {self._endpoints[addr].name} has address {addr}")
        addr = self._dynamic() if addr is None else addr
        endpoint = Endpoint(self, name, addr, ADDR_ANY if dst is None else dst, inbox, lossy, announce)
        self._table[addr] = self._endpoints[addr] = endpoint
        self._named.setdefault(name, {})[addr] = endpoint
        if self.online:
            self._introduce(endpoint)
        return endpoint

    def _dynamic(self) -> int:
        # Addresses go round, so that a message for an endpoint that is gone does not find a new one.
        while self._next in self._endpoints:
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

    def count(self, size: int, /) -> None:
        self.received.packets += 1
        self.received.bytes += size

    def drop(self, cause: str, count: int = 1, /) -> None:
        self.received.drop(cause, count)

    def remove(self, endpoint: Endpoint, /) -> None:
        addr, name = endpoint.addr, endpoint.name
        del self._table[addr], self._endpoints[addr], self._named[name][addr]
        if not self._named[name]:
            del self._named[name]
        if self.online:
            if endpoint.told is not None:
                self._tell(AS_ADDR, endpoint, AddressMessage(name, addr, endpoint.told, AsFlag.FREE))
            if endpoint.announced:
                self._tell(NS_ADDR, endpoint, NameMessage(name, addr, NsFlag.DESTROY))
        self._senders.unpark_all()  # one of them may be sending from it

    # For the driver and the device

    def start(self, features: int, max_payload: int, wire: Wire) -> None:
        """The device runs: ``features`` were agreed on, ``wire`` takes messages of up to ``max_payload`` bytes."""
        self._features, self.max_payload, self._wire = features, max_payload, wire
        self._table.update((addr, SERVICES[addr](self)) for bit, addr in BEHIND.items() if features >> bit & 1)
        for endpoint in self.endpoints:
            self._introduce(endpoint)
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
        self._services.clear()
        for addr in SERVICES:
            self._table.pop(addr, None)
        for endpoint in self._endpoints.values():
            endpoint.forget()

    def make_room(self) -> None:
        """Messages left, or buffers came back: wake as many as may send now."""
        if self._senders and self._refresh():
            self._senders.unpark(count=self._credit)

    def deliver(self, src: int, dst: int, data: bytes) -> bool:
        """A message came in; False where it has to wait for `resumed`, and then be delivered anew."""
        receiver = self._table.get(dst)
        if receiver is None:
            self.received.drop("no_recipient")
            return True
        return receiver.take(src, data)

    # For the services

    def endpoint(self, addr: int) -> Endpoint | None:
        return self._endpoints.get(addr)

    def named(self, name: str) -> Iterator[Endpoint]:
        """The endpoints of that name, oldest first."""
        return iter(tuple(self._named.get(name, {}).values()))

    def announce(self, addr: int, service: Service) -> str:
        """The other side announced an endpoint; why it is refused, or nothing."""
        if addr in self._services:
            return "ns_duplicate"
        if len(self._services) >= MAX_ENDPOINTS or len(self.outbox) >= CROWD:
            return "ns_full"
        self._services[addr] = service
        endpoint = next((e for e in self.named(service.name) if not e.bound), None)
        if endpoint is not None:
            self._claim(endpoint, addr, service)
        return ""

    def withdraw(self, addr: int, name: str) -> str:
        """The other side took one away; why that can't be, or nothing."""
        if addr not in self._services or self._services[addr].name != name:
            return "ns_unknown"
        del self._services[addr]
        for endpoint in self.named(name):
            if endpoint.dst == addr and not endpoint.fixed:
                endpoint.unbind()
                self._claim_any(endpoint)
        return ""

    @property
    def assigns(self) -> bool:
        """Whether both sides have the address service."""
        return bool(self._features >> RpmsgFeature.AS & 1)

    def _introduce(self, endpoint: Endpoint) -> None:
        if NS_ADDR not in self._table or endpoint.fixed or self._claim_any(endpoint):
            return
        if endpoint.wants_announcing:
            self._announce(endpoint)

    def _claim_any(self, endpoint: Endpoint) -> bool:
        """Bind it to an endpoint of its name that was announced and that no other one is bound to."""
        taken = {e.dst for e in self.named(endpoint.name)}
        for addr, service in self._services.items():
            if service.name == endpoint.name and addr not in taken:
                self._claim(endpoint, addr, service)
                return True
        return False

    def _claim(self, endpoint: Endpoint, addr: int, service: Service) -> None:
        endpoint.bind(addr)
        if service.assign:
            endpoint.told = addr
            self._tell(AS_ADDR, endpoint, AddressMessage(endpoint.name, endpoint.addr, addr, AsFlag.ASSIGN))
        elif endpoint.wants_announcing and not endpoint.announced:
            self._announce(endpoint)

    def _announce(self, endpoint: Endpoint) -> None:
        endpoint.announced = True
        flags = NsFlag.AS_ANNOUNCE if self.assigns else NsFlag(0)
        self._tell(NS_ADDR, endpoint, NameMessage(endpoint.name, endpoint.addr, flags))

    def _tell(self, service: int, endpoint: Endpoint, message: NameMessage | AddressMessage) -> None:
        # No room is asked for: endpoints are few, and what is sent in answer to the other side ends at CROWD.
        self._credit -= 1
        self.outbox.append((endpoint.addr, service, message.emit()))
        assert self._wire is not None
        self._wire.push()


class NameService:
    """Address 53: the other side's endpoints come and go."""

    def __init__(self, bus: RpmsgBus) -> None:
        self._bus = bus

    def take(self, src: int, data: bytes, /) -> bool:
        bus = self._bus
        try:
            message = NameMessage.parse(data)
        except Malformed as exc:
            refused = exc.cause
        else:
            if message.flags & NsFlag.DESTROY:
                refused = bus.withdraw(message.addr, message.name)
            else:
                assign = bus.assigns and bool(message.flags & NsFlag.AS_ANNOUNCE)
                refused = bus.announce(message.addr, Service(message.name, assign))
        _judge(bus, refused, data)
        return True


class AddressService:
    """Address 54: the other side says which of its endpoints was bound to one of ours, and when no more."""

    def __init__(self, bus: RpmsgBus) -> None:
        self._bus = bus

    def take(self, src: int, data: bytes, /) -> bool:
        try:
            refused = self._refuse(AddressMessage.parse(data))
        except Malformed as exc:
            refused = exc.cause
        _judge(self._bus, refused, data)
        return True

    def _refuse(self, message: AddressMessage) -> str:
        endpoint = self._bus.endpoint(message.src)
        if endpoint is None or endpoint.name != message.name or endpoint.fixed:
            return "as_unknown"
        if message.flag is AsFlag.FREE:
            if endpoint.dst != message.dst:
                return "as_unknown"
            endpoint.unbind()
        elif endpoint.dst not in (ADDR_ANY, message.dst):
            return "as_busy"
        else:
            endpoint.bind(message.dst)
        return ""


def _judge(bus: RpmsgBus, refused: str, data: bytes) -> None:
    if refused:
        bus.drop(refused)
    else:
        bus.count(len(data))


SERVICES: Mapping[int, type[NameService] | type[AddressService]] = {NS_ADDR: NameService, AS_ADDR: AddressService}
BEHIND = {RpmsgFeature.NS: NS_ADDR, RpmsgFeature.AS: AS_ADDR}
"""The feature that each service belongs to."""
