"""The bus of vhost-user sockets, whose devices are other processes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

import attrs

from drivers.bus.back import VhostBack
from drivers.bus.binding import Binding
from drivers.bus.model import MatchId
from drivers.bus.virtio import VirtioBus
from drivers.carriers.base import CarrierBus
from drivers.contracts.hw import DmaMemory
from drivers.contracts.ipc import FdSocket, Handle, Ipc
from rings.ids import ANY_ID

__all__ = [
    "FrontEndNet",
    "OwnConfig",
    "SharedRegion",
    "SocketBack",
    "VhostUserBus",
    "VhostUserClient",
    "VhostUserSocket",
]


@attrs.frozen
class SharedRegion:
    """A region of this host's memory, and the file by which another process maps it."""

    addr: int
    """Address in this host."""
    size: int
    """Bytes."""
    handle: Handle
    """File of the memory, sealed against shrinking and owned by the host."""
    offset: int = 0
    """Offset of the region in the file, in bytes."""


@attrs.frozen
class OwnConfig:
    """Configuration from the topology, for back ends without a configuration space (DPDK net)."""

    features: int
    """Feature bits that the front end offers itself."""
    overrides: int
    """Feature bits decided by the front end alone; it ignores the back end's."""
    data: bytes
    """The configuration fields, which never change."""
    mtu: int | None = None
    """The MTU in these fields, to send to back ends that support it."""


class VhostUserSocket(Protocol):
    """The driver's end of a vhost-user socket, even while no back end listens at the other.

    The protocol transmits neither the device type nor the maximum ring size, so the topology states both.
    """

    name: str

    @property
    def device_id(self) -> int:
        """Virtio device id."""

    @property
    def vendor_id(self) -> int: ...

    @property
    def queue_size(self) -> int:
        """Maximum ring size in descriptors, a power of two."""

    @property
    def own_config(self) -> OwnConfig | None:
        """Configuration to use if the back end has none; None if the device type needs the back end's."""

    @property
    def ring_features(self) -> int:
        """Ring feature bits that may be used."""

    @property
    def dma(self) -> DmaMemory: ...

    @property
    def regions(self) -> Sequence[SharedRegion]:
        """All memory of `dma`."""

    @property
    def ipc(self) -> Ipc: ...

    async def connect(self) -> FdSocket:
        """Return a new connection to the back end. Raises TransportLost if none listens; try again later."""


@attrs.frozen
class VhostUserClient:
    """A driver that makes a virtio device of every vhost-user socket."""

    name: str
    serve: Callable[[VhostUserSocket, VirtioBus, Callable[[str], None]], Awaitable[None]]
    """Runs the front end of a socket until cancelled. Calls its last argument with the reason why there is no back end,
    and with "" once there is one."""
    id_table: Sequence[MatchId] = (MatchId(ANY_ID),)

    async def attach(self, binding: Binding[VhostUserSocket, Any], carrier: VhostUserSocket, virtio: VirtioBus) -> None:
        binding.bound()
        await self.serve(carrier, virtio, binding.note)


class FrontEndNet(ABC):
    """A network device, as a vhost-user front end uses it on behalf of its driver.

    The protocol has messages for network devices alone; a bound device that is none of these serves no such message.
    """

    @property
    @abstractmethod
    def has_mtu(self) -> bool:
        """Whether the device offers an MTU."""

    @abstractmethod
    def send_rarp(self, mac: bytes) -> None:
        """Announce a station with this address to the network."""

    @abstractmethod
    def take_mtu(self, mtu: int | None) -> None:
        """Adopt the MTU that the front end shows to its driver, or, with None, the device's own again.

        Raises ValueError with the reason if frames of that size cannot pass.
        """


class SocketBack(VhostBack):
    """The device's half over a unix socket."""

    @abstractmethod
    async def wait_free(self) -> None:
        """Wait until a front end that has hung up is let go."""

    @abstractmethod
    async def serve_connection(self, socket: FdSocket) -> None:
        """Serve one front end until it disconnects, and close the socket. Raises DriverError."""


class VhostUserBus(CarrierBus[VhostUserSocket]):
    """The bus of a host's vhost-user sockets."""

    prefix = "user"
