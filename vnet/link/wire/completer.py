"""The requests of the other end, done at this one: accesses to its memory, registers and configuration space."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Generic, Protocol, TypeVar

import attrs

from rings.errors import MemoryFault
from rings.memory import view_of
from vnet.link.base import EndpointPort, LinkEnd, Region, RootPort
from vnet.link.transaction.fields import DOUBLEWORD, CompletionStatus, MessageCode
from vnet.link.transaction.fragments import completions, failed
from vnet.link.transaction.packets import (
    Completion,
    ConfigRead,
    ConfigWrite,
    Header,
    MemoryRead,
    MemoryWrite,
    Message,
)

__all__ = ["BUS", "Completer", "EndpointCompleter", "ErrorMessages", "RootCompleter", "function_of", "requester_of"]

BUS = 1
"""Number of the bus behind the root port, in the identities of functions."""
REGISTER_SIZES = frozenset({1, 2, 4, 8})
Answers = list[Completion]
Data = bytes | bytearray | memoryview
E = TypeVar("E", bound=LinkEnd)


def requester_of(function: int) -> int:
    """Return the identity of a function of the endpoint."""
    return BUS << 8 | function


def function_of(identity: int) -> int:
    """Return the number of the function with an identity."""
    return identity & 7


class ErrorMessages(Protocol):
    """Receiver of the error messages of functions, at the root complex."""

    def error_message(self, code: MessageCode, requester: int) -> None: ...


def _covering(regions: Iterable[Region], start: int, size: int) -> list[Region] | None:
    """Return the regions if they are all of a range; else None."""
    parts = sorted(regions, key=lambda region: region[0])
    for base, content in parts:
        if base != start:
            return None
        start, size = start + len(content), size - len(content)
    return None if size else parts


def _enabled(packet: MemoryWrite) -> Iterator[tuple[int, bytes]]:
    """Yield address and bytes of each run of enabled bytes."""
    size, mask = len(packet.data), packet.first
    if size > DOUBLEWORD:
        mask |= ((1 << size - 2 * DOUBLEWORD) - 1) << DOUBLEWORD | packet.last << size - DOUBLEWORD
    while mask:
        low = (mask & -mask).bit_length() - 1
        run = mask >> low
        end = low + (~run & run + 1).bit_length() - 1
        yield packet.address + low, packet.data[low:end]
        mask = mask >> end << end


@attrs.define(eq=False)
class Completer(Generic[E]):
    """Does requests at an end of the link."""

    end: E
    identity: int
    max_payload: int
    boundary: int | None

    def read(self, packet: MemoryRead) -> Answers:
        """Return the completions of a read."""
        data = self.read_bytes(packet.start, packet.size, function_of(packet.header.requester))
        if data is None:
            return [failed(packet, self.identity, CompletionStatus.UNSUPPORTED_REQUEST)]
        return list(completions(packet, data, self.identity, self.max_payload, self.boundary))

    def write(self, packet: MemoryWrite) -> bool:
        """Write the enabled bytes; return False for an unsupported request."""
        function = function_of(packet.header.requester)
        accepted = True
        for start, data in _enabled(packet):
            accepted &= self.write_bytes(start, data, function)
        return accepted

    def configure(self, packet: ConfigRead | ConfigWrite) -> Completion:
        """Return the completion of a configuration request."""
        return self._answer(packet, None)

    def message(self, packet: Message) -> None:
        """Take a message; most need nothing."""

    def _answer(self, packet: ConfigRead | ConfigWrite, data: bytes | None) -> Completion:
        status = CompletionStatus.UNSUPPORTED_REQUEST if data is None else CompletionStatus.SUCCESS
        header = Header(packet.header.requester, packet.header.tag)
        return Completion(header=header, completer=self.identity, status=status, data=data or b"")

    def read_bytes(self, start: int, size: int, function: int) -> bytes | None:
        """Return bytes of registers or memory; None for an unsupported request."""
        if not size:
            return b""
        if size in REGISTER_SIZES:
            value = self.end.mem_read(start, size, function)
            if value is not None:
                return value.to_bytes(size, "little")
        regions = _covering(self.end.regions(start, size, function), start, size)
        try:
            return None if regions is None else b"".join(view_of(content, False) for _, content in regions)
        except MemoryFault:
            return None

    def write_bytes(self, start: int, data: Data, function: int) -> bool:
        """Write bytes of registers or memory; return False for an unsupported request."""
        size = len(data)
        if size in REGISTER_SIZES and self.end.mem_write(start, size, int.from_bytes(data, "little"), function):
            return True
        regions = _covering(self.end.regions(start, size, function), start, size)
        if regions is None or any(content.readonly for _, content in regions):
            return False
        try:
            for base, content in regions:
                view_of(content, True)[:] = data[base - start : base - start + len(content)]
        except MemoryFault:
            return False
        return True


@attrs.define(eq=False)
class RootCompleter(Completer[RootPort]):
    """The root complex's end."""

    errors: ErrorMessages | None = None

    def message(self, packet: Message) -> None:
        code, function = packet.code, function_of(packet.header.requester)
        if code in (MessageCode.ASSERT_INTA, MessageCode.DEASSERT_INTA):
            self.end.intx(function, code is MessageCode.ASSERT_INTA)
        elif code in (MessageCode.ERR_COR, MessageCode.ERR_NONFATAL, MessageCode.ERR_FATAL) and self.errors is not None:
            self.errors.error_message(code, packet.header.requester)


@attrs.define(eq=False)
class EndpointCompleter(Completer[EndpointPort]):
    """The endpoint's end."""

    def configure(self, packet: ConfigRead | ConfigWrite) -> Completion:
        function, enabled = function_of(packet.target), packet.enabled
        low = (enabled & -enabled).bit_length() - 1
        size = enabled.bit_length() - low
        if not enabled:
            return self._answer(packet, bytes(4) if isinstance(packet, ConfigRead) else b"")
        offset = packet.register + low
        if isinstance(packet, ConfigRead):
            value = self.end.config_read(function, offset, size)
            data = None if value is None else (value << 8 * low).to_bytes(4, "little")
            return self._answer(packet, data)
        value = int.from_bytes(packet.data[low : low + size], "little")
        return self._answer(packet, b"" if self.end.config_write(function, offset, size, value) else None)
