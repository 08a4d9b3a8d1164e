"""The ends of a wire as the ideal link inside sees them: each request to one travels as packets to the real end."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import attrs

from rings.errors import MemoryFault
from rings.memory import RemoteBytes
from vnet.errors import CompleterAbort, CompletionTimeout, LinkDown, PoisonedData, UnsupportedRequest
from vnet.link.base import Direction, EndpointPort, Link, LinkEnd, Region, RootPort, all_ones
from vnet.link.remote_memory import Copies, RemoteRange
from vnet.link.transaction.fields import DOUBLEWORD, MessageCode
from vnet.link.transaction.fragments import Piece, pieces
from vnet.link.wire.errors import Failure
from vnet.link.wire.wire import Wire

__all__ = ["ERRORS", "WiredEndpoint", "WiredRoot", "doublewords"]

ERRORS: dict[Failure, type[MemoryFault]] = {
    Failure.LINK_DOWN: LinkDown,
    Failure.TIMEOUT: CompletionTimeout,
    Failure.UNSUPPORTED: UnsupportedRequest,
    Failure.ABORTED: CompleterAbort,
    Failure.POISONED: PoisonedData,
}
"""Errors of accesses to memory."""


@attrs.frozen(eq=False)
class _Dma:
    """Accesses of one function to memory at the other end. Implements `vnet.link.remote_memory.RemoteAccess`."""

    wire: Wire
    way: Direction
    function: int
    end: LinkEnd
    settled: Callable[[], None]
    """Called after each access."""

    def read(self, address: int, size: int) -> bytes:
        data = self.wire.read(self.way, address, size, self.function)
        self.settled()
        if isinstance(data, Failure):
            raise ERRORS[data](address, size, write=False, reason=data.value)
        return data

    def write(self, address: int, data: bytes) -> None:
        delivered = self.wire.write(self.way, address, data, self.function)
        self.settled()
        if not delivered:
            raise LinkDown(address, len(data), write=True, reason=Failure.LINK_DOWN.value)

    def before(self, address: int, size: int) -> bytes:
        """Return what is there now, which takes no packet: it only shows which bytes the writer changes."""
        data = b"".join(_content(each) for _, each in self.end.regions(address, size, self.function))
        return data if len(data) == size else self.read(address, size)


def _content(region: memoryview | RemoteBytes) -> bytes | memoryview:
    """Return the bytes of a region, also behind another wire, without a packet; b"" if only packets tell."""
    if isinstance(region, memoryview):
        return region
    return region.before() if isinstance(region, RemoteRange) else b""


class _Wired:
    """An end of the wire. Implements `vnet.link.base.LinkEnd`."""

    def __init__(self, wire: Wire, way: Direction, end: LinkEnd, copies: Copies, settled: Callable[[], None]) -> None:
        """``way`` is the direction of requests to ``end``; ``settled`` is called after each request."""
        self._wire = wire
        self._way = way
        self._end = end
        self._copies = copies
        self._settled = settled
        self._dma: dict[int, _Dma] = {}

    def mem_read(self, addr: int, size: int, function: int) -> int | None:
        self._copies.flush()
        data = self._wire.read(self._way, addr, size, function)
        self._settled()
        return None if isinstance(data, Failure) else int.from_bytes(data, "little")

    def mem_write(self, addr: int, size: int, value: int, function: int) -> bool:
        self._copies.flush()
        data = (value & all_ones(size)).to_bytes(size, "little")
        delivered = self._wire.write(self._way, addr, data, function)
        self._settled()
        return delivered

    def regions(self, addr: int, size: int, function: int) -> Iterable[Region]:
        dma = self._dma.get(function)
        if dma is None:
            dma = self._dma[function] = _Dma(self._wire, self._way, function, self._end, self._settled)
        for base, content in self._end.regions(addr, size, function):
            yield base, RemoteRange(dma, self._copies, base, len(content), readonly=content.readonly)

    def beyond(self, addr: int, size: int) -> Iterable[tuple[Link, Direction]]:
        return self._end.beyond(addr, size)

    def link_up(self) -> None:
        self._end.link_up()

    def link_down(self) -> None:
        self._end.link_down()


class WiredRoot(_Wired):
    """The root port, at the end of the wire. Implements `vnet.link.base.RootPort`."""

    _end: RootPort

    def intx(self, function: int, asserted: bool) -> None:
        self._copies.flush()
        self._wire.message(MessageCode.ASSERT_INTA if asserted else MessageCode.DEASSERT_INTA, function)
        self._settled()

    def removed(self) -> None:
        self._end.removed()


class WiredEndpoint(_Wired):
    """The endpoint, at the end of the wire. Implements `vnet.link.base.EndpointPort`."""

    _end: EndpointPort

    def config_read(self, function: int, offset: int, size: int) -> int | None:
        self._copies.flush()
        read = b""
        for piece in doublewords(offset, size):
            enabled, _ = piece.enables
            data = self._wire.config_read(function, piece.address, enabled)
            if isinstance(data, Failure):
                self._settled()
                return None
            read += data[piece.offset : piece.offset + piece.size]
        self._settled()
        return int.from_bytes(read, "little")

    def config_write(self, function: int, offset: int, size: int, value: int) -> bool:
        self._copies.flush()
        rest = (value & all_ones(size)).to_bytes(size, "little")
        failure: Failure | None = None
        for piece in doublewords(offset, size):
            enabled, _ = piece.enables
            data, rest = piece.padded(rest[: piece.size]), rest[piece.size :]
            failure = failure or self._wire.config_write(function, piece.address, enabled, data)
        self._settled()
        return failure is None


def doublewords(offset: int, size: int) -> Iterable[Piece]:
    """Return the requests for a range in configuration space, of one doubleword each."""
    return pieces(offset, size, DOUBLEWORD)
