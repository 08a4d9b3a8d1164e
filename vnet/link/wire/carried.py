"""Packets of a wire as events, with the fields of their headers."""

from __future__ import annotations

from drivers.contracts.events import Source, TlpCarried
from vnet.link.transaction.codec import parse
from vnet.link.transaction.errors import TlpError
from vnet.link.transaction.fields import DOUBLEWORD
from vnet.link.transaction.packets import Completion, ConfigRead, ConfigWrite, MemoryRead, MemoryWrite, Message

__all__ = ["carried"]


def carried(
    time: float, source: Source, packet: bytes, *, downstream: bool, delivered: bool, clock: float
) -> TlpCarried:
    """Return the event of a packet; ``clock`` is the time on the wire, in nanoseconds."""
    try:
        tlp = parse(packet, check_digest=False)
    except TlpError as error:
        none = {"requester": None, "tag": None, "addr": None, "size": None, "completer": None}
        return TlpCarried(
            time, source, str(error), downstream, delivered, clock,
            **none, status="", message="", poisoned=False, digest=False, packet=packet.hex(),
        )  # fmt: skip
    addr = size = completer = None
    status = message = ""
    match tlp:
        case MemoryRead():
            addr, size = tlp.address, tlp.length * DOUBLEWORD
        case MemoryWrite():
            addr, size = tlp.address, len(tlp.data)
        case ConfigRead() | ConfigWrite():
            addr, size, completer = tlp.register, DOUBLEWORD, tlp.target
        case Completion():
            size, completer, status = len(tlp.data), tlp.completer, tlp.status.name
        case Message():
            size, message = len(tlp.data), tlp.code.name
    header = tlp.header
    return TlpCarried(
        time, source, tlp.kind.value, downstream, delivered, clock,
        header.requester, header.tag, addr, size, completer, status, message,
        header.poisoned, header.digest, packet.hex(),
    )  # fmt: skip
