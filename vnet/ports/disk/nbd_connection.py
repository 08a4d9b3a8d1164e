"""One NBD client of a disk: turns its commands into requests to the device.

Data are received directly into the buffers that the device reads. Commands received in one batch go to the device in
one batch, and so do the replies to the client.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from functools import partial

import attrs
import trio

from drivers.devices.blk import BlkStatus, Disk, DiskError, DiskRequest, RequestType
from drivers.storage.bounce import Buffer
from vnet.nbd import (
    CommandType,
    Handshake,
    NbdCommand,
    NbdError,
    NbdLimits,
    NbdProtocolError,
    error_reply,
    read_header,
    simple_reply,
)
from vnet.nbd.limits import DF, FUA, NO_HOLE
from vnet.ports.disk.nbd_receive import Inbox
from vnet.ports.disk.nbd_send import Outbox
from vnet.views.blk import NbdStatistics

__all__ = ["BLOCK_MAX", "Connection"]

HANDSHAKE_TIMEOUT = 10.0
"""Maximum duration of the negotiation, in seconds."""
COMMANDS_MAX = 128
"""Maximum number of a client's commands under way; more wait in its socket."""
BYTES_MAX = 2 << 20
"""Maximum data of a client's commands under way, in bytes; more wait in its socket."""
BLOCK_MAX = 32 << 20
"""Maximum size of a command, in bytes."""

IN, READ = RequestType.IN, CommandType.READ.value
"""Also here, because looking a member of an enumeration up takes longer than comparing with it."""
ERRORS: Mapping[BlkStatus, NbdError] = {
    BlkStatus.OK: NbdError.OK,
    BlkStatus.IOERR: NbdError.IO,
    BlkStatus.UNSUPP: NbdError.INVAL,
}


@attrs.define(eq=False)
class _Pending:
    """A read or a write under way."""

    command: NbdCommand
    left: int
    """Number of parts not completed yet."""
    error: NbdError = NbdError.OK


class Connection:
    """A client's connection, from the greeting to its end."""

    def __init__(self, client: socket.socket, disk: Disk, handshake: Handshake, statistics: NbdStatistics) -> None:
        """``client`` is non-blocking; ``statistics`` are the server's."""
        self._disk = disk
        self._handshake = handshake
        self._statistics = statistics
        self._in = Inbox(client)
        self._out = Outbox(client, self._sent)
        self._limits: NbdLimits
        self._commands = self._bytes = 0
        self._freed = trio.Event()
        self._nursery: trio.Nursery | None = None

    async def run(self) -> None:
        """Serve the client until it disconnects. Raises OSError, NbdProtocolError."""
        await self._disk.wait_online()
        with trio.move_on_after(HANDSHAKE_TIMEOUT) as deadline:
            await self._in.negotiate(self._handshake)
        export = self._handshake.export
        if deadline.cancelled_caught:
            self._statistics.refused += 1
        if deadline.cancelled_caught or export is None:
            return
        self._limits = NbdLimits(export, BLOCK_MAX)
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                try:
                    nursery.start_soon(self._out.send)
                    await self._receive()
                    while self._commands:  # commands received before the disconnect get a reply
                        await self._wait_freed()
                finally:
                    self._nursery = None  # replies that arrive later must not start tasks in the closed nursery
                nursery.cancel_scope.cancel()
        finally:
            self._out.drop()

    # Commands

    async def _receive(self) -> None:
        while True:
            command = self._in.next()
            if command is None:
                self._kick()
                if not await self._in.more():
                    return
            elif command.type == CommandType.DISC:
                self._kick()
                return
            elif not self._begin_small_read(command):
                await self._begin(command)

    def _kick(self) -> None:
        """Notify the device of all requests, and send the replies to those that it answers at once. Raises OSError."""
        self._out.send_all_of(self._disk.kick)

    async def _begin(self, command: NbdCommand) -> None:
        self._statistics.commands += 1
        while self._commands >= COMMANDS_MAX:
            await self._wait_freed()
        self._commands += 1
        error = self._limits.check(command, self._disk.transfer_max)
        if command.type == CommandType.WRITE:
            if command.size > BLOCK_MAX:
                raise NbdProtocolError(f"a write of {command.size} bytes is too long")
            if error:
                await self._in.discard(command.size)  # the client sends the data of a refused write, too
                self._end(command, error)
            else:
                await self._begin_write(command)
        elif error or (command.type == CommandType.READ and not command.size):
            self._end(command, error)
        elif command.type == CommandType.READ:
            await self._begin_read(command)
        elif self._nursery is not None:
            self._nursery.start_soon(self._do, command)

    def _begin_small_read(self, command: NbdCommand) -> bool:
        """Begin a small read, the most frequent command, without a coroutine; return False if that is impossible."""
        _, kind, _, offset, size = command
        disk = self._disk
        if kind != READ or self._commands >= COMMANDS_MAX or self._bytes + size > BYTES_MAX:
            return False
        if not 0 < size <= disk.transfer_max or self._limits.check(command, size):
            return False
        buffer = disk.take(size)
        if buffer is None:
            return False
        self._statistics.commands += 1
        self._commands += 1
        self._bytes += size
        request = DiskRequest(IN, self._complete_small_read, offset, size, buffer)
        request.context = command
        disk.submit(request)
        return True

    async def _begin_read(self, command: NbdCommand) -> None:
        disk, part_max, size = self._disk, self._disk.transfer_max, command.size
        if size > part_max and (command.flags & DF or not self._handshake.structured):
            await self._read_in_order(command)
            return
        done = partial(self._complete_read, _Pending(command, -(-size // part_max)))
        for at in range(0, size, part_max):
            part = min(part_max, size - at)
            buffer = await self._buffer(part)
            disk.submit(DiskRequest(RequestType.IN, done, command.offset + at, part, buffer))

    async def _read_in_order(self, command: NbdCommand) -> None:
        """Serve a large read with one header followed by all data, though the device returns them in parts.

        Reads at most BYTES_MAX ahead of sending. An error after the header was sent can't be reported in a reply, and
        ends the connection. Raises ConnectionError.
        """
        cookie, offset, size = command.cookie, command.offset, command.size
        head = read_header(cookie, offset, size, last=True) if self._handshake.structured else simple_reply(cookie)
        for at in range(0, size, BYTES_MAX):
            while self._commands > 1:
                await self._wait_freed()
            try:
                data = await self._disk.read(offset + at, min(BYTES_MAX, size - at))
            except DiskError as exc:
                if at:
                    raise ConnectionError("a read failed after its header was sent") from None
                self._end(command, ERRORS[exc.status])
                return
            if not at:
                self._out.put(head)
            self._commands += 1  # count the data as a command until they are sent
            self._out.put(data, command=command)
        self._sent(None, command)

    async def _begin_write(self, command: NbdCommand) -> None:
        disk, part_max, size = self._disk, self._disk.transfer_max, command.size
        done = partial(self._complete_write, _Pending(command, -(-size // part_max)))
        for at in range(0, size, part_max):
            part = min(part_max, size - at)
            buffer = await self._buffer(part)
            try:
                if not self._in.take(buffer.views):
                    self._kick()
                    await self._in.fill()
            except BaseException:
                self._sent(buffer, None)
                raise
            disk.submit(DiskRequest(RequestType.OUT, done, command.offset + at, part, buffer))
        if not size:
            self._end(command, NbdError.OK)

    async def _buffer(self, size: int) -> Buffer:
        """Wait until this client is below its limit, and return a buffer of the disk."""
        while self._bytes and self._bytes + size > BYTES_MAX:
            await self._wait_freed()
        buffer = self._disk.take(size) or await self._disk.buffer(size)
        self._bytes += size
        return buffer

    # Completions of the device

    def _complete_small_read(self, request: DiskRequest) -> None:
        buffer, command = request.buffer, request.context
        assert buffer is not None
        assert isinstance(command, NbdCommand)
        if request.status:
            self._sent(buffer, None)
            self._end(command, ERRORS[request.status])
        elif self._nursery is None:
            self._sent(buffer, None)
        else:
            self._send_data(command, request, buffer, last=True)

    def _send_data(self, command: NbdCommand, request: DiskRequest, buffer: Buffer, *, last: bool) -> None:
        """Send data that were read, with a header of their own; with ``last``, the command ends."""
        if self._handshake.structured:
            head = read_header(command.cookie, request.offset, request.size, last=last)
        else:
            head = simple_reply(command.cookie)
        self._out.put(head, buffer.views, buffer, command if last else None)

    def _complete_read(self, pending: _Pending, request: DiskRequest) -> None:
        buffer = request.buffer
        assert buffer is not None
        pending.left -= 1
        command = pending.command
        last = not pending.left
        if request.status:
            pending.error = ERRORS[request.status]
            self._sent(buffer, None)
        elif self._nursery is None:
            self._sent(buffer, None)
        else:
            self._send_data(command, request, buffer, last=last and not pending.error)
        if last and pending.error:
            self._end(command, pending.error)

    def _complete_write(self, pending: _Pending, request: DiskRequest) -> None:
        assert request.buffer is not None
        self._sent(request.buffer, None)
        pending.left -= 1
        pending.error = pending.error or ERRORS[request.status]
        if not pending.left:
            if pending.command.flags & FUA and not pending.error and self._nursery is not None:
                self._nursery.start_soon(self._do, pending.command)
            else:
                self._end(pending.command, pending.error)

    # Commands that need several requests, each in its own task

    async def _do(self, command: NbdCommand) -> None:
        """Run a command without data, or the flush after the data of a write."""
        disk, error = self._disk, NbdError.OK
        try:
            if command.type == CommandType.TRIM:
                await disk.discard(command.offset, command.size)
            elif command.type == CommandType.WRITE_ZEROES:
                unmap = not command.flags & NO_HOLE
                await disk.write_zeroes(command.offset, command.size, unmap=unmap)
            if command.type == CommandType.FLUSH or command.flags & FUA:
                await disk.flush()
        except DiskError as exc:
            error = ERRORS[exc.status]
        self._end(command, error)

    # Replies

    def _end(self, command: NbdCommand, error: NbdError) -> None:
        """Send the last reply to a command; its data were queued before."""
        if error:
            self._statistics.errors += 1
        if self._nursery is not None:
            structured = self._handshake.structured and (error or command.type == CommandType.READ)
            reply = error_reply(command.cookie, error) if structured else simple_reply(command.cookie, error)
            self._out.put(reply, command=command)

    def _sent(self, buffer: Buffer | None, command: NbdCommand | None) -> None:
        """Free a buffer whose data were transferred, and forget a command whose reply was sent."""
        if buffer is not None:
            self._bytes -= buffer.size
            buffer.free()
        if command is not None:
            self._commands -= 1
        self._freed.set()

    async def _wait_freed(self) -> None:
        """Wait for the next call of `_sent`, which can happen during `kick`."""
        self._freed = trio.Event()
        self._kick()
        await self._freed.wait()
