"""A disk as an NBD export on a unix socket, for any number of clients."""

from __future__ import annotations

import socket
from pathlib import Path

import trio

from drivers.devices.blk import Disk
from vnet.linux.unix_socket import accept, listen
from vnet.nbd import Export, Handshake, NbdProtocolError, TransmissionFlag
from vnet.ports.disk.nbd_connection import BLOCK_MAX, Connection, NbdStatistics

__all__ = ["NbdServer", "NbdStatistics"]

BACKLOG = 64
CLIENTS_MAX = 64
SEND_BUFFER = 4 << 20
SO_SNDBUFFORCE = 32
PREFERRED_MIN = 4096
"""Bytes of the smallest block size that is preferred."""


class NbdServer:
    """Serves one disk. Clients come and go; each has its own limits."""

    def __init__(self, disk: Disk, name: str) -> None:
        """``name`` of the export; clients that ask for none get it as well."""
        self.disk = disk
        self.name = name
        self.statistics = NbdStatistics()

    async def serve(self, path: Path, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Listen at ``path`` until cancelled. Raises OSError where somebody listens there already."""
        with listen(path, socket.SOCK_STREAM, BACKLOG) as listening:
            async with trio.open_nursery() as nursery:
                task_status.started()
                while True:
                    client = await accept(listening)
                    if self.statistics.clients >= CLIENTS_MAX:
                        self.statistics.refused += 1
                        client.close()
                    else:
                        nursery.start_soon(self._converse, client)

    async def _converse(self, client: socket.socket) -> None:
        self.statistics.clients += 1
        self.statistics.connections += 1
        with client:
            try:
                client.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, SEND_BUFFER)
            except PermissionError:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
            try:
                await Connection(client, self.disk, Handshake(self.name, self.export), self.statistics).run()
            except* (OSError, NbdProtocolError):
                pass  # it hung up, or makes no sense: nobody else notices
            finally:
                self.statistics.clients -= 1

    def export(self) -> Export:
        """The disk as it is now."""
        geometry = self.disk.geometry
        assert geometry is not None
        offered = {
            TransmissionFlag.READ_ONLY: geometry.read_only,
            TransmissionFlag.SEND_FLUSH: True,
            TransmissionFlag.SEND_FUA: True,
            TransmissionFlag.SEND_TRIM: bool(geometry.discard_max) and not geometry.read_only,
            TransmissionFlag.SEND_WRITE_ZEROES: not geometry.read_only,
            # One device behind all connections: what one flushes is flushed for all.
            TransmissionFlag.CAN_MULTI_CONN: True,
        }
        flags = TransmissionFlag.HAS_FLAGS
        for flag, there in offered.items():
            flags |= flag if there else TransmissionFlag(0)
        return Export(
            self.name,
            geometry.size,
            flags,
            "virtio-blk disk",
            geometry.block_size,
            # At least what one request to the device holds: clients that ask for that much at once have the fewest.
            power_of_two(max(geometry.preferred, self.disk.transfer_max, PREFERRED_MIN), BLOCK_MAX),
            BLOCK_MAX,
        )


def power_of_two(size: int, most: int) -> int:
    """The largest power of two that is not above ``size`` or ``most``: block sizes of NBD are powers of two."""
    return 1 << min(size, most).bit_length() - 1
