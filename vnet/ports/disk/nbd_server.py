"""NBD server: exports a disk on a unix socket to several clients."""

from __future__ import annotations

import socket
from contextlib import suppress
from pathlib import Path

import trio

from drivers.devices.blk import Disk
from vnet.linux.unix_socket import Acceptor, listen
from vnet.nbd import Export, Handshake, NbdProtocolError, TransmissionFlag
from vnet.ports.disk.nbd_connection import BLOCK_MAX, Connection
from vnet.views.blk import NbdStatistics

__all__ = ["NbdServer"]

BACKLOG = 64
CLIENTS_MAX = 64
SEND_BUFFER = 4 << 20
SO_SNDBUFFORCE = 32
PREFERRED_MIN = 4096
"""Smallest preferred block size, in bytes."""


class NbdServer:
    """Serves one disk to several clients, each with its own limits."""

    def __init__(self, disk: Disk, name: str) -> None:
        """``name`` is the export's name; clients that request an empty name get this export, too."""
        self.disk = disk
        self.name = name
        self.statistics = NbdStatistics()

    async def serve(self, path: Path, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Listen at ``path`` until cancelled. Raises OSError if another program listens there already."""
        with listen(path, socket.SOCK_STREAM, BACKLOG) as listening:
            async with trio.open_nursery() as nursery:
                acceptor = Acceptor(listening)
                task_status.started()
                while True:
                    client = await acceptor.accept()
                    if self.statistics.clients >= CLIENTS_MAX:
                        self.statistics.refused += 1
                        client.close()
                    else:
                        nursery.start_soon(self._converse, client)

    async def _converse(self, client: socket.socket) -> None:
        self.statistics.clients += 1
        self.statistics.connections += 1
        with client:
            for option in (SO_SNDBUFFORCE, socket.SO_SNDBUF):  # the first one needs a right; without both, it is slower
                with suppress(OSError):
                    client.setsockopt(socket.SOL_SOCKET, option, SEND_BUFFER)
                    break
            try:
                await Connection(client, self.disk, Handshake(self.name, self.export), self.statistics).run()
            except* (OSError, NbdProtocolError):
                pass  # the client disconnected or violated the protocol: other clients are not affected
            finally:
                self.statistics.clients -= 1

    def export(self) -> Export:
        """Return the disk's current properties."""
        geometry = self.disk.geometry
        assert geometry is not None
        offered = {
            TransmissionFlag.READ_ONLY: geometry.read_only,
            TransmissionFlag.SEND_FLUSH: True,
            TransmissionFlag.SEND_FUA: True,
            TransmissionFlag.SEND_TRIM: bool(geometry.discard_max) and not geometry.read_only,
            TransmissionFlag.SEND_WRITE_ZEROES: not geometry.read_only,
            # All connections share one device: a flush of one client covers writes of all.
            TransmissionFlag.CAN_MULTI_CONN: True,
        }
        flags = TransmissionFlag.HAS_FLAGS
        for flag, supported in offered.items():
            flags |= flag if supported else TransmissionFlag(0)
        return Export(
            self.name,
            geometry.size,
            flags,
            "virtio-blk disk",
            geometry.block_size,
            # At least the size of one request to the device, so that clients need the fewest requests.
            power_of_two(max(geometry.preferred, self.disk.transfer_max, PREFERRED_MIN), BLOCK_MAX),
            BLOCK_MAX,
        )


def power_of_two(size: int, limit: int) -> int:
    """Return the largest power of two up to ``size`` and ``limit``: NBD block sizes are powers of two."""
    return 1 << min(size, limit).bit_length() - 1
