"""A vfio-user server in a thread, right but for the replies that a test changes, and a root complex that uses it."""

from __future__ import annotations

import os
import select
import socket
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import attrs
import trio

from drivers.contracts.hw import PciHeader
from drivers.contracts.ipc import Handle
from drivers.errors import TransportLost
from vnet.link.base import all_ones
from vnet.link.ideal import IdealLink
from vnet.linux.ipc import InstantSocket, LocalIpc
from vnet.linux.memory import HostMemory
from vnet.linux.patience import Patience
from vnet.linux.poller import Poller
from vnet.linux.unix_socket import connect_or_explain
from vnet.pcie.epc import EndpointController
from vnet.pcie.function_handle import PciFunctionHandle
from vnet.pcie.rc import RootComplex
from vnet.testing import fds, maps
from vnet.vfio_user.client.endpoint import RemoteEndpoint
from vnet.vfio_user.constants import Command
from vnet.vfio_user.function import ClientFunction
from vnet.vfio_user.interrupts import ClientInterrupts
from vnet.vfio_user.messages import Assembler, Message
from vnet.vfio_user.server import VfioUserRoot
from vnet.vfio_user.session import Doorbell, Session

__all__ = ["BELL", "COMMANDS", "HANG_UP", "SILENCE", "LyingServer", "Registers", "Scene", "open_scene"]

MIB = 1 << 20
BAR_SIZE = 4096
BELL = 0x100
"""Offset of the doorbell in BAR 0."""
VECTORS = 4
SILENCE, HANG_UP = b"silence", b"hang up"
Lie = Callable[[bytes], bytes]
"""Returns the bytes to send instead of the right reply, or `SILENCE`, or `HANG_UP`."""


@attrs.define(eq=False)
class Registers:
    """Registers that keep what is written to them."""

    data: bytearray = attrs.field(factory=lambda: bytearray(BAR_SIZE))
    rings: int = 0
    """Writes of the doorbell."""

    def read(self, offset: int, size: int) -> int:
        return int.from_bytes(self.data[offset : offset + size], "little")

    def write(self, offset: int, size: int, value: int) -> None:
        self.data[offset : offset + size] = value.to_bytes(size, "little")
        self.rings += offset == BELL


class _Silent:
    def trouble(self, text: str) -> None:
        pass

    def agreed(self) -> None:
        pass


class LyingServer:
    """A function with registers, a doorbell and MSI-X; ``lies`` change replies, ``extra`` goes with the next one."""

    def __init__(self, path: Path) -> None:
        self.registers = Registers()
        self.lies: dict[int, Lie] = {}
        self.extra: list[int] = []
        """File descriptors."""
        self.before: dict[int, bytes] = {}
        """Bytes to send before the reply to a command."""
        self.log: list[int] = []
        """Commands of all connections."""
        self.connections = 0
        self.poller = Poller()
        self._ipc = LocalIpc(self.poller)
        self._link = IdealLink("server")
        self.controller = EndpointController(self._link)
        self.controller.set_header(0, PciHeader(0x1234, 0x11E8, 1, 0xFF0000, 0x1234, 1))
        self.controller.set_bar(0, 0, BAR_SIZE, self.registers)
        self.controller.set_msix(0, VECTORS, 2, 0)
        self._root = VfioUserRoot(self._ipc, {0: _Silent()})
        self._root.attach(self._link)
        self.controller.start()
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(os.fspath(path))
        self._listening.listen(4)
        self._connected: socket.socket | None = None
        self._stopped = False
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    @property
    def handle(self) -> PciFunctionHandle:
        handle = self._root.servers[0].handle
        assert handle is not None
        return handle

    def hang_up(self) -> None:
        if self._connected is not None:
            with suppress(OSError):
                self._connected.shutdown(socket.SHUT_RDWR)

    def say(self, data: bytes) -> None:
        """Send bytes without a request for them."""
        assert self._connected is not None
        self._connected.send(data)

    def stop(self) -> None:
        self._stopped = True
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self.hang_up()
        self._thread.join()
        self._listening.close()
        self.poller.close()

    def _run(self) -> None:
        while not self._stopped:
            try:
                self._connected, _ = self._listening.accept()
            except OSError:
                return
            self.connections += 1
            memory = self._root.servers[0].memory
            interrupts = ClientInterrupts(self._ipc, self.handle, memory.flush)
            function = ClientFunction(self.handle, interrupts.program)
            session = Session(self._ipc, memory, function, interrupts, [Doorbell(0, BELL)])
            assembler = Assembler(server=True)  # replies to the commands that tests send
            try:
                self._serve(InstantSocket(self._connected), session, assembler)
            except OSError:
                pass
            finally:
                assembler.close()
                session.close()
                self.handle.watch(None)
                self._connected.close()

    def _serve(self, connected: InstantSocket, session: Session, assembler: Assembler) -> None:
        while not self._stopped:
            self.poller._poll()
            if not connected.wait(select.POLLIN, 0.01):
                continue
            try:
                data, handles = connected.receive(assembler.missing)
            except TransportLost:
                return
            if not data:
                return
            message = assembler.feed(data, handles)
            if message is not None and not message.is_reply and not self._answer(message, session):
                return

    def _answer(self, message: Message, session: Session) -> bool:
        self.log.append(message.command)
        data, handles, _ = session.serve(message)
        lie = self.lies.get(message.command)
        if lie is not None:
            data = lie(data)
        message.close()
        if data == HANG_UP:
            return False
        if data != SILENCE and message.need_reply:
            self._send(self.before.get(message.command, b"") + data, handles)
        return True

    def _send(self, data: bytes, handles: Sequence[Handle]) -> None:
        assert self._connected is not None
        given: list[Any] = [*handles]
        extra, self.extra = self.extra, []
        numbers = [handle.fileno() for handle in given] + extra
        if numbers:
            socket.send_fds(self._connected, [data], numbers)
        else:
            self._connected.sendall(data)


@attrs.define(eq=False)
class Scene:
    """A root complex whose link leads to the server, and what its owner is told."""

    server: LyingServer
    link: IdealLink
    rc: RootComplex
    memory: HostMemory
    endpoint: RemoteEndpoint
    patience: Patience
    troubles: list[str]

    @property
    def function(self) -> PciFunctionHandle:
        [function] = self.rc.functions
        return function

    @property
    def connected(self) -> bool:
        return self.endpoint.snapshot("").connected

    async def up(self) -> None:
        with trio.fail_after(60):
            while not (self.link.up and self.rc.functions and self.function.online):  # noqa: ASYNC110
                await trio.sleep(0.01)

    async def trouble(self, count: int = 1) -> str:
        """Wait for the next trouble, which takes the link down, and return it."""
        with trio.fail_after(60):
            while len(self.troubles) < count:  # noqa: ASYNC110
                await trio.sleep(0.01)
        return self.troubles[-1]

    def works(self) -> None:
        """Registers are read and written."""
        self.function.bar_write(0, 8, 4, 0x12345678)
        assert self.function.bar_read(0, 8, 4) == 0x12345678
        assert self.function.bar_read(0, 10, 2) == 0x1234
        assert self.function.config_read(0, 4) == 0x11E81234
        assert self.function.bar_read(0, BAR_SIZE, 4) == all_ones(4)


@asynccontextmanager
async def open_scene(
    folder: Path, lies: dict[int, Lie] | None = None, extra: Sequence[int] = (), before: dict[int, bytes] | None = None
) -> AsyncIterator[Scene]:
    """Nothing is left afterwards: neither descriptors nor mappings."""
    counts = fds(), maps()
    path = folder / "server"
    poller = Poller()
    memory = HostMemory(MIB)
    link, rc, patience, troubles = IdealLink("l0"), RootComplex(memory), Patience(), list[str]()
    rc.attach(link)
    dial = {0: lambda: connect_or_explain(path, None, "")}
    endpoint = RemoteEndpoint(link, LocalIpc(poller), memory, dial, troubles.append, patience)
    server = LyingServer(path)
    server.lies, server.extra, server.before = lies or {}, [*extra], before or {}
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(poller.run)
            nursery.start_soon(endpoint.run)
            yield Scene(server, link, rc, memory, endpoint, patience, troubles)
            nursery.cancel_scope.cancel()
    finally:
        server.stop()
        memory.close()
        poller.close()
        for fd in extra:
            os.close(fd)
    assert fds() <= counts[0]
    assert maps() <= counts[1]


COMMANDS = (
    Command.VERSION,
    Command.DEVICE_GET_INFO,
    Command.DEVICE_RESET,
    Command.DEVICE_GET_REGION_INFO,
    Command.REGION_READ,
    Command.DEVICE_GET_IRQ_INFO,
    Command.DMA_MAP,
    Command.DEVICE_GET_REGION_IO_FDS,
    Command.DEVICE_SET_IRQS,
)
"""Commands of a handshake."""
