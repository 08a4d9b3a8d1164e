"""Names and addresses of both sides' endpoints, and their bindings: the name service and the address service."""

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

__all__ = ["MAX_ENDPOINTS", "Directory", "DirectoryBus", "Receiver"]

MAX_ENDPOINTS = 1024
"""Maximum number of endpoints of each side."""


class Receiver(Protocol):
    """The receiver at an address: an endpoint, or one of the two services."""

    def take(self, src: int, data: bytes, /) -> bool:
        """Take a received message. Returns False if it has to wait."""


class DirectoryBus(Protocol):
    """The bus, as its directory sees it."""

    @property
    def congested(self) -> bool:
        """Whether there are too many unsent messages to answer the other side."""

    def endpoint(self, addr: int, /) -> Endpoint | None:
        """Return this side's endpoint at the address, or None."""

    def send_service_message(self, src: int, service: int, message: bytes, /) -> None:
        """Send a message of a service from an endpoint's address."""

    def count_received(self, size: int, count: int = 1, /) -> None:
        """Count received messages, ``size`` bytes in all."""

    def drop(self, cause: str, count: int = 1, /) -> None:
        """Count dropped messages."""


@attrs.frozen
class Announced:
    """An announced endpoint of the other side."""

    name: str
    assign: bool
    """Whether it asked for the address of the endpoint bound to it."""


@attrs.frozen
class ServiceEndpoint:
    """One of the two services: handles its messages, and counts refused ones by cause."""

    bus: DirectoryBus
    handle: Callable[[bytes], str]
    """Handles a message; returns the cause of a refusal, or "". Raises Malformed."""

    def take(self, src: int, data: bytes, /) -> bool:
        try:
            cause = self.handle(data)
        except Malformed as exc:
            cause = exc.cause
        if cause:
            self.bus.drop(cause)
        else:
            self.bus.count_received(len(data))
        return True


class Directory:
    """Client and server of the name service and the address service, for one side."""

    def __init__(self, bus: DirectoryBus) -> None:
        self._bus = bus
        self._named: dict[str, dict[int, Endpoint]] = {}
        self._announced: dict[int, Announced] = {}
        self._online: frozenset[int] = frozenset()  # addresses of the negotiated services

    @property
    def online(self) -> frozenset[int]:
        """Addresses of the negotiated services."""
        return self._online

    @property
    def services(self) -> Mapping[int, str]:
        return {addr: announced.name for addr, announced in self._announced.items()}

    def start(self, features: int) -> Mapping[int, Receiver]:
        """Start with negotiated ``features``. Returns the receivers of the services, by address."""
        handlers = {NS_ADDR: self._name_message, AS_ADDR: self._address_message}
        served = {
            addr: ServiceEndpoint(self._bus, handlers[addr]) for addr, bit in SERVICES.items() if features >> bit & 1
        }
        self._online = frozenset(served)
        return served

    def introduce_all(self) -> None:
        """Bind or announce every endpoint, oldest first."""
        for endpoints in tuple(self._named.values()):
            for endpoint in tuple(endpoints.values()):
                self._introduce(endpoint)

    def stop(self) -> frozenset[int]:
        """Forget the other side. Returns the addresses of the services that ended."""
        ended, self._online = self._online, frozenset()
        self._announced.clear()
        for endpoints in self._named.values():
            for endpoint in endpoints.values():
                endpoint.reset_binding()
        return ended

    # This side's endpoints

    def add(self, endpoint: Endpoint) -> None:
        self._named.setdefault(endpoint.name, {})[endpoint.addr] = endpoint
        self._introduce(endpoint)

    def remove(self, endpoint: Endpoint) -> None:
        addr, name = endpoint.addr, endpoint.name
        del self._named[name][addr]
        if not self._named[name]:
            del self._named[name]
        if endpoint.assigned_peer is not None:
            self._send(AS_ADDR, endpoint, AddressMessage(name, addr, endpoint.assigned_peer, AsFlag.FREE))
        if endpoint.announced:
            self._send(NS_ADDR, endpoint, NameMessage(name, addr, NsFlag.DESTROY))

    def _introduce(self, endpoint: Endpoint) -> None:
        if NS_ADDR in self._online and not endpoint.fixed and not self._bind_any(endpoint):
            self._announce(endpoint)

    def _announce(self, endpoint: Endpoint) -> None:
        if endpoint.announce and not endpoint.announced:
            endpoint.announced = True
            flags = NsFlag.AS_ANNOUNCE if AS_ADDR in self._online else NsFlag(0)
            self._send(NS_ADDR, endpoint, NameMessage(endpoint.name, endpoint.addr, flags))

    def _send(self, service: int, endpoint: Endpoint, message: NameMessage | AddressMessage) -> None:
        self._bus.send_service_message(endpoint.addr, service, message.emit())

    # Binding

    def _own(self, name: str) -> Iterator[Endpoint]:
        return iter(tuple(self._named.get(name, {}).values()))

    def _bind_any(self, endpoint: Endpoint) -> bool:
        """Bind the endpoint to an announced, unbound endpoint of its name. Returns whether there was one."""
        taken = {own.dst for own in self._own(endpoint.name)}
        for addr, announced in self._announced.items():
            if announced.name == endpoint.name and addr not in taken:
                self._bind(endpoint, addr, announced)
                return True
        return False

    def _bind(self, endpoint: Endpoint, addr: int, announced: Announced) -> None:
        endpoint.bind(addr)
        if announced.assign:
            endpoint.assigned_peer = addr
            self._send(AS_ADDR, endpoint, AddressMessage(endpoint.name, endpoint.addr, addr, AsFlag.ASSIGN))
        else:
            self._announce(endpoint)

    # Messages from the other side

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
        if len(known) >= MAX_ENDPOINTS or self._bus.congested:
            return "ns_full"
        known[addr] = Announced(name, AS_ADDR in self._online and bool(message.flags & NsFlag.AS_ANNOUNCE))
        # An endpoint that an address message, or the first received message, has bound already is preferred.
        endpoints = [own for own in self._own(name) if own.dst in (ADDR_ANY, addr) and not own.fixed]
        if endpoints:
            self._bind(max(endpoints, key=lambda own: own.dst == addr), addr, known[addr])
        return ""

    def _address_message(self, data: bytes) -> str:
        message = AddressMessage.parse(data)
        endpoint = self._bus.endpoint(message.src)
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
