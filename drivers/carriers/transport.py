"""Transports, a class for each kind of carrier: where the front half goes, and how the back half gets its carrier."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, Concatenate, Protocol, TypeVar

import attrs

from drivers.bus.back import Identity, VhostBack
from drivers.bus.model import MatchId
from drivers.carriers.ntb import NtbBus, NtbClient
from drivers.carriers.options import BackEndSocket, SocketOptions, TransportOptions
from drivers.carriers.pci import PciBus, VirtioPciDriver
from drivers.carriers.platform import PlatformBus, VirtioPlatformDriver
from drivers.carriers.vhost_user import SocketBack, VhostUserBus, VhostUserClient
from drivers.contracts.hw import Epc, PlatformSlot
from drivers.contracts.ipc import Ipc

__all__ = [
    "CarrierHost",
    "DoorbellRange",
    "LinkTransport",
    "NtbTransport",
    "PlatformTransport",
    "Site",
    "SocketTransport",
    "Transport",
]

P = TypeVar("P")
P_co = TypeVar("P_co", covariant=True)


class CarrierHost(Protocol):
    """A host, as transports install their front halves on it: its buses of carriers."""

    @property
    def pci(self) -> PciBus: ...

    @property
    def platform_bus(self) -> PlatformBus: ...

    @property
    def ntb(self) -> NtbBus: ...

    @property
    def vhost_user(self) -> VhostUserBus: ...


class Site(Protocol[P_co]):
    """The place of one device in a system.

    Each method makes the device's half on a carrier of one kind, and returns the system's record of the place.
    """

    def on_link(self, make: Callable[[Epc, int], VhostBack]) -> P_co:
        """Call ``make`` with the endpoint controller and the number of the function."""

    def on_ntb(self, make: Callable[[NtbBus, str], VhostBack]) -> P_co:
        """Call ``make`` with the NTB bus of the device's host and the name of the NTB."""

    def on_platform(self, match_id: MatchId, make: Callable[[PlatformSlot], VhostBack]) -> P_co:
        """Call ``make`` with a new slot of the platform bus that has the firmware id ``match_id``."""

    def on_socket(self, peer: BackEndSocket | None, make: Callable[[Ipc], SocketBack]) -> P_co:
        """Call ``make`` with the means to share memory, unless the device is in the process at ``peer``."""


@attrs.frozen
class DoorbellRange:
    """Registers whose writes notify the device, at offsets from ``start`` to before ``end`` in a BAR.

    A platform device has one region, which is BAR 0.
    """

    bar: int
    start: int
    end: int
    step: int = 0
    """Bytes between the registers of two queues, whose values do not matter; 0: one register for all queues, whose
    value tells them apart."""
    size: int = 2
    """Bytes of a write."""

    def covers(self, bar: int, offset: int) -> bool:
        """Return whether a register there is one of them."""
        return self.bar == bar and self.start <= offset < self.end

    def queue(self, offset: int, value: int) -> int:
        """Return the number of the queue that a write of ``value`` at ``offset`` in the BAR is for."""
        return (offset - self.start) // self.step if self.step else value & 0xFFFF


def _unnamed(bar: int, offset: int) -> str | None:
    """Return None: no register has a name."""
    return None


@attrs.frozen(kw_only=True)
class Transport(ABC):
    """A transport: its two halves, its limits, and its options."""

    on: ClassVar[str]
    """Key of a topology's device that names the carrier, such as "link"."""
    queues: int | None = None
    """Maximum number of queues of a device; None: unlimited."""
    options: type[TransportOptions] = TransportOptions
    """Record of the keys of a topology's device for this transport alone; the back half gets them as keywords.

    The front half gets none: it reads what it needs from its carrier.
    """
    register_name: Callable[[int, int], str | None] = _unnamed
    """Returns the name of the register at a BAR and offset, for people; None if it has none."""
    doorbells: tuple[DoorbellRange, ...] = ()
    extra_features: int = 0
    """Feature bits that its devices can offer besides those of rings."""

    @abstractmethod
    def install(self, host: CarrierHost) -> None:
        """Register the front half on the right bus of a host."""

    @abstractmethod
    def place(self, site: Site[P], identity: Identity, options: TransportOptions) -> P:
        """Make the back half of a device on its carrier. Returns the result of ``site``."""

    def is_notify(self, bar: int, offset: int) -> bool:
        """Return whether a write there notifies the device of buffers, so that it may be lost and repeated."""
        return any(bells.covers(bar, offset) for bells in self.doorbells)

    def notified_queue(self, bar: int, offset: int, value: int) -> int | None:
        """Return the number of the queue that a write of ``value`` there notifies the device of; None if of none."""
        return next((bells.queue(offset, value) for bells in self.doorbells if bells.covers(bar, offset)), None)


def _keywords(options: TransportOptions) -> dict[str, object]:
    return attrs.asdict(options, recurse=False)


SOCKET_KEYS = frozenset(field.name for field in attrs.fields(SocketOptions))
"""Options that say where the device is, which concern no back half."""


@attrs.frozen
class LinkTransport(Transport):
    """A transport between a root complex and an endpoint function at the other end of a link."""

    on: ClassVar[str] = "link"
    front: VirtioPciDriver
    back: Callable[Concatenate[Epc, int, Identity, ...], VhostBack]

    def install(self, host: CarrierHost) -> None:
        host.pci.register_driver(self.front)

    def place(self, site: Site[P], identity: Identity, options: TransportOptions) -> P:
        return site.on_link(lambda epc, function: self.back(epc, function, identity, **_keywords(options)))


@attrs.frozen
class NtbTransport(Transport):
    """A transport between two hosts joined by an NTB."""

    on: ClassVar[str] = "ntb"
    front: NtbClient
    back: Callable[Concatenate[NtbBus, str, Identity, ...], VhostBack]

    def install(self, host: CarrierHost) -> None:
        host.ntb.register_driver(self.front)

    def place(self, site: Site[P], identity: Identity, options: TransportOptions) -> P:
        return site.on_ntb(lambda bus, name: self.back(bus, name, identity, **_keywords(options)))


@attrs.frozen
class PlatformTransport(Transport):
    """A transport within one host, in a slot of its platform bus with the first id that the front half matches."""

    on: ClassVar[str] = "host"
    front: VirtioPlatformDriver
    back: Callable[Concatenate[PlatformSlot, Identity, ...], VhostBack]

    def install(self, host: CarrierHost) -> None:
        host.platform_bus.register_driver(self.front)

    def place(self, site: Site[P], identity: Identity, options: TransportOptions) -> P:
        match_id = self.front.id_table[0]
        return site.on_platform(match_id, lambda slot: self.back(slot, identity, **_keywords(options)))


@attrs.frozen
class SocketTransport(Transport):
    """A transport over a unix socket, whose device may be in another process.

    Its options derive from `SocketOptions`; the back half gets those that are not in that record.
    """

    on: ClassVar[str] = "host"
    front: VhostUserClient
    back: Callable[Concatenate[Ipc, Identity, ...], SocketBack]

    def install(self, host: CarrierHost) -> None:
        host.vhost_user.register_driver(self.front)

    def place(self, site: Site[P], identity: Identity, options: TransportOptions) -> P:
        own = {key: value for key, value in _keywords(options).items() if key not in SOCKET_KEYS}
        return site.on_socket(options.peer, lambda ipc: self.back(ipc, identity, **own))
