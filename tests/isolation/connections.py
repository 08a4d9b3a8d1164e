"""Attacks by a client on its connection: that of a front end, of an NBD client, at the control socket, of vfio-user."""

from __future__ import annotations

import json
import os
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import trio

from drivers.transports.vhost_user.constants import FrontendRequest as R
from drivers.transports.vhost_user.constants import HeaderFlag
from isolation.front import bring_up
from vnet.check.pci import COMMAND, PciFront
from vnet.check.vhost_user import VhostUserFront
from vnet.check.wire import HEADER, PeerError, emit
from vnet.vfio_user.accesses import RegionRead
from vnet.vfio_user.constants import Command, DmaFlag, Region
from vnet.vfio_user.payloads import DmaMap, DmaUnmap

__all__ = [
    "broken_rings",
    "config_reads",
    "connections",
    "control_connections",
    "descriptors",
    "dma_maps",
    "endless_line",
    "memory_tables",
    "nbd_connections",
    "nbd_options",
    "nbd_reads",
    "nbd_unread",
    "nothing",
    "queries",
    "single_bytes",
    "unread_queries",
    "unread_replies",
]

VERSION = 1
END = (OSError, EOFError)


def plain(path: Path, timeout: float | None = 30.0) -> socket.socket:
    """Connect a blocking socket, as often as it takes."""
    while True:
        connected = socket.socket(socket.AF_UNIX)
        connected.settimeout(timeout)
        try:
            connected.connect(str(path))
        except OSError:
            connected.close()
            time.sleep(0.001)
        else:
            return connected


def read_exactly(connected: socket.socket, size: int) -> bytes:
    """Return so many bytes. Raises EOFError, OSError."""
    data = bytearray()
    while len(data) < size:
        part = connected.recv(size - len(data))
        if not part:
            raise EOFError
        data += part
    return bytes(data)


def _reply(connected: socket.socket) -> bytes:
    _, _, size = HEADER.unpack(read_exactly(connected, HEADER.size))
    return read_exactly(connected, size)


def nothing(_folder: Path) -> Iterator[int]:
    """Compute, and attack nothing."""
    while True:
        yield 1


# vhost-user


def memory_tables(folder: Path) -> Iterator[int]:
    """Share the memory again and again."""
    front = trio.run(bring_up, folder / "blk.sock", VhostUserFront, {0: 256})
    message, fd = emit(R.SET_MEM_TABLE, front.table(), VERSION | HeaderFlag.NEED_REPLY), front.arena.fd
    front._socket.setblocking(True)
    while True:
        socket.send_fds(front._socket, [message], [fd])
        _reply(front._socket)
        yield 1


def broken_rings(folder: Path) -> Iterator[int]:
    """Break a ring, and connect again."""
    while True:
        try:
            front = trio.run(bring_up, folder / "blk.sock", VhostUserFront, {0: 256})
            front.rings[0].split.avail_idx = 0xFFFF
            front.rings[0].kick()
            time.sleep(0.001)
            front.close()
        except (PeerError, OSError):
            time.sleep(0.001)  # the former connection is not closed yet
            continue
        yield 1


def descriptors(folder: Path) -> Iterator[int]:
    """Send 250 file descriptors with a message that takes one, and connect again."""
    null = os.open(os.devnull, os.O_RDONLY)
    while True:
        with plain(folder / "blk.sock") as connected:
            try:
                for _ in range(3):
                    socket.send_fds(connected, [emit(R.SET_VRING_CALL, bytes(8))], [null] * 250)
                connected.recv(1)
            except END:
                pass
        yield 1


def unread_replies(folder: Path) -> Iterator[int]:
    """Ask for the configuration, and never read an answer."""
    message = emit(R.GET_CONFIG, struct.pack("<III", 0, 60, 0) + bytes(60))
    while True:
        with plain(folder / "blk.sock", None) as connected:
            try:
                while True:
                    connected.sendall(message * 100)
                    yield 100
            except END:
                pass


def connections(folder: Path) -> Iterator[int]:
    """Connect, and hang up."""
    while True:
        plain(folder / "blk.sock").close()
        yield 1


def single_bytes(folder: Path) -> Iterator[int]:
    """Send messages a byte at a time."""
    message = emit(R.GET_FEATURES)
    while True:
        with plain(folder / "blk.sock") as connected:
            try:
                while True:
                    for at in range(len(message)):
                        connected.send(message[at : at + 1])
                    _reply(connected)
                    yield len(message)
            except END:
                pass


# vfio-user


def dma_maps(folder: Path) -> Iterator[int]:
    """Map and unmap memory, over vfio-user."""
    front = trio.run(bring_up, folder / "function.sock", PciFront, {0: 256})
    wire, number = front._socket, 0
    wire.setblocking(True)
    base, size = 1 << 40, 1 << 20
    flags = sum(DmaFlag)
    bodies = [
        (Command.DMA_MAP, DmaMap(DmaMap.FORM.size, flags, 0, base, size).emit(), [front.arena.fd]),
        (Command.DMA_UNMAP, DmaUnmap(DmaUnmap.FORM.size, 0, base, size).emit(), []),
    ]
    form = struct.Struct("<HHIII")
    while True:
        for command, body, fds in bodies:
            number = number % 0xFFFF + 1
            socket.send_fds(wire, [form.pack(number, command, form.size + len(body), 0, 0) + body], fds)
            _, _, left, _, _ = form.unpack(read_exactly(wire, form.size))
            read_exactly(wire, left - form.size)
        yield 2


def config_reads(folder: Path) -> Iterator[int]:
    """Read a register of the configuration space, 100 at a time, over vfio-user."""
    front = trio.run(bring_up, folder / "function.sock", PciFront, {0: 256})
    wire = front._socket
    wire.setblocking(True)
    form, body = struct.Struct("<HHIII"), RegionRead(COMMAND, Region.CONFIG, 2).emit()
    message = form.pack(1, Command.REGION_READ, form.size + len(body), 0, 0) + body
    while True:
        wire.sendall(message * 100)
        for _ in range(100):
            _, _, left, _, _ = form.unpack(read_exactly(wire, form.size))
            read_exactly(wire, left - form.size)
        yield 100


# NBD

NBD_REQUEST = struct.Struct(">IHHQQI")
NBD_MAGIC = 0x25609513
READ, LIST, EXPORT_NAME = 0, 3, 1


def _nbd(folder: Path) -> socket.socket:
    """Connect to the NBD server, as far as the options."""
    connected = plain(folder / "nbd.sock", None)
    read_exactly(connected, 18)
    connected.sendall(struct.pack(">I", 3))
    return connected


def _export(folder: Path) -> socket.socket:
    connected = _nbd(folder)
    name = b"disk0"
    connected.sendall(b"IHAVEOPT" + struct.pack(">II", EXPORT_NAME, len(name)) + name)
    read_exactly(connected, 10)
    return connected


def nbd_unread(folder: Path) -> Iterator[int]:
    """Ask an NBD server for reads of 32 MiB, and never read an answer."""
    request = NBD_REQUEST.pack(NBD_MAGIC, 0, READ, 1, 0, 32 << 20)
    while True:
        with _export(folder) as connected:
            try:
                while True:
                    connected.sendall(request)
                    yield 1
            except END:
                pass


def nbd_reads(folder: Path) -> Iterator[int]:
    """Read 1 MiB from an NBD server, again and again."""
    with _export(folder) as connected:
        while True:
            connected.sendall(NBD_REQUEST.pack(NBD_MAGIC, 0, READ, 1, 0, 1 << 20))
            read_exactly(connected, 16 + (1 << 20))
            yield 1


def nbd_options(folder: Path) -> Iterator[int]:
    """Ask an NBD server for its list of exports, 100 times in a row, and connect again."""
    message = b"IHAVEOPT" + struct.pack(">II", LIST, 0)
    while True:
        with _nbd(folder) as connected:
            try:
                connected.settimeout(0.5)
                connected.sendall(message * 100)
                while connected.recv(1 << 16):
                    pass
            except END:
                pass
        yield 100


def nbd_connections(folder: Path) -> Iterator[int]:
    """Connect to an NBD server, and hang up."""
    while True:
        plain(folder / "nbd.sock").close()
        yield 1


# The control socket


def _control(folder: Path) -> socket.socket:
    connected = plain(folder / "control.sock", None)
    connected.sendall(b'{"execute": "qmp_capabilities"}\n')
    return connected


def queries(folder: Path) -> Iterator[int]:
    """Ask for the whole state of a system, and read the answer."""
    with _control(folder) as connected, connected.makefile("rb") as answers:
        answers.readline()
        answers.readline()
        while True:
            connected.sendall(b'{"execute": "query-vnet"}\n')
            answers.readline()
            yield 1


def unread_queries(folder: Path) -> Iterator[int]:
    """Ask for the whole state of a system, and never read an answer."""
    while True:
        with _control(folder) as connected:
            try:
                while True:
                    connected.sendall(b'{"execute": "query-vnet"}\n' * 100)
                    yield 100
            except END:
                pass


def endless_line(folder: Path) -> Iterator[int]:
    """Send JSON that never ends."""
    while True:
        with _control(folder) as connected:
            try:
                connected.sendall(json.dumps({"execute": "x"})[:-1].encode())
                while True:
                    connected.sendall(b"[" * 65536)
                    yield 1
            except END:
                pass


def control_connections(folder: Path) -> Iterator[int]:
    """Connect to the control socket, and hang up."""
    while True:
        plain(folder / "control.sock").close()
        yield 1
