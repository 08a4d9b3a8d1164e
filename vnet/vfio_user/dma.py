"""Memory of a client that it does not share: reads and writes are messages, which block until they are answered."""

from __future__ import annotations

from drivers.carriers.framing import ProtocolError
from drivers.errors import DriverError
from rings.errors import MemoryFault
from vnet.link.remote_memory import Copies
from vnet.vfio_user.accesses import DmaAccess, DmaData
from vnet.vfio_user.constants import DATA_MAX, Command
from vnet.vfio_user.payloads import Payload
from vnet.vfio_user.server_channel import ServerChannel

__all__ = ["ClientDma"]


class ClientDma:
    """DMA_READ and DMA_WRITE of one connection. Accesses raise MemoryFault if the client does not do them.

    Implements `vnet.link.remote_memory.RemoteAccess`; `copies` are those of the memory's writers.
    """

    def __init__(self, channel: ServerChannel) -> None:
        self._channel = channel
        self._most = DATA_MAX
        self.copies = Copies()

    def limit(self, most: int) -> None:
        """Set the most bytes of one access that the client takes."""
        self._most = min(most, DATA_MAX)

    def read(self, address: int, size: int) -> bytes:
        """Return bytes of the client's memory."""
        parts = []
        for at in range(address, address + size, self._most):
            request = DmaAccess(at, min(self._most, address + size - at))
            reply = self._request(Command.DMA_READ, request)
            assert isinstance(reply, DmaData)  # by the table of messages
            parts.append(reply.data)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def write(self, address: int, data: bytes) -> None:
        """Write bytes of the client's memory."""
        for at in range(0, len(data), self._most):
            self._request(Command.DMA_WRITE, DmaData(address + at, data[at : at + self._most]))

    def before(self, address: int, size: int) -> bytes:
        """Return bytes of the client's memory, for a writer's copy."""
        return self.read(address, size)

    def _request(self, command: Command, part: DmaAccess | DmaData) -> Payload:
        """Return the reply to a request about a part of the client's memory."""
        try:
            reply = self._channel.request(command, part)
            assert isinstance(reply, DmaAccess | DmaData)  # by the table of messages
            if (reply.address, reply.count) != (part.address, part.count):
                why = f"{reply.count} bytes at {reply.address:#x}, for {part.count} bytes at {part.address:#x}"
                raise self._channel.end(ProtocolError(f"reply to {command.name}: {why}"))
        except DriverError as exc:
            write = command is Command.DMA_WRITE
            raise MemoryFault(part.address, part.count, write=write, reason=str(exc)) from None
        return reply
