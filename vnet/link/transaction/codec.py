"""Packets to bytes and back: `emit` cannot fail, `parse` checks (PCI Express 2.2).

Reserved bits are 0 in what `emit` returns, and `parse` ignores them, as the specification says.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

import attrs

from vnet.link.transaction.ecrc import ECRC_SIZE, ecrc
from vnet.link.transaction.errors import EcrcMismatch, MalformedTlp, PrefixedTlp, TlpError, UnsupportedTlp
from vnet.link.transaction.fields import (
    DOUBLEWORD,
    MESSAGES,
    PAGE,
    TYPE_COMPLETION,
    TYPE_CONFIG0,
    TYPE_CONFIG1,
    TYPE_MEMORY,
    TYPE_MESSAGE,
    UNSUPPORTED_TYPES,
    AddressType,
    Attribute,
    CompletionStatus,
    MessageCode,
)
from vnet.link.transaction.packets import (
    Completion,
    ConfigRead,
    ConfigWrite,
    Header,
    MemoryRead,
    MemoryWrite,
    Message,
    Tlp,
)

__all__ = ["emit", "parse"]

_WORDS3, _WORDS4 = struct.Struct(">III"), struct.Struct(">IIQ")
_LONG, _DATA = 1, 2
"""Bits of Fmt: a header of four doublewords, data behind the header."""
_PREFIX = 4
_LOW_ADDRESS = 0xFFFF_FFFC
_HIGH_ADDRESS = _LOW_ADDRESS | 0xFFFF_FFFF << 32
_LOG_SIZE = 16


def _first_word(kind: int, header: Header, fmt: int, length: int, address_type: int = 0) -> int:
    tag, attributes = header.tag, header.attributes
    return (
        fmt << 29
        | kind << 24
        | (tag >> 9 & 1) << 23
        | header.traffic_class << 20
        | (tag >> 8 & 1) << 19
        | (attributes >> 2 & 1) << 18
        | header.digest << 15
        | header.poisoned << 14
        | (attributes & 3) << 12
        | address_type << 10
        | length & 0x3FF  # 1024 is sent as 0
    )


def _second_word(header: Header, low: int) -> int:
    return header.requester << 16 | (header.tag & 0xFF) << 8 | low


def _memory_header(packet: MemoryRead | MemoryWrite, fmt: int, length: int) -> bytes:
    form, fmt = (_WORDS4, fmt | _LONG) if packet.wide else (_WORDS3, fmt)
    first = _first_word(TYPE_MEMORY, packet.header, fmt, length, packet.address_type)
    return form.pack(first, _second_word(packet.header, packet.last << 4 | packet.first), packet.address)


def _header(packet: Tlp, data: bytes) -> bytes:
    header, fmt, length = packet.header, _DATA if data else 0, len(data) // DOUBLEWORD
    match packet:
        case MemoryRead():
            return _memory_header(packet, fmt, packet.length)
        case MemoryWrite():
            return _memory_header(packet, fmt, length)
        case ConfigRead() | ConfigWrite():
            first = _first_word(TYPE_CONFIG0 + packet.config_type, header, fmt, 1)
            return _WORDS3.pack(first, _second_word(header, packet.enabled), packet.target << 16 | packet.register)
        case Completion():
            first = _first_word(TYPE_COMPLETION, header, fmt, length)
            second = packet.completer << 16 | packet.status << 13 | packet.byte_count & 0xFFF  # 4096 is sent as 0
            return _WORDS3.pack(first, second, _second_word(header, packet.lower_address))
        case Message():
            first = _first_word(TYPE_MESSAGE + MESSAGES[packet.code].routing, header, fmt | _LONG, length)
            return _WORDS4.pack(first, _second_word(header, packet.code), 0)


def emit(packet: Tlp) -> bytes:
    """Return the bytes of ``packet``, from the header to the digest, if it has one."""
    data = b"" if isinstance(packet, MemoryRead | ConfigRead) else packet.data
    whole = _header(packet, data) + data
    return whole + ecrc(whole) if packet.header.digest else whole


@attrs.frozen
class _Fields:
    """The words and the data of a packet whose size is right."""

    first: int
    second: int
    address: int
    """The third word, or the third and fourth one."""
    data: bytes

    @property
    def fmt(self) -> int:
        return self.first >> 29

    @property
    def length(self) -> int:
        return self.first & 0x3FF or 1024

    def header(self, identity: int) -> Header:
        """Return the common fields; ``identity`` is the word with the requester and the tag."""
        first = self.first
        return Header(
            identity >> 16,
            (first >> 23 & 1) << 9 | (first >> 19 & 1) << 8 | identity >> 8 & 0xFF,
            first >> 20 & 7,
            Attribute((first >> 18 & 1) << 2 | first >> 12 & 3),
            bool(first >> 14 & 1),
            bool(first >> 15 & 1),
        )


def _address_type(fields: _Fields) -> AddressType:
    try:
        return AddressType(fields.first >> 10 & 3)
    except ValueError:
        raise MalformedTlp("address type (AT) = 3: must be 0 to 2") from None


def _memory(fields: _Fields) -> Tlp:
    header, first, last = fields.header(fields.second), fields.second & 0xF, fields.second >> 4 & 0xF
    wide = fields.fmt & _LONG
    address = fields.address & (_HIGH_ADDRESS if wide else _LOW_ADDRESS)
    if wide and not address >> 32:
        raise MalformedTlp(f"a header of 64-bit addresses for {address:#x}: must be one of 32-bit addresses")
    kind = _address_type(fields)
    if fields.fmt & _DATA:
        return MemoryWrite(header=header, address=address, first=first, last=last, address_type=kind, data=fields.data)
    return MemoryRead(header=header, address=address, first=first, last=last, address_type=kind, length=fields.length)


def _config(fields: _Fields) -> Tlp:
    header, enabled = fields.header(fields.second), fields.second & 0xF
    if fields.length != 1 or fields.second >> 4 & 0xF or fields.first >> 10 & 3:
        raise MalformedTlp("a configuration request must have a length of 1 doubleword, last byte enables 0 and AT 0")
    target, register, kind = fields.address >> 16, fields.address & 0xFFC, fields.first >> 24 & 1
    if fields.fmt & _DATA:
        return ConfigWrite(
            header=header, target=target, register=register, config_type=kind, enabled=enabled, data=fields.data
        )
    return ConfigRead(header=header, target=target, register=register, config_type=kind, enabled=enabled)


def _completion(fields: _Fields) -> Tlp:
    if fields.second >> 12 & 1:
        raise UnsupportedTlp("a completion with a modified byte count (BCM), which only PCI-X completers send")
    status = fields.second >> 13 & 7
    return Completion(
        header=fields.header(fields.address),
        completer=fields.second >> 16,
        # A reserved status counts as an unsupported request (2.2.9).
        status=CompletionStatus(status if status in _STATUSES else CompletionStatus.UNSUPPORTED_REQUEST),
        byte_count=fields.second & 0xFFF or PAGE,
        lower_address=fields.address & 0x7F,
        data=fields.data,
    )


def _message(fields: _Fields) -> Tlp:
    number = fields.second & 0xFF
    if number not in _CODES:
        raise UnsupportedTlp(f"a message with code {number:#04x}")
    code = MessageCode(number)
    routing = fields.first >> 24 & 7
    if routing != MESSAGES[code].routing:
        raise MalformedTlp(f"{code.name} with routing {routing}: must be {int(MESSAGES[code].routing)}")
    return Message(header=fields.header(fields.second), code=code, data=fields.data)


_STATUSES = frozenset(CompletionStatus)
_CODES = frozenset(MessageCode)
_PARSERS: dict[tuple[int, int], Callable[[_Fields], Tlp]] = {
    **{(fmt, TYPE_MEMORY): _memory for fmt in (0, _LONG, _DATA, _DATA | _LONG)},
    **{(fmt, kind): _config for fmt in (0, _DATA) for kind in (TYPE_CONFIG0, TYPE_CONFIG1)},
    **{(fmt, TYPE_COMPLETION): _completion for fmt in (0, _DATA)},
    **{(fmt | _LONG, TYPE_MESSAGE + routing): _message for fmt in (0, _DATA) for routing in range(6)},
}
"""Parsers by (Fmt, Type)."""


def _parse(packet: bytes, max_payload: int, check_digest: bool) -> Tlp:
    if len(packet) < DOUBLEWORD or len(packet) % DOUBLEWORD:
        raise MalformedTlp(f"{len(packet)} bytes: must be whole doublewords, and at least one")
    first = int.from_bytes(packet[:DOUBLEWORD], "big")
    fmt, kind = first >> 29, first >> 24 & 0x1F
    if fmt == _PREFIX:
        raise PrefixedTlp(f"a TLP prefix of type {kind:#04x}: prefixes are not supported")
    if (fmt, kind) in UNSUPPORTED_TYPES:
        raise UnsupportedTlp(f"{UNSUPPORTED_TYPES[fmt, kind]} (Fmt {fmt}, Type {kind:#04x})")
    parser = _PARSERS.get((fmt, kind))
    if parser is None:
        raise MalformedTlp(f"Fmt {fmt} with Type {kind:#04x}: there is no such packet")
    form = _WORDS4 if fmt & _LONG else _WORDS3
    size = (first & 0x3FF or 1024) * DOUBLEWORD if fmt & _DATA else 0
    digest = ECRC_SIZE if first >> 15 & 1 else 0
    if form.size + size + digest != len(packet):
        raise MalformedTlp(f"{len(packet)} bytes: the header, its length and TD ask for {form.size + size + digest}")
    if size > max_payload:
        raise MalformedTlp(f"{size} bytes of data: more than the maximum payload, {max_payload}")
    if first >> 16 & 1:
        raise UnsupportedTlp("processing hints (TH)")
    end = len(packet) - digest
    if digest and check_digest and ecrc(packet[:end]) != packet[end:]:
        raise EcrcMismatch(f"digest {packet[end:].hex()}: the bytes before it have {ecrc(packet[:end]).hex()}")
    _, second, address = form.unpack_from(packet)
    return parser(_Fields(first, second, address, packet[form.size : end]))


def parse(packet: bytes, max_payload: int = PAGE, *, check_digest: bool = True) -> Tlp:
    """Return the packet with these bytes, from the header to the digest, which may be wrong without ``check_digest``.

    Raises:
        MalformedTlp: the packet breaks a rule, or carries more than ``max_payload`` bytes.
        PrefixedTlp: the packet begins with a prefix.
        UnsupportedTlp: the packet is of a kind that is not supported.
        EcrcMismatch: the digest is wrong.

    Each has the first bytes of the packet as `TlpError.log`.
    """
    try:
        return _parse(packet, max_payload, check_digest)
    except TlpError as error:
        error.log = packet[:_LOG_SIZE]
        raise
