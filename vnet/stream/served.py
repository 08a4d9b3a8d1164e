"""The other side's requests: each packet is checked, done at this side, and answered."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from drivers.carriers.framing import ProtocolError
from vnet.link.transaction.bulk import Bulk, BulkKind, emit_completion, parse_bulk
from vnet.link.transaction.codec import emit, parse
from vnet.link.transaction.errors import EcrcMismatch, TlpError, UnsupportedTlp
from vnet.link.transaction.fields import CompletionStatus
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
from vnet.link.wire.completer import Completer, function_of
from vnet.link.wire.errors import TransactionError, WireError

__all__ = ["ChannelEvents", "Data", "Served", "is_posted", "units_of"]

Data = bytes | bytearray | memoryview
Gather = Callable[[Sequence[Data]], None]
"""Takes the pieces of a packet to send."""


class ChannelEvents(Protocol):
    """Owner of a channel."""

    def arrived(self) -> None:
        """Handle that a request is about to be handled."""

    def at_once(self, packet: Bulk) -> bool:
        """Return whether a request may be handled while an access of this side blocks."""

    def error(self, error: WireError, log: bytes) -> None:
        """Handle an error of a received packet; ``log`` has its first bytes."""


def units_of(packet: Data) -> int:
    """Return the units of 16 bytes that the data of a packet take, by its first word."""
    if not packet[0] & 0x40:
        return 0
    return ((packet[2] & 3) << 8 | packet[3] or 1024) + 3 >> 2


def is_posted(packet: Data) -> bool:
    """Return whether a request gets no completion: a memory write, or a message."""
    return packet[0] & 0x10 != 0 or packet[0] & 0x5F == 0x40


class Served:
    """Requests of one connection."""

    def __init__(self, completer: Completer[Any], events: ChannelEvents, gather: Gather) -> None:
        self._completer = completer
        self._events = events
        self._gather = gather

    def parse(self, frame: memoryview) -> Tlp | None:
        """Return the packet of a frame; None if it is dropped. Raises ProtocolError if it is malformed."""
        packet = bytes(frame)
        try:
            return parse(packet)
        except UnsupportedTlp:
            self._events.error(TransactionError.UNSUPPORTED_REQUEST, packet[:16])
            if not is_posted(packet):
                self._refuse(packet)
        except EcrcMismatch:
            self._events.error(TransactionError.ECRC, packet[:16])
        except TlpError as error:
            self._events.error(TransactionError.MALFORMED, packet[:16])
            raise ProtocolError(f"malformed TLP: {error}") from None
        return None

    def _refuse(self, packet: bytes) -> None:
        identity, tag = int.from_bytes(packet[4:6], "big"), packet[6]
        status = CompletionStatus.UNSUPPORTED_REQUEST
        refusal = Completion(header=Header(identity, tag), completer=self._completer.identity, status=status)
        self._gather([emit(refusal)])

    def do(self, frame: memoryview) -> None:
        """Do a request, and gather the answer. Raises ProtocolError if it is malformed."""
        bulk = parse_bulk(frame)
        if bulk is not None:
            accepted = self._read(bulk) if bulk.kind is BulkKind.READ else self._write(bulk)
        else:
            accepted = self._do(self.parse(frame), bytes(frame[:16]))
        if not accepted:
            self._events.error(TransactionError.UNSUPPORTED_REQUEST, bytes(frame[:16]))

    def _read(self, packet: Bulk) -> bool:
        completer = self._completer
        data = completer.read_bytes(packet.start, packet.size, function_of(packet.requester))
        if data is None:
            header = Header(packet.requester, packet.tag)
            status, lower = CompletionStatus.UNSUPPORTED_REQUEST, packet.start & 0x7F
            refusal = Completion(
                header=header, completer=completer.identity, status=status, byte_count=packet.size, lower_address=lower
            )
            self._gather([emit(refusal)])
            return False
        self._gather(emit_completion(packet.requester, packet.tag, completer.identity, packet.start, data))
        return True

    def _write(self, packet: Bulk) -> bool:
        return self._completer.write_bytes(packet.start, packet.data, function_of(packet.requester))

    def _do(self, packet: Tlp | None, log: bytes) -> bool:
        """Do a request that is not as simple."""
        completer = self._completer
        match packet:
            case MemoryWrite() | ConfigWrite() if packet.header.poisoned:
                self._events.error(TransactionError.POISONED, log)
                if isinstance(packet, ConfigWrite):
                    self._refuse(log)
            case MemoryWrite():
                return completer.write(packet)
            case MemoryRead():
                answers = completer.read(packet)
                for answer in answers:
                    self._gather([emit(answer)])
                return answers[0].status is CompletionStatus.SUCCESS
            case ConfigRead() | ConfigWrite():
                self._gather([emit(completer.configure(packet))])
            case Message():
                completer.message(packet)
        return True
