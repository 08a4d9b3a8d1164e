"""A host's ends of vhost-user sockets: connections to another program, or to a device of the same system."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing, suppress
from pathlib import Path

import trio

from drivers.bus.back import VIRTIO_VENDOR, Identity
from drivers.carriers.vhost_user import OwnConfig, SharedRegion, SocketBack
from drivers.contracts.ipc import FdSocket, Ipc
from drivers.errors import DriverError, TransportLost
from vnet.linux.ipc import FileHandle, UnixSocket, socket_pair
from vnet.linux.memory import HostMemory
from vnet.linux.unix_socket import connect_or_explain
from vnet.views.system import SocketView

__all__ = ["Junction", "SocketEnd", "dial"]


class SocketEnd:
    """`drivers.carriers.vhost_user.VhostUserSocket`: shares all of the host's memory with the back end."""

    vendor_id = VIRTIO_VENDOR

    def __init__(
        self,
        name: str,
        identity: Identity,
        queue_size: int,
        memory: HostMemory,
        ipc: Ipc,
        connect_to: Callable[[], Awaitable[FdSocket]],
        own_config: OwnConfig | None = None,
    ) -> None:
        """``connect_to`` returns a connection, or raises TransportLost."""
        self.name = name
        self.device_id = identity.device_id
        self.queue_size = queue_size
        self.ring_features = identity.ring_features
        self.own_config = own_config
        self.dma = memory
        self.ipc = ipc
        self.connections = 0
        self._connect = connect_to
        self._handle = FileHandle.copy(memory.fd)

    @property
    def regions(self) -> Sequence[SharedRegion]:
        return (SharedRegion(self.dma.base, self.dma.size, self._handle),)

    async def connect(self) -> FdSocket:
        socket = await self._connect()
        self.connections += 1
        return socket

    def close(self) -> None:
        """Close the memory's descriptor; a back end that mapped the memory keeps its mapping."""
        self._handle.close()

    def snapshot(self) -> SocketView:
        return SocketView(self.name, self.connections)


async def dial(path: Path, peer_uid: int | None, allow: str) -> FdSocket:
    """Connect to another program's back end (see `connect_or_explain`). Raises TransportLost."""
    return UnixSocket(connect_or_explain(path, peer_uid, allow, "back end"))


class Junction:
    """Connects front ends to a back end in the same process."""

    def __init__(self, back: SocketBack) -> None:
        self._back = back
        self._send_sockets, self._sockets = trio.open_memory_channel[FdSocket](1)

    async def dial(self) -> FdSocket:
        """Return a new connection to the back end. Raises TransportLost."""
        ours, theirs = socket_pair()
        try:
            self._send_sockets.send_nowait(theirs)
        except (trio.WouldBlock, trio.BrokenResourceError):
            ours.close()
            theirs.close()
            raise TransportLost("the back end accepts no further connection now") from None
        return ours

    async def serve(self) -> None:
        """Serve connections until cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                async for socket in self._sockets:
                    nursery.start_soon(self._converse, socket)
        finally:
            with suppress(trio.WouldBlock):
                self._sockets.receive_nowait().close()
            self._sockets.close()

    async def _converse(self, socket: FdSocket) -> None:
        with closing(socket), suppress(DriverError):  # the front end reports the end of its connection
            await self._back.wait_free()
            await self._back.serve_connection(socket)
