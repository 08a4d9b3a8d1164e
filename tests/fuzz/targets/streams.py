"""Parsers of byte streams: messages between processes, NBD, QMP, captures, topology files."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from functools import partial
from typing import TypeVar, cast

import attrs

from drivers.carriers.framing import FrameAssembler, ProtocolError
from drivers.testing import CountedHandle
from drivers.transports.vhost_user import messages as vhost_user
from drivers.transports.vhost_user.payloads import MessageRefused
from fuzz.source import Source
from vnet.capture.pcapng import (
    NotPcapng,
    PcapngReader,
    interface_block,
    option,
    packet_block,
    section_block,
    statistics_block,
)
from vnet.errors import ConfigError
from vnet.nbd import (
    CommandReceiver,
    CommandType,
    Export,
    Handshake,
    NbdError,
    NbdLimits,
    NbdProtocolError,
    TransmissionFlag,
)
from vnet.nbd.handshake import OPTION_MAX
from vnet.qmp import codec
from vnet.qmp.commands import COMMANDS
from vnet.qmp.qapi import member, to_wire
from vnet.topology.reader import parse as parse_topology
from vnet.topology.reference import records
from vnet.topology.structure import structure
from vnet.vfio_user import messages as vfio_user
from vnet.vfio_user.client.session import ClientSession
from vnet.vfio_user.constants import Command
from vnet.vfio_user.payloads import Refused

M = TypeVar("M", vhost_user.UserMessage, vfio_user.Message)
PIECES_MAX = 64
"""Pieces in which a stream arrives, and messages of a test."""


def _pieces(source: Source) -> Iterator[bytes]:
    """Yield the rest of the input in pieces, some of them one byte long."""
    sizes = source.byte()
    data, at = source.rest(), 0
    for _ in range(PIECES_MAX):
        size = 1 + (sizes * 7 + at) % 23 if sizes & 0x80 else len(data)
        yield data[at : at + size]
        at += size
        if at >= len(data):
            return
    yield data[at:]


def _converse(
    source: Source,
    assembler: FrameAssembler[M],
    build: Callable[[], tuple[bytes, int]],
    take: Callable[[M], object],
    refused: type[Exception],
) -> None:
    """Feed messages that ``build`` makes, with a number of file descriptors each, and give whole ones to ``take``.

    ``refused`` is the error with which ``take`` refuses a message. All file descriptors are closed at the end.
    """
    handles: list[CountedHandle] = []
    try:
        for _ in range(PIECES_MAX):
            if not source.left:
                break
            data, given = build()
            message = _feed(assembler, data, handles, given)
            if message is None:
                continue
            try:
                take(message)
            except refused:
                pass
            finally:
                message.close()
    except ProtocolError:
        pass
    finally:
        assembler.close()
    assert not handles


def _feed(assembler: FrameAssembler[M], data: bytes, handles: list[CountedHandle], given: int) -> M | None:
    """Feed bytes as they would be received, up to ``missing`` at a time. Returns the message, or None at the end."""
    at, message = 0, cast(M | None, None)
    while at < len(data) and message is None:
        part = data[at : at + assembler.missing]
        message = assembler.feed(part, [CountedHandle(handles) for _ in range(given if not at else 0)])
        at += len(part)
    return message


VHOST_USER = struct.Struct("<III")
VFIO_USER = struct.Struct("<HHIII")


def vhost_user_messages(data: bytes) -> None:
    """Messages of a front end and of a back end: headers, bodies, and how many file descriptors come along."""
    source = Source(data)
    backend, replies = source.flag(), source.flag()
    types = vhost_user.BACKEND_MESSAGES if backend else vhost_user.FRONTEND_MESSAGES

    def build() -> tuple[bytes, int]:
        request, given = source.byte() & 0x3F, source.byte()
        body = source.blob(120)
        flags = 1 | (4 if replies else 8) if given & 0x10 else source.number(4)
        header = VHOST_USER.pack(request, flags, len(body) if given & 0x20 else source.number(4))
        return header + body, given & 3

    def take(message: vhost_user.UserMessage) -> None:
        if replies:
            request = message.request if message.request in types else next(iter(types))
            vhost_user.parse_reply(message, request, types)
        else:
            vhost_user.parse(message, types)

    _converse(source, vhost_user.Assembler(types, replies=replies), build, take, MessageRefused)


def vfio_user_messages(data: bytes) -> None:
    """Commands of a client in each state of a session, replies and commands of a server."""
    source = Source(data)
    server, state = source.flag(), source.pick(list(vfio_user.SessionState))
    client = ClientSession()

    def build() -> tuple[bytes, int]:
        command, given = source.byte() & 0x1F, source.byte()
        body = source.blob(200)
        flags = int(server) if given & 0x10 else source.number(1)
        size = 16 + len(body) if given & 0x20 else source.number(4)
        header = VFIO_USER.pack(source.number(2), command, size, flags, source.number(1))
        vfio_user.declared_size(header)
        vfio_user.parse_posted(header + body)
        return header + body, given & 3

    _converse(source, vfio_user.Assembler(server=server), build, partial(_take, state, client), Refused)


def _take(state: vfio_user.SessionState, client: ClientSession, message: vfio_user.Message) -> None:
    if not message.is_reply:
        vfio_user.parse(message, state)
    elif message.command in vfio_user.SERVER_MESSAGES:
        vfio_user.parse_server_command(message)
    elif message.command in vfio_user.MESSAGES:
        client.request(Command(message.command))
        try:
            for handle in client.take(attrs.evolve(message, number=client._number)).handles:
                handle.close()
        finally:
            client._waiting = None
    else:
        client.take(message)


NBD_SIZE = 1 << 20
NBD_FLAGS = sum(TransmissionFlag) & ~TransmissionFlag.READ_ONLY
NBD_OPTIONS = 1, 2, 3, 6, 7, 8, 9
NBD_COMMAND = struct.Struct(">IHHQQI")


def _client(source: Source) -> bytes:
    """Return the bytes of a client that keeps to the framing, with any options, commands and fields in them."""
    parts = [bytes((source.byte(),)), (3).to_bytes(4, "big")]
    for _ in range(source.byte() & 3):
        body = source.blob(40)
        if source.flag():
            name = source.pick((b"", b"disk0", b"other"))
            body = len(name).to_bytes(4, "big") + name + source.pick((b"\0\0", b"\0\1\0\3", b"\0\2\0\0\0\1"))
        size = len(body) if source.flag() else source.number(4)
        parts.append(b"IHAVEOPT" + struct.pack(">II", source.pick(NBD_OPTIONS), size) + body)
    while source.left:
        flags, kind, size = source.byte() & 7, source.byte() % 9, source.number(2)
        offset = source.number(8)
        parts.append(NBD_COMMAND.pack(0x25609513, flags, kind, 7, offset, size) + source.blob(64))
    return b"".join(parts)


def nbd(data: bytes) -> None:
    """A client's options, then its commands with their data."""
    source = Source(data)
    export = Export("disk0", NBD_SIZE, TransmissionFlag(NBD_FLAGS | source.byte() & 2), block_min=source.pick((1, 512)))
    handshake = Handshake("disk0", lambda: export)
    stream = source if source.flag() else Source(_client(source))
    try:
        for piece in _pieces(stream):
            for reply in handshake.feed(piece):
                assert reply
            assert len(handshake._data) <= OPTION_MAX + len(piece) + 64
            if handshake.over:
                break
    except NbdProtocolError:
        return
    if handshake.export is not None:
        _transmit(handshake.rest(), handshake.export, handshake.structured)


def _transmit(data: bytes, export: Export, structured: bool) -> None:
    receiver, limits = CommandReceiver(size=256), NbdLimits(export, 1 << 16)
    disk = memoryview(bytearray(NBD_SIZE))
    at = 0
    while at < len(data):
        [*targets] = receiver.targets()
        count = 0
        for target in targets:
            part = data[at : at + min(len(target), 61)]
            target[: len(part)] = part
            at, count = at + len(part), count + len(part)
            if len(part) < len(target):
                break
        assert count, "a receiver has room for the next byte"
        receiver.received(count)
        try:
            while receiver.filled and (command := receiver.next()) is not None:
                if limits.check(command, 1 << 16) is not NbdError.OK:
                    if command.type == CommandType.WRITE:
                        return  # as the server does, if it cannot skip the data
                elif command.type == CommandType.WRITE:
                    receiver.into([disk[command.offset : command.offset + command.size]])
        except NbdProtocolError:
            return


JSON = (
    *("0", "1", "-1", "1e9", "1.5", "true", "null", "[1,", "{}", "[]"),
    *('""', '"net0"', '"split"', '["a"]', '{"a":{}}', '"\\u0000"'),
)
MEMBERS = "execute", "arguments", "id", "other"


def _object(source: Source, arguments: type) -> bytes:
    """Return the bytes of a client's command, with arguments of the right names and any values."""
    names = [member(arguments, field.name) for field in attrs.fields(arguments)] or ["none"]
    pairs = [f'"{source.pick(names)}":{source.pick(JSON)}' for _ in range(source.byte() & 7)]
    whole = [f'"execute":"x","arguments":{{{",".join(pairs)}}}']
    whole += [f'"{source.pick(MEMBERS)}":{source.pick(JSON)}' for _ in range(source.byte() & 1)]
    return bytes((source.byte(),)) + f"{{{','.join(whole)}}}".encode() + source.rest()


def qmp(data: bytes) -> None:
    """Bytes of a client as messages, commands, and arguments of each command; then a server's lines."""
    framer, lines = codec.Framer(512), codec.LineFramer(512)
    source = Source(data)
    command = COMMANDS[source.pick(sorted(COMMANDS))]
    stream = source if source.flag() else Source(_object(source, command.arguments))
    try:
        for piece in _pieces(stream):
            for message in framer.feed(piece):
                _command(message, command.arguments)
            for line in lines.feed(piece):
                assert b"\n" not in line
    except codec.TooLong:
        return
    assert isinstance(framer.partial, bool)


def _command(message: bytes, arguments: type) -> None:
    try:
        raw = codec.parse(message)
        given = codec.request(raw).arguments
    except codec.QmpError as error:
        codec.emit(error.as_dict())
        return
    record, errors = structure(given, cast(type[object], arguments))
    assert (record is None) == bool(errors)
    assert all(problem.why for problem in errors)
    codec.emit({"return": to_wire(record)})


BLOCKS = (
    section_block("machine", "vnet"),
    interface_block(1, 96, "net0", "a port"),
    packet_block(0, 1_000_000_007, b"frame", 60),
    packet_block(0, 5, b"frames", 6, option(2, b"\1\0\0\0")),
    statistics_block(0, 9, 7, 1),
)


def _capture(source: Source) -> bytes:
    """Return blocks in any order, with some of their numbers replaced."""
    parts = [bytes((source.byte(),)), BLOCKS[0]]
    while source.left:
        changed = bytearray(source.pick(BLOCKS))
        for _ in range(source.byte() & 3):
            at = source.byte() % (len(changed) // 4) * 4
            changed[at : at + 4] = source.number(4).to_bytes(4, "little")
        parts.append(bytes(changed))
    return b"".join(parts)


def pcapng(data: bytes) -> None:
    """A capture, whole or in pieces: as a program beside us would read it from a pipe."""
    source = Source(data)
    reader = PcapngReader(skip_packets=source.flag())
    stream = source if source.flag() else Source(_capture(source))
    try:
        for piece in _pieces(stream):
            for block in reader.feed(piece):
                assert block is not None
    except NotPcapng:
        return
    assert isinstance(reader.complete, bool)


TABLES = "hosts", "links", "devices", "ntbs", "functions", "extra"
NAMES = "rc", "ep", "pcie0", "net0", "disk0", '""'
KEYS = *sorted({key.name for record in records() for key in record.keys}), "unknown"
VALUES = (
    *('"rc"', '"ep"', '"pcie0"', '"net"', '"blk"', '"scsi"', '"rpmsg"', '"pci"', '"ntb"', '"mmio"', '"memory"', '""'),
    *("0", "1", "-1", "256", "65536", "4294967296", "1e400", "nan", "true", "false", "[]", "{}", "1979-05-27"),
    *('["198.18.0.1/24"]', '{ kind = "memory" }', '{ kind = "tun" }', '{ store = "memory", size = 1 }', "[{}]", "[1]"),
)


def _file(source: Source) -> str:
    """Return a text whose tables, names, keys and values are those of topology files, in any order."""
    lines = []
    for _ in range(PIECES_MAX):
        if not source.left:
            break
        act = source.byte()
        if act < 0x50:
            lines.append(f"[{source.pick(TABLES)}.{source.pick(NAMES)}]")
        else:
            lines.append(f"{source.pick(KEYS)} = {source.pick(VALUES)}")
    return "\n".join(lines)


def topology(data: bytes) -> None:
    """A topology file, as text, or made of its own keys with any values."""
    source = Source(data)
    text = source.rest().decode(errors="replace") if source.byte() < 0x40 else _file(source)
    try:
        parsed = parse_topology(text, "fuzz")
    except ConfigError as error:
        str(error)
        return
    assert parsed.needs(foreign=False) is not None
