"""A vhost-user back end of an entropy device, whose faults a test chooses: the peer of a checker."""

from __future__ import annotations

import mmap
import os
import socket
import struct
from collections.abc import Collection, Container
from pathlib import Path

import trio

from support.rigs.checked import check_peer, open_served, receive
from vnet.check.peer import Peer
from vnet.check.program import Figures
from vnet.check.trial import Options
from vnet.check.verdicts import Result, Verdict
from vnet.check.wire import HungUp

__all__ = ["ToyBack", "ToyPeer", "check", "check_verdict"]

HEADER = struct.Struct("<III")
VERSION_1, INDIRECT_DESC = 1 << 32, 1 << 28


class ToyBack:
    """One connection. ``fault`` is a word that the parts compare."""

    def __init__(self, connected: socket.socket, fault: str = "") -> None:
        self.socket, self.fault = connected, fault
        self.memory = memoryview(b"")
        self.base = self.user = 0
        self.num = self.index = self.done = 0
        self.desc = self.avail = self.used = 0
        self.fds: dict[int, int] = {}
        self.nursery: trio.Nursery | None = None

    async def serve(self) -> None:
        try:
            async with trio.open_nursery() as self.nursery:
                while await self.message():
                    pass
                self.nursery.cancel_scope.cancel()
        finally:
            self.socket.close()
            for fd in self.fds.values():
                os.close(fd)

    async def message(self) -> bool:
        header, fds = await receive(self.socket, HEADER.size)
        if len(header) < HEADER.size:
            return False
        request, _, size = HEADER.unpack(header)
        if size > 4096:
            return False
        body, _ = await receive(self.socket, size) if size else (b"", [])
        if self.fault == "silent":
            return True
        match request:
            case 1:
                self.reply(1, struct.pack("<Q", (0 if self.fault == "legacy" else VERSION_1) | INDIRECT_DESC))
            case 5 if fds:
                addr, length, user, offset = struct.unpack_from("<QQQQ", body, 8)
                self.base, self.user = addr, user
                self.memory = memoryview(mmap.mmap(fds[0], offset + length))[offset:]
                if self.fault == "outside":
                    mmap.mmap(fds[0], offset + length)[0:1] = b"!"
            case 8:
                self.num = int.from_bytes(body[4:8], "little")
            case 9:
                _, _, self.desc, self.used, self.avail, _ = struct.unpack("<IIQQQQ", body)
            case 10:
                self.index = self.done = int.from_bytes(body[4:8], "little")
            case 11:
                self.reply(11, body[:4] + self.index.to_bytes(4, "little"))
            case 12 | 13 if fds:
                self.fds[request] = os.dup(fds[0])
                if request == 12 and self.nursery is not None:
                    self.nursery.start_soon(self.ring, self.fds[12])
        for fd in fds:
            os.close(fd)
        return True

    def reply(self, request: int, body: bytes) -> None:
        flags = 1 if self.fault == "flags" else 5
        self.socket.send(HEADER.pack(request, flags, 1 << 30 if self.fault == "flood" else len(body)) + body)

    def at(self, addr: int, size: int, user: bool = False) -> memoryview:
        low = addr - (self.user if user else self.base)
        if not 0 <= low <= len(self.memory) - size:
            raise ValueError("outside of memory")
        return self.memory[low : low + size]

    async def ring(self, kick: int) -> None:
        while True:
            await trio.lowlevel.wait_readable(kick)
            os.eventfd_read(kick)
            try:
                while self.index != int.from_bytes(self.at(self.avail + 2, 2, True), "little"):
                    self.one()
            except ValueError:
                if self.fault == "stops":
                    return
                if self.fault == "loses":
                    self.index = self.index + 1 & 0xFFFF
                    continue
                self.socket.shutdown(socket.SHUT_RDWR)
                return

    def one(self) -> None:
        """Serve one chain: fill its writable buffers."""
        head = index = int.from_bytes(self.at(self.avail + 4 + 2 * (self.index % self.num), 2, True), "little")
        written = 0
        for _ in range(self.num + 1):
            if index >= self.num:
                raise ValueError("no descriptor")
            addr, size, flags, index = struct.unpack("<QIHH", self.at(self.desc + 16 * index, 16, True))
            if flags & 4:
                raise ValueError("no tables here")
            if flags & 2 or self.fault == "readable":
                self.at(addr, size)[:] = os.urandom(size)
                written += size
            if not flags & 1:
                break
        else:
            raise ValueError("a loop")
        if self.fault == "length":
            written += 1
        element = struct.pack("<II", head, written)
        self.at(self.used + 4 + 8 * (self.done % self.num), 8, True)[:] = element
        self.index, self.done = self.index + 1 & 0xFFFF, self.done + 1 & 0xFFFF
        self.at(self.used + 2, 2, True)[:] = self.done.to_bytes(2, "little")
        if 13 in self.fds and self.fault != "quiet":
            os.eventfd_write(self.fds[13], 1)


class ToyPeer(Peer):
    """Toy back ends in this process, one per connection; those whose number is in ``at`` have the fault.

    Connections 0 and 1 are those of the two honest requests at the start, 2 is that of the first case.
    """

    def __init__(self, nursery: trio.Nursery, fault: str = "", at: Container[int] = (2,)) -> None:
        super().__init__(Path("toy"))
        self.nursery, self.fault, self.at = nursery, fault, at
        self.connections = 0
        self.restarts = -1
        self.lives = True

    async def start(self) -> None:
        self.restarts += 1
        self.lives = True

    async def connect(self, patience: float) -> socket.socket:
        if not self.lives:
            raise HungUp("takes no connection")
        fault = self.fault if self.connections in self.at else ""
        self.connections += 1
        if fault == "dies":
            self.lives = False
        if fault == "leaks":
            self.leaked += 1
        return open_served(self.nursery, lambda connected: ToyBack(connected, fault).serve())

    leaked = 0

    def alive(self) -> bool:
        return self.lives

    def figures(self) -> Figures | None:
        """Return the use of a process that spins from the moment of the fault on, if that is its fault."""
        spins = self.fault == "spins" and self.connections > 2
        return Figures(trio.current_time() if spins else 0.0, 0, 10 + self.leaked)


async def check(
    *words: str,
    fault: str = "",
    at: Container[int] = (2,),
    options: Options | None = None,
    known: Collection[str] = (),
) -> tuple[ToyPeer, dict[str, Result]]:
    """Run cases against a toy; return it and the results by id. Raises NoDevice."""
    return await check_peer(lambda nursery: ToyPeer(nursery, fault, at), "rng", words, options, known)


async def check_verdict(fault: str, case: str, verdict: Verdict, words: str) -> None:
    """Check the verdict of a case against a toy with a fault, and that ``words`` are in what was seen."""
    _, results = await check(case, fault=fault)
    result = results[case]
    assert result.verdict is verdict, result
    assert words in result.seen
    assert result.alone == f"vnet check device {case}"
