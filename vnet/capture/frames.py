"""Frames as Ethernet packets of a capture. Their interface is a port; options have their queue, chain and header."""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from functools import lru_cache

from drivers.contracts.events import FrameEvent, FrameReceived, FrameSent, Source
from drivers.devices.net.header import DATA_VALID, ECN, NEEDS_CSUM, GsoType
from vnet.capture.pcapng import (
    EPB_FLAGS,
    EPB_PACKETID,
    INBOUND,
    OPT_COMMENT,
    OUTBOUND,
    PacketBlock,
    option,
)

__all__ = ["FrameOptions", "describe_header", "parse_frame", "port_description", "port_name"]

_HEADER = struct.Struct("<BBHHHHH")
_FLAGS, _ID, _NUMBER = struct.Struct("<I"), struct.Struct("<Q"), struct.Struct("<HHQ")
_NUMBER_SIZE = _ID.size
_FLAG_OPTIONS: Mapping[type[FrameEvent], bytes] = {
    kind: option(EPB_FLAGS, _FLAGS.pack(flag)) for kind, flag in ((FrameReceived, INBOUND), (FrameSent, OUTBOUND))
}
_SEGMENTS = {GsoType.TCPV4: "TCP over IPv4", GsoType.TCPV6: "TCP over IPv6", GsoType.UDP_L4: "UDP"}
_DESCRIPTION = re.compile(r"port (.*) of (.*), the (driver|device)'s side, on host (.*)")
_COMMENT = re.compile(r"(\S*), (?:chain (\d+)|copied)")


def port_name(source: Source) -> str:
    """Return the name of the interface for the frames of a port."""
    return f"{source.device}.{source.side}"


def port_description(source: Source) -> str:
    return f"port {source.port} of {source.device}, the {source.side}'s side, on host {source.host}"


@lru_cache(1024)
def describe_header(header: bytes) -> str:
    """Return what a virtio_net_hdr says (VIRTIO 1.4 section 5.1.9); empty if it says nothing."""
    flags, gso, length, segment, start, offset, buffers = _HEADER.unpack(header)
    texts = []
    if flags & NEEDS_CSUM:
        texts.append(f"checksum needed from byte {start}, at {start + offset}")
    if flags & DATA_VALID:
        texts.append("checksum is valid")
    if gso:
        kind = _SEGMENTS.get(gso & ~ECN, f"gso_type {gso & ~ECN:#x}")
        texts.append(f"{kind} to segment by {segment} bytes{' with ECN' if gso & ECN else ''}, headers {length} bytes")
    if buffers > 1:
        texts.append(f"{buffers} buffers")
    return "; ".join(texts)


class FrameOptions:
    """Makes the options of the frames of one direction of a queue."""

    HEADERS = 1024
    """Different virtio_net_hdr whose options are remembered: a hostile driver can send any number."""

    def __init__(self, kind: type[FrameEvent], queue: str) -> None:
        self._flags = _FLAG_OPTIONS[kind]
        self._queue = queue
        self._known: dict[bytes, bytes] = {}

    def emit(self, frame: int, chain: int | None, header: bytes) -> bytes:
        """Return number, direction, and a comment with queue, chain and virtio_net_hdr."""
        start = self._known.get(header) if chain is None else self._start(f"chain {chain}", header)
        if start is None:
            if len(self._known) >= self.HEADERS:
                self._known.clear()
            start = self._known[header] = self._start("copied", header)
        return start + _NUMBER.pack(EPB_PACKETID, _NUMBER_SIZE, frame)

    def _start(self, chain: str, header: bytes) -> bytes:
        words = describe_header(header)
        return option(OPT_COMMENT, f"{self._queue}, {chain}" + (f"; {words}" if words else "")) + self._flags


def parse_frame(packet: PacketBlock) -> tuple[FrameEvent, str]:
    """Return the frame of a packet, with an empty header, and what the header says in words.

    Raises ValueError if the packet was not made here.
    """
    place = _DESCRIPTION.fullmatch(packet.interface.description)
    comment, _, header = packet.options.get(OPT_COMMENT, b"").decode(errors="replace").partition("; ")
    where = _COMMENT.fullmatch(comment)
    if place is None or where is None:
        raise ValueError(f"{packet.interface.name}: a frame of another program")
    try:
        (flags,), (number,) = _FLAGS.unpack(packet.options[EPB_FLAGS]), _ID.unpack(packet.options[EPB_PACKETID])
    except (KeyError, struct.error):
        raise ValueError(f"{packet.interface.name}: a frame without direction or number") from None
    kind = FrameReceived if flags & 3 == INBOUND else FrameSent
    port, device, side, host = place.groups()
    source = Source(host, device, "driver" if side == "driver" else "device", where[1], port=port)
    chain = None if where[2] is None else int(where[2])
    return kind(packet.time / 1e9, source, number, chain, b"", packet.size, (memoryview(packet.data),)), header
