"""A disk as an NBD export on a unix socket, for any number of clients.

Data are received straight into the buffers that the device reads, and sent straight from those it wrote. Commands
that came in together are shown to the device together, and what it answered together is sent together.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Mapping
from itertools import islice
from pathlib import Path

import attrs
import trio

from drivers.bounce import Buffer
from drivers.devices.blk import BlkStatus, Disk, DiskError, DiskRequest, RequestType
from drivers.pump import Signal
from vnet.nbd import (
    Command,
    CommandFlag,
    CommandType,
    Export,
    Handshake,
    NbdError,
    NbdProtocolError,
    Receiver,
    TransmissionFlag,
    error_reply,
    read_header,
    simple_reply,
)
from vnet.ports.listen import listen

__all__ = ["NbdServer", "NbdStatistics"]

BACKLOG = 64
CLIENTS_MAX = 64
COMMANDS_MAX = 128
BYTES_MAX = 2 << 20
"""What one client may have under way; more waits in its socket."""
BLOCK_MAX = 32 << 20
CHUNK = 64 << 10
READS = 8
"""Times that a client that always has more to say is listened to before others have their turn."""
IOV = 256
SEND_BUFFER = 4 << 20
SO_SNDBUFFORCE = 32

ERRORS: Mapping[BlkStatus, NbdError] = {
    BlkStatus.OK: NbdError.OK,
    BlkStatus.IOERR: NbdError.IO,
    BlkStatus.UNSUPP: NbdError.NOTSUP,
}
WRITES = frozenset((CommandType.WRITE, CommandType.TRIM, CommandType.WRITE_ZEROES))
FUA, NO_HOLE, DF = map(int, CommandFlag)  # as plain numbers: they are looked at for each command
FLAGS: Mapping[int, int] = {
    CommandType.READ: FUA | DF,
    CommandType.WRITE: FUA,
    CommandType.FLUSH: FUA,
    CommandType.TRIM: FUA,
    CommandType.WRITE_ZEROES: FUA | NO_HOLE,
}
"""The commands there are, and the flags each may have."""


@attrs.define(eq=False)
class NbdStatistics:
    """Since the server exists."""

    clients: int = 0
    """Connected now."""
    connections: int = 0
    commands: int = 0
    errors: int = 0
    """Commands that were answered with one."""


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
                    await trio.lowlevel.wait_readable(listening)
                    try:
                        client, _ = listening.accept()
                    except (BlockingIOError, ConnectionError):
                        continue
                    if self.statistics.clients >= CLIENTS_MAX:
                        client.close()
                    else:
                        nursery.start_soon(self._converse, client)

    async def _converse(self, client: socket.socket) -> None:
        self.statistics.clients += 1
        self.statistics.connections += 1
        with client:
            client.setblocking(False)
            try:
                client.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, SEND_BUFFER)
            except PermissionError:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
            try:
                await Connection(client, self).run()
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
            max(geometry.preferred, self._preferred()),
            BLOCK_MAX,
        )

    def _preferred(self) -> int:
        """What one request to the device holds: clients that ask for that much at once have the fewest of them."""
        return max(4096, 1 << self.disk.transfer_max.bit_length() - 1)


def _data_size(command: Command) -> int:
    return command.size if command.type in (CommandType.READ, CommandType.WRITE) else 0


@attrs.define(eq=False)
class _Pending:
    """A read or a write under way."""

    command: Command
    left: int
    """Parts that did not end yet."""
    error: NbdError = NbdError.OK


class Connection:
    """One client, from the greeting to the end."""

    def __init__(self, client: socket.socket, server: NbdServer) -> None:
        self._socket = client
        self._server = server
        self._disk = server.disk
        self._handshake = Handshake(server.name, server.export)
        self._size = self._block_mask = 0
        self._read_only = False
        self._receiver = Receiver()
        self._out: deque[tuple[memoryview, Buffer | None, Command | None]] = deque()
        """What to send; the buffer is free and the command over when it was sent."""
        self._to_send = Signal()
        self._commands = self._bytes = self._reads = 0
        self._freed = trio.Event()
        self._nursery: trio.Nursery | None = None

    async def run(self) -> None:
        """Raises OSError, NbdProtocolError."""
        await self._disk.wait_online()
        if not await self._negotiate():
            return
        try:
            async with trio.open_nursery() as self._nursery:
                self._nursery.start_soon(self._send)
                await self._receive()
                while self._commands:  # what was asked for before the end is answered
                    await self._wait_freed()
                self._nursery.cancel_scope.cancel()
        finally:
            self._nursery = None
            while self._out:
                self._sent(self._out.popleft())

    async def _negotiate(self) -> bool:
        await self._write(self._handshake.greeting())
        chunk = memoryview(bytearray(CHUNK))
        while not self._handshake.over:
            size = await self._read_into([chunk])
            if not size:
                return False
            for reply in self._handshake.feed(chunk[:size]):
                await self._write(reply)
        export = self._handshake.export
        if export is None:
            return False
        self._size, self._block_mask = export.size, export.block_min - 1
        self._read_only = bool(export.flags & TransmissionFlag.READ_ONLY)
        self._receiver = Receiver(self._handshake.rest())
        return True

    # What comes in.

    async def _receive(self) -> None:
        receiver = self._receiver
        while True:
            command = receiver.next()
            if command is None:
                self._disk.kick()
                if not await self._more():
                    return
            elif command.type == CommandType.DISC:
                self._disk.kick()
                return
            elif not self._begin_small_read(command):
                await self._begin(command)

    async def _more(self) -> bool:
        """Receive what there is; False when the client sends no more."""
        size = await self._read_into(self._receiver.targets())
        self._receiver.received(size)
        return bool(size)

    async def _begin(self, command: Command) -> None:
        self._server.statistics.commands += 1
        size = _data_size(command)
        while self._commands and (self._commands >= COMMANDS_MAX or self._bytes + size > BYTES_MAX):
            self._disk.kick()
            await self._wait_freed()  # by whoever sends, never by `kick` itself
        self._commands += 1
        self._bytes += size
        error = self._check(command)
        if command.type == CommandType.WRITE:
            if command.size > BLOCK_MAX:
                raise NbdProtocolError(f"a write of {command.size} bytes")
            await (self._swallow(command, error) if error else self._begin_write(command))
        elif error:
            self._end(command, error)
        elif command.type == CommandType.READ:
            await self._begin_read(command)
        else:
            self._start(command)

    def _check(self, command: Command) -> NbdError:
        allowed = FLAGS.get(command.type)
        if allowed is None or command.flags & ~allowed:
            return NbdError.INVAL
        if self._read_only and command.type in WRITES:
            return NbdError.PERM
        if command.type == CommandType.FLUSH:
            return NbdError.OK
        if command.offset + command.size > self._size:
            return NbdError.NOSPC if command.type in WRITES else NbdError.INVAL
        if (command.offset | command.size) & self._block_mask:
            return NbdError.INVAL
        most = self._disk.transfer_max if command.flags & DF else BLOCK_MAX
        return NbdError.OVERFLOW if command.type == CommandType.READ and command.size > most else NbdError.OK

    def _begin_small_read(self, command: Command) -> bool:
        """Begin what most commands are, without a coroutine; False for any other, and while there is no room."""
        size, disk = command.size, self._disk
        if command.type != CommandType.READ or self._commands >= COMMANDS_MAX or self._bytes + size > BYTES_MAX:
            return False
        if not 0 < size <= disk.transfer_max or self._check(command):
            return False
        buffer = disk.take(size)
        if buffer is None:
            return False
        self._server.statistics.commands += 1
        self._commands += 1
        self._bytes += size
        pending = _Pending(command, 1)
        disk.submit(DiskRequest(RequestType.IN, self._was_read, command.offset, size, buffer, context=pending))
        return True

    async def _begin_read(self, command: Command) -> None:
        disk, most, size = self._disk, self._disk.transfer_max, command.size
        if not size or (size > most and not self._handshake.structured):
            self._start(command)  # its parts would have to be sent in order
            return
        pending = _Pending(command, -(-size // most))
        for at in range(0, size, most):
            part = min(most, size - at)
            buffer = disk.take(part) or await disk.buffer(part)
            disk.submit(DiskRequest(RequestType.IN, self._was_read, command.offset + at, part, buffer, context=pending))

    async def _begin_write(self, command: Command) -> None:
        disk, receiver, most, size = self._disk, self._receiver, self._disk.transfer_max, command.size
        pending = _Pending(command, -(-size // most))
        for at in range(0, size, most):
            part = min(most, size - at)
            buffer = disk.take(part) or await disk.buffer(part)
            try:
                if not receiver.into(buffer.views):
                    disk.kick()
                    await self._fill()
            except BaseException:
                buffer.free()
                raise
            disk.submit(
                DiskRequest(RequestType.OUT, self._was_written, command.offset + at, part, buffer, context=pending)
            )
        if not size:
            self._end(command, NbdError.OK)

    async def _fill(self) -> None:
        """Receive what `Receiver.into` waits for. Raises OSError when the client goes first."""
        while not self._receiver.filled:
            if not await self._more():
                raise ConnectionError("it hung up in the middle of a write")

    async def _swallow(self, command: Command, error: NbdError) -> None:
        """A write that is refused comes with its data all the same."""
        chunk = memoryview(bytearray(CHUNK))
        for at in range(0, command.size, CHUNK):
            if not self._receiver.into([chunk[: command.size - at]]):
                await self._fill()
        self._end(command, error)

    # What the device answers.

    def _was_read(self, request: DiskRequest) -> None:
        pending, buffer = request.context, request.buffer
        assert isinstance(pending, _Pending)
        assert buffer is not None
        pending.left -= 1
        command = pending.command
        last = not pending.left
        if request.status:
            pending.error = ERRORS[request.status]
            buffer.free()
        elif self._nursery is None:
            buffer.free()
        else:
            done = last and not pending.error
            if self._handshake.structured:
                head = read_header(command.cookie, request.offset, request.size, last=done)
            else:
                head = simple_reply(command.cookie)
            self._out.append((memoryview(head), None, None))
            views = buffer.views
            for view in views[:-1]:
                self._out.append((view, None, None))
            self._out.append((views[-1], buffer, command if done else None))
            self._to_send.set()
        if last and pending.error:
            self._end(command, pending.error)

    def _was_written(self, request: DiskRequest) -> None:
        pending = request.context
        assert isinstance(pending, _Pending)
        assert request.buffer is not None
        request.buffer.free()
        pending.left -= 1
        pending.error = pending.error or ERRORS[request.status]
        if not pending.left:
            if pending.command.flags & FUA and not pending.error:
                self._start(pending.command, written=True)
            else:
                self._end(pending.command, pending.error)

    # What is done step by step, in a task of its own.

    def _start(self, command: Command, *, written: bool = False) -> None:
        if self._nursery is not None:
            self._nursery.start_soon(self._do, command, written)

    async def _do(self, command: Command, written: bool) -> None:
        """Anything but a plain read or write; of a write that was ``written``, only what comes after."""
        disk, data, error = self._disk, b"", NbdError.OK
        try:
            if command.type == CommandType.READ:
                data = await disk.read(command.offset, command.size)
            elif command.type == CommandType.TRIM:
                await disk.discard(command.offset, command.size)
            elif command.type == CommandType.WRITE_ZEROES:
                unmap = not command.flags & NO_HOLE
                await disk.write_zeroes(command.offset, command.size, unmap=unmap)
            if written or command.type == CommandType.FLUSH or command.flags & FUA:
                await disk.flush()
        except DiskError as exc:
            error = ERRORS[exc.status]
        self._end(command, error, data)

    # What goes out.

    def _end(self, command: Command, error: NbdError, data: bytes = b"") -> None:
        """Answer a command with what is not on its way already."""
        if error:
            self._server.statistics.errors += 1
        if self._nursery is not None:
            structured = self._handshake.structured and command.type == CommandType.READ
            reply = error_reply(command.cookie, error) if structured else simple_reply(command.cookie, error)
            self._out.append((memoryview(reply + data), None, command))
            self._to_send.set()

    def _sent(self, item: tuple[memoryview, Buffer | None, Command | None]) -> None:
        _, buffer, command = item
        if buffer is not None:
            buffer.free()
        if command is not None:
            self._commands -= 1
            self._bytes -= _data_size(command)
            self._freed.set()

    async def _wait_freed(self) -> None:
        self._freed = trio.Event()
        await self._freed.wait()

    async def _send(self) -> None:
        out = self._out
        while True:
            while out:
                try:
                    sent = self._socket.sendmsg([view for view, _, _ in islice(out, IOV)])
                except BlockingIOError:
                    await trio.lowlevel.wait_writable(self._socket)
                    continue
                while sent:
                    view, buffer, command = out[0]
                    if sent < len(view):
                        out[0] = view[sent:], buffer, command
                        break
                    sent -= len(view)
                    self._sent(out.popleft())
            await self._to_send.wait()

    async def _write(self, data: bytes) -> None:
        while data:
            try:
                data = data[self._socket.send(data) :]
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self._socket)

    async def _read_into(self, views: list[memoryview]) -> int:
        """0 when the client sends no more."""
        self._reads += 1
        if self._reads >= READS:
            self._reads = 0
            await trio.lowlevel.checkpoint()
        while True:
            try:
                return self._socket.recvmsg_into(views)[0]
            except BlockingIOError:
                self._reads = 0
                await trio.lowlevel.wait_readable(self._socket)
