"""The bus of devices that other processes are: what is behind a vhost-user socket."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Protocol

import attrs

from drivers.bus.model import Binding, BindState, MatchId
from drivers.bus.virtio import VirtioBus
from drivers.carriers.base import CarrierBus
from drivers.contracts.hw import DmaMemory
from drivers.contracts.ipc import FdSocket, Handle, Ipc
from rings.ids import ANY_ID

__all__ = ["OwnConfig", "SharedRegion", "UserBus", "UserClient", "UserSocket"]


@attrs.frozen
class SharedRegion:
    """Memory of this host, and the file that another process maps to reach it."""

    addr: int
    """As this host's drivers and devices call it."""
    size: int
    """Bytes."""
    handle: Handle
    """Of memory sealed against shrinking; it stays the host's."""
    offset: int = 0
    """Where it starts in the file."""


@attrs.frozen
class OwnConfig:
    """What is said here of a device whose back end has no configuration space, such as a network device of DPDK."""

    features: int
    """The bits that this side offers for itself."""
    overrides: int
    """The bits that are this side's to offer: what the back end says of them counts for nothing."""
    data: bytes
    """The fields themselves, which never change."""
    mtu: int | None = None
    """The MTU among them, of which a back end that can be told has to know."""


class UserSocket(Protocol):
    """The driver's end of a vhost-user socket, whether anybody is at the other or not.

    The protocol says neither what a device is nor how large its rings may be: whoever knows the device has to.
    """

    name: str

    @property
    def device_id(self) -> int:
        """Virtio device id."""

    @property
    def vendor_id(self) -> int: ...

    @property
    def queue_size(self) -> int:
        """Descriptors of its rings, a power of two."""

    @property
    def own_config(self) -> OwnConfig | None:
        """None where a device without a configuration space is none."""

    @property
    def ring_features(self) -> int:
        """The ring features that may be used."""

    @property
    def dma(self) -> DmaMemory: ...

    @property
    def regions(self) -> Sequence[SharedRegion]:
        """All that is behind `dma`."""

    @property
    def ipc(self) -> Ipc: ...

    async def connect(self) -> FdSocket:
        """A new connection to the back end. Raises TransportLost where nobody listens, to be tried again later."""


@attrs.frozen
class UserClient:
    """Makes a virtio device of every such socket."""

    name: str
    serve: Callable[[UserSocket, VirtioBus, Callable[[str], None]], Awaitable[None]]
    """Be its front end until cancelled. The last argument is told why there is no back end, "" once there is one."""
    id_table: Sequence[MatchId] = (MatchId(ANY_ID),)

    async def attach(self, binding: Binding[UserSocket, Any], carrier: UserSocket, virtio: VirtioBus) -> None:
        binding.state = BindState.BOUND
        await self.serve(carrier, virtio, partial(setattr, binding, "error"))


class UserBus(CarrierBus[UserSocket]):
    """The sockets of one host."""

    prefix = "user"
