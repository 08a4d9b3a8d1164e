"""One side of a stream with a link of its own, and the other side as a script in a thread, right or hostile."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import attrs
import trio

from drivers.contracts.hw import RegisterBlock
from rings.memory import PhysAddr
from support.rigs.pcie import HEADER, Registers
from vnet.link.ideal import IdealLink
from vnet.link.transaction.codec import emit, parse
from vnet.link.transaction.packets import Completion, ConfigWrite, Header, MemoryRead, MemoryWrite, Tlp
from vnet.link.wire.completer import requester_of
from vnet.linux.memory import HostMemory
from vnet.pcie.epc import EndpointController
from vnet.pcie.rc import RootComplex
from vnet.stream.address import Address
from vnet.stream.far_endpoint import FarEndpoint
from vnet.stream.far_root import FarRoot
from vnet.stream.frames import CONTROL, Control, Frames, control, parse_control
from vnet.stream.handshake import Handshake, Side, StreamIdentity
from vnet.stream.peer import StreamPeer
from vnet.testing import until

__all__ = [
    "BAR",
    "FUNCTION",
    "IDENTITY",
    "KEY",
    "MEMORY",
    "RAM",
    "ROOT",
    "WRITE",
    "Script",
    "StreamScene",
    "open_endpoint",
    "open_root",
    "started",
    "works",
]

T = TypeVar("T")
KEY = "0123456789abcdef"
IDENTITY = StreamIdentity("pcie0", {0: "net over pci"})
RAM, MEMORY = 0x4000_0000, 1 << 20
"""Address and bytes of the root complex's host's memory."""
BAR = 0x10_0000_0000
PATIENCE = 30.0
ROOT = Header(0, 7)
FUNCTION = requester_of(0)
WRITE = MemoryWrite(header=ROOT, address=BAR, data=b"\1\2\3\4")


class Script:
    """The other side: a socket whose calls block, for a thread."""

    def __init__(self, path: Path, side: Side, identity: StreamIdentity = IDENTITY, key: str = KEY) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(PATIENCE)
        self.socket.connect(str(path))
        memory = [(RAM, MEMORY)] if side is Side.ROOT else []
        self.handshake = Handshake(side, identity, key, memory)
        self._frames = Frames()

    def close(self) -> None:
        self.socket.close()

    def send(self, data: bytes | Tlp) -> None:
        self.socket.sendall(data if isinstance(data, bytes) else emit(data))

    def frame(self) -> memoryview:
        """Return the next frame; one without bytes at the end of the connection."""
        while (frame := self._frames.next()) is None:
            try:
                data = self.socket.recv(1 << 16)
            except ConnectionError:
                data = b""
            if not data:
                return memoryview(b"")
            self._frames.feed(data)
        return frame

    def control(self, kind: Control) -> bytes:
        """Return the body of the next frame of the link of this kind; others are skipped."""
        while frame := self.frame():
            if frame[0] >= CONTROL:
                arrived, body = parse_control(frame)
                if arrived is kind:
                    return body
        raise AssertionError(f"no {kind.name}")

    def packet(self) -> Tlp:
        """Return the next packet; frames of the link are skipped."""
        while frame := self.frame():
            if frame[0] < CONTROL:
                return parse(bytes(frame))
        raise AssertionError("no packet")

    def greet(self) -> Script:
        """Do the handshake as it must be done, and grant all credits."""
        self.send(control(Control.HELLO, self.handshake.hello))
        self.handshake.take_hello(self.control(Control.HELLO))
        self.send(control(Control.PROOF, self.handshake.proof(b"")))
        self.handshake.take_proof(self.control(Control.PROOF), b"")
        return self

    def grant(self) -> Script:
        for flow, (packets, data) in enumerate(((4096, 262144), (512, 512))):
            body = bytes((flow, 0, 0, 0)) + packets.to_bytes(4, "big") + data.to_bytes(8, "big")
            self.send(control(Control.CREDITS, body))
        return self

    def ready(self) -> Script:
        """Wait for the endpoint, as a root does."""
        self.control(Control.READY)
        return self.grant()


def config(register: int, data: bytes) -> ConfigWrite:
    return ConfigWrite(header=ROOT, target=FUNCTION, register=register, data=data)


def enable(other: Script) -> Script:
    """Place BAR 0, and let the function be accessed and access memory."""
    for register, data in ((0x10, b"\0\0\0\0"), (0x14, b"\x10\0\0\0"), (0x04, b"\6\0\0\0")):
        other.send(config(register, data))
        assert isinstance(other.packet(), Completion)
    return other


def started(other: Script) -> Script:
    return enable(other.greet().ready())


def works(other: Script) -> bool:
    """Registers are written and read."""
    started(other)
    other.send(WRITE)
    other.send(MemoryRead(header=ROOT, address=BAR, length=1))
    packet = other.packet()
    return isinstance(packet, Completion) and packet.data == WRITE.data


@attrs.define(eq=False)
class StreamScene:
    """Our side."""

    path: Path
    link: IdealLink
    peer: StreamPeer
    side: Side
    troubles: list[str]
    registers: Registers
    memory: HostMemory
    root: FarRoot | None = None

    async def trouble(self, part: str) -> None:
        """Wait for a reported trouble that has this text."""
        await until(lambda: any(part in each for each in self.troubles), PATIENCE)

    async def up(self) -> None:
        await until(lambda: self.link.up, PATIENCE)

    async def play(self, script: Callable[[Script], T], **given: object) -> T:
        """Connect as the other side, and run a script in a thread; the connection ends with it."""

        def run() -> T:
            other = Script(self.path, self.side.other, **given)  # type: ignore[arg-type]
            try:
                return script(other)
            finally:
                other.close()

        return await trio.to_thread.run_sync(run)


@asynccontextmanager
async def _open(
    path: Path, side: Side, link: IdealLink, end: FarRoot | FarEndpoint, memory: HostMemory
) -> AsyncIterator[StreamScene]:
    troubles: list[str] = []
    peer = StreamPeer(link, side, end, IDENTITY, KEY, Address(str(path), None), listens=True, report=troubles.append)
    scene = StreamScene(path, link, peer, side, troubles, Registers(0x1000), memory)
    async with trio.open_nursery() as nursery:
        await nursery.start(peer.run)
        yield scene
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def open_endpoint(folder: Path) -> AsyncIterator[StreamScene]:
    """Our side is the endpoint: a function with registers in BAR 0."""
    link, memory = IdealLink("pcie0"), HostMemory(MEMORY)
    link.set_reachable(False)
    root = FarRoot(link)
    link.attach_root(root)
    controller = EndpointController(link)
    async with _open(folder / "s", Side.ENDPOINT, link, root, memory) as scene:
        scene.root = root
        block: RegisterBlock = scene.registers
        controller.set_header(0, HEADER)
        controller.set_bar(0, 0, 0x1000, block)
        controller.start()
        yield scene
    memory.close()


@asynccontextmanager
async def open_root(folder: Path) -> AsyncIterator[StreamScene]:
    """Our side is the root complex, with a host's memory."""
    link, memory = IdealLink("pcie0"), HostMemory(MEMORY, PhysAddr(RAM))  # type: ignore[arg-type]
    link.set_reachable(False)
    RootComplex(memory).attach(link)
    far = FarEndpoint(link, memory)
    link.attach_endpoint(far)
    link.set_present(True)
    async with _open(folder / "s", Side.ROOT, link, far, memory) as scene:
        yield scene
    memory.close()
