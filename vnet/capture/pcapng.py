"""The pcapng format (draft-ietf-opsawg-pcapng), without I/O: functions that make blocks, and a reader of a stream.

Blocks are little-endian, and times are in nanoseconds since 1970. python-pcapng writes 20,000 packets per second and
needs whole files to read; these functions write 600,000, and the reader takes a stream as it comes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from enum import IntEnum

import attrs

__all__ = [
    "EPB_FLAGS",
    "EPB_PACKETID",
    "EPB_DROPCOUNT",
    "INBOUND",
    "OPT_COMMENT",
    "OUTBOUND",
    "NotPcapng",
    "PacketBlock",
    "PcapngBlock",
    "PcapngInterface",
    "PcapngReader",
    "PcapngStatistics",
    "interface_block",
    "option",
    "packet_block",
    "section_block",
    "statistics_block",
]

BYTE_ORDER = 0x1A2B3C4D
BLOCK_MAX = 16 << 20
"""Bytes of the longest block that the reader accepts."""
_LENGTH = struct.Struct("<I")
_START = struct.Struct("<II")
_SECTION = struct.Struct("<IHHq")
_INTERFACE = struct.Struct("<HHI")
_PACKET = struct.Struct("<IIIIIII")
_STATISTICS = struct.Struct("<III")
_OPTION = struct.Struct("<HH")
_LAST = struct.Struct("<II")
_COUNTER = struct.Struct("<Q")
_PADDING = (b"", b"\0\0\0", b"\0\0", b"\0")


class BlockType(IntEnum):
    """Types of blocks (section 11.1)."""

    SECTION = 0x0A0D0D0A
    INTERFACE = 1
    STATISTICS = 5
    PACKET = 6


_PACKET_TYPE = int(BlockType.PACKET)  # members of enumerations are slow to look up


OPT_ENDOFOPT, OPT_COMMENT = 0, 1
SHB_HARDWARE, SHB_USERAPPL = 2, 4
IF_NAME, IF_DESCRIPTION, IF_TSRESOL = 2, 3, 9
EPB_FLAGS, EPB_DROPCOUNT, EPB_PACKETID = 2, 4, 5
ISB_IFRECV, ISB_IFDROP = 4, 5
"""Codes of options, by their names in section 4."""
INBOUND, OUTBOUND = 1, 2
"""Directions in EPB_FLAGS."""


class NotPcapng(ValueError):
    """The bytes are no pcapng, or one that `PcapngReader` does not read."""


def _padded(data: bytes) -> bytes:
    return data + _PADDING[len(data) & 3]


def _block(kind: BlockType, body: bytes) -> bytes:
    length = _LENGTH.pack(len(body) + 12)
    return _LENGTH.pack(kind) + length + body + length


def option(code: int, value: bytes | str) -> bytes:
    """Return an option of at most 65,535 bytes; a longer value is cut."""
    value = (value.encode() if isinstance(value, str) else value)[:0xFFFF]
    return _OPTION.pack(code, len(value)) + _padded(value)


_END = _OPTION.pack(OPT_ENDOFOPT, 0)


def section_block(hardware: str, application: str) -> bytes:
    """Return the block that starts a file. ``hardware`` describes what is captured, ``application`` names us."""
    options = option(SHB_HARDWARE, hardware) + option(SHB_USERAPPL, application) + _END
    return _block(BlockType.SECTION, _SECTION.pack(BYTE_ORDER, 1, 0, -1) + options)


def interface_block(link_type: int, snap_length: int, name: str, description: str) -> bytes:
    """Return the block that adds an interface, numbered from 0 in the order of these blocks."""
    options = option(IF_NAME, name) + option(IF_DESCRIPTION, description)
    options += option(IF_TSRESOL, b"\x09") + _END
    return _block(BlockType.INTERFACE, _INTERFACE.pack(link_type, 0, snap_length) + options)


def packet_block(interface: int, time: int, data: bytes, size: int, options: bytes = b"") -> bytes:
    """Return a packet of ``size`` bytes, of which ``data`` was captured; ``options`` are those that `option` made."""
    captured = len(data)
    length = 32 + captured + (-captured & 3) + len(options) + (_OPTION.size if options else 0)
    head = _PACKET.pack(_PACKET_TYPE, length, interface, time >> 32, time & 0xFFFFFFFF, captured, size)
    end = _LAST.pack(OPT_ENDOFOPT, length) if options else _LENGTH.pack(length)
    return b"".join((head, data, _PADDING[captured & 3], options, end))


def statistics_block(interface: int, time: int, received: int, dropped: int) -> bytes:
    """Return the counters of an interface: packets ``received``, and those of them that were ``dropped``."""
    options = option(ISB_IFRECV, _COUNTER.pack(received)) + option(ISB_IFDROP, _COUNTER.pack(dropped)) + _END
    return _block(BlockType.STATISTICS, _STATISTICS.pack(interface, time >> 32, time & 0xFFFFFFFF) + options)


@attrs.frozen
class PcapngInterface:
    """An interface of a file."""

    number: int
    link_type: int
    snap_length: int
    name: str
    description: str


@attrs.frozen
class PacketBlock:
    """A packet of ``size`` bytes, of which ``data`` was captured at ``time``."""

    interface: PcapngInterface
    time: int
    data: bytes
    size: int
    options: Mapping[int, bytes]


@attrs.frozen
class PcapngStatistics:
    """Counters of an interface."""

    interface: PcapngInterface
    received: int
    dropped: int


PcapngBlock = PcapngInterface | PacketBlock | PcapngStatistics


class PcapngReader:
    """Reads a stream of blocks as this module makes them; blocks of other types are skipped."""

    packets = 0
    """Packets so far."""

    def __init__(self, *, skip_packets: bool = False) -> None:
        """``skip_packets``: only count them, which is faster."""
        self._skip_packets = skip_packets
        self._rest = b""
        self._started = False
        self._interfaces: list[PcapngInterface] = []

    @property
    def complete(self) -> bool:
        """Whether the stream ends here with a whole block."""
        return self._started and not self._rest

    def feed(self, data: bytes | memoryview) -> Iterator[PcapngBlock]:
        """Add ``data`` and yield the complete blocks; it may change once all are taken. Raises NotPcapng."""
        data = self._rest + data if self._rest else data
        at, end = 0, len(data)
        try:
            while end - at >= _START.size:
                kind, length = _START.unpack_from(data, at)
                if (not self._started and kind != BlockType.SECTION) or not 12 <= length <= BLOCK_MAX or length & 3:
                    raise NotPcapng(f"no pcapng block: type {kind:#x}, {length} bytes")
                if end - at < length:
                    break
                start, at = at, at + length
                if kind == _PACKET_TYPE:
                    self.packets += 1
                    if self._skip_packets:
                        continue
                block = self._parse(kind, bytes(data[start + 8 : at - 4]))
                if block is not None:
                    yield block
        finally:
            self._rest = bytes(data[at:])

    def _parse(self, kind: int, body: bytes) -> PcapngBlock | None:
        try:
            match kind:
                case BlockType.SECTION:
                    self._start(body)
                case BlockType.INTERFACE:
                    return self._interface(body)
                case BlockType.PACKET:
                    return self._packet(body)
                case BlockType.STATISTICS:
                    return self._statistics(body)
        except (struct.error, IndexError) as exc:
            raise NotPcapng(f"a damaged pcapng block of type {kind:#x}: {exc}") from None
        return None

    def _start(self, body: bytes) -> None:
        order, major, _, _ = _SECTION.unpack_from(body)
        if order != BYTE_ORDER or major != 1:
            raise NotPcapng("no little-endian pcapng of version 1")
        self._started, self._interfaces = True, []

    def _interface(self, body: bytes) -> PcapngInterface:
        link_type, _, snap_length = _INTERFACE.unpack_from(body)
        options = _options(body, _INTERFACE.size)
        name, description = (options.get(code, b"").decode(errors="replace") for code in (IF_NAME, IF_DESCRIPTION))
        interface = PcapngInterface(len(self._interfaces), link_type, snap_length, name, description)
        self._interfaces.append(interface)
        return interface

    def _packet(self, body: bytes) -> PacketBlock:
        number, high, low, captured, size = struct.unpack_from("<5I", body)
        end = 20 + captured
        return PacketBlock(
            self._interfaces[number], high << 32 | low, body[20:end], size, _options(body, end + (-captured & 3))
        )

    def _statistics(self, body: bytes) -> PcapngStatistics:
        number, _, _ = _STATISTICS.unpack_from(body)
        options = _options(body, _STATISTICS.size)
        received, dropped = (_COUNTER.unpack(options.get(code, bytes(8)))[0] for code in (ISB_IFRECV, ISB_IFDROP))
        return PcapngStatistics(self._interfaces[number], received, dropped)


def _options(body: bytes, at: int) -> dict[int, bytes]:
    """Return the options that begin at an offset, by code; of several with one code, the last."""
    options: dict[int, bytes] = {}
    while len(body) - at >= _OPTION.size:
        code, length = _OPTION.unpack_from(body, at)
        if code == OPT_ENDOFOPT:
            break
        options[code] = body[at + 4 : at + 4 + length]
        at += 4 + length + (-length & 3)
    return options
