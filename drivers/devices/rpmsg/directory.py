"""Who is there: names and addresses of both sides' endpoints, and which of them belong together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

import attrs

from drivers.devices.rpmsg.endpoint import Endpoint
from drivers.devices.rpmsg.layout import (
    ADDR_ANY,
    AS_ADDR,
    NS_ADDR,
    SERVICES,
    AddressMessage,
    AsFlag,
    Malformed,
    NameMessage,
    NsFlag,
)

__all__ = ["MAX_ENDPOINTS", "Directory", "Exchange", "Receiver"]

MAX_ENDPOINTS = 1024
"""Of one side; the other side's are not believed to be more either."""


class Receiver(Protocol):
    """What has an address: an endpoint, or one of the two services."""

    def take(self, src: int, data: bytes, /) -> bool:
        """A message came in; False where it has to wait."""


class Exchange(Protocol):
    """What a directory is for."""

    @property
    def crowded(self) -> bool:
        """Whether so much waits to be sent that nothing is answered any more."""

    def endpoint(self, addr: int, /) -> Endpoint | None:
        """This side's endpoint with that address."""

    def tell(self, src: int, service: int, message: bytes, /) -> None:
        """Send a message of a service from an endpoint's address."""

    def count(self, size: int, count: int = 1, /) -> None:
        """A message of ``size`` bytes came in and was understood."""

    def drop(self, cause: str, count: int = 1, /) -> None:
        """Messages that came in were dropped."""


@attrs.frozen
class Announced:
    """An endpoint of the other side."""

    name: str
    assign: bool
    """Whether it wants to be told the address of the endpoint that is bound to it."""


@attrs.frozen
class ServiceEndpoint:
    """One of the two services: parses, acts, and counts what it refused under its cause."""

    exchange: Exchange
    act: Callable[[bytes], str]
    """Does what a message says; why it refuses to, or nothing. Raises Malformed."""

    def take(self, src: int, data: bytes, /) -> bool:
        try:
            refused = self.act(data)
        except Malformed as exc:
            refused = exc.cause
        if refused:
            self.exchange.drop(refused)
        else:
            self.exchange.count(len(data))
        return True


class Directory:
    """Name service and address service of one side, both as client and as server."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._named: dict[str, dict[int, Endpoint]] = {}
        self._announced: dict[int, Announced] = {}
        self._online: frozenset[int] = frozenset()  # the services that both sides have

    @property
    def online(self) -> frozenset[int]:
        """Addresses of the services that both sides agreed on."""
        return self._online

    @property
    def services(self) -> Mapping[int, str]:
        return {addr: announced.name for addr, announced in self._announced.items()}

    def start(self, features: int) -> Mapping[int, Receiver]:
        """Both sides run, with these features: the services there are, by address."""
        acts = {NS_ADDR: self._name_message, AS_ADDR: self._address_message}
        served = {
            addr: ServiceEndpoint(self._exchange, acts[addr]) for addr, bit in SERVICES.items() if features >> bit & 1
        }
        self._online = frozenset(served)
        return served

    def introduce_all(self) -> None:
        """Announce every endpoint there is, oldest first."""
        for endpoints in tuple(self._named.values()):
            for endpoint in tuple(endpoints.values()):
                self._introduce(endpoint)

    def stop(self) -> frozenset[int]:
        """The other side is gone, and all that it said; the addresses of services that are no more."""
        gone, self._online = self._online, frozenset()
        self._announced.clear()
        for endpoints in self._named.values():
            for endpoint in endpoints.values():
                endpoint.forget()
        return gone

    # This side's endpoints

    def add(self, endpoint: Endpoint) -> None:
        self._named.setdefault(endpoint.name, {})[endpoint.addr] = endpoint
        self._introduce(endpoint)

    def remove(self, endpoint: Endpoint) -> None:
        addr, name = endpoint.addr, endpoint.name
        del self._named[name][addr]
        if not self._named[name]:
            del self._named[name]
        if endpoint.told is not None:
            self._tell(AS_ADDR, endpoint, AddressMessage(name, addr, endpoint.told, AsFlag.FREE))
        if endpoint.announced:
            self._tell(NS_ADDR, endpoint, NameMessage(name, addr, NsFlag.DESTROY))

    def _introduce(self, endpoint: Endpoint) -> None:
        if NS_ADDR in self._online and not endpoint.fixed and not self._bind_any(endpoint):
            self._announce(endpoint)

    def _announce(self, endpoint: Endpoint) -> None:
        if endpoint.wants_announcing and not endpoint.announced:
            endpoint.announced = True
            flags = NsFlag.AS_ANNOUNCE if AS_ADDR in self._online else NsFlag(0)
            self._tell(NS_ADDR, endpoint, NameMessage(endpoint.name, endpoint.addr, flags))

    def _tell(self, service: int, endpoint: Endpoint, message: NameMessage | AddressMessage) -> None:
        self._exchange.tell(endpoint.addr, service, message.emit())

    # Which belong together

    def _own(self, name: str) -> Iterator[Endpoint]:
        return iter(tuple(self._named.get(name, {}).values()))

    def _bind_any(self, endpoint: Endpoint) -> bool:
        """Bind it to an endpoint of its name that was announced and that no other one is bound to."""
        taken = {own.dst for own in self._own(endpoint.name)}
        for addr, announced in self._announced.items():
            if announced.name == endpoint.name and addr not in taken:
                self._bind(endpoint, addr, announced)
                return True
        return False

    def _bind(self, endpoint: Endpoint, addr: int, announced: Announced) -> None:
        endpoint.bind(addr)
        if announced.assign:
            endpoint.told = addr
            self._tell(AS_ADDR, endpoint, AddressMessage(endpoint.name, endpoint.addr, addr, AsFlag.ASSIGN))
        else:
            self._announce(endpoint)

    # What the other side says

    def _name_message(self, data: bytes) -> str:
        message = NameMessage.parse(data, self._online)
        addr, name, known = message.addr, message.name, self._announced
        if message.flags & NsFlag.DESTROY:
            if addr not in known or known[addr].name != name:
                return "ns_unknown"
            del known[addr]
            for endpoint in self._own(name):
                if endpoint.dst == addr and not endpoint.fixed:
                    endpoint.unbind()
                    self._introduce(endpoint)
            return ""
        if addr in known:
            return "ns_duplicate"
        if len(known) >= MAX_ENDPOINTS or self._exchange.crowded:
            return "ns_full"
        known[addr] = Announced(name, AS_ADDR in self._online and bool(message.flags & NsFlag.AS_ANNOUNCE))
        # One that was bound already, by an address service message or by the first that came, is bound properly now.
        endpoints = [own for own in self._own(name) if own.dst in (ADDR_ANY, addr) and not own.fixed]
        if endpoints:
            self._bind(max(endpoints, key=lambda own: own.dst == addr), addr, known[addr])
        return ""

    def _address_message(self, data: bytes) -> str:
        message = AddressMessage.parse(data)
        endpoint = self._exchange.endpoint(message.src)
        if endpoint is None or endpoint.name != message.name or endpoint.fixed:
            return "as_unknown"
        if message.flag is AsFlag.FREE:
            if endpoint.dst != message.dst:
                return "as_unknown"
            endpoint.unbind()
        elif endpoint.dst in (ADDR_ANY, message.dst):
            endpoint.bind(message.dst)
        else:
            return "as_busy"
        return ""
