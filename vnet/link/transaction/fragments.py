"""Accesses cut into packets: by maximum payload, maximum read request, read completion boundary and 4 KiB.

Requests take as much as one packet can; completions end at multiples of the read completion boundary (2.3.1.1).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import attrs

from vnet.link.transaction.fields import DOUBLEWORD, PAGE, Attribute, CompletionStatus
from vnet.link.transaction.packets import Completion, Header, MemoryRead, MemoryWrite

__all__ = ["Piece", "completion_pieces", "completions", "failed", "pieces", "read_of", "reads", "writes"]


@attrs.frozen
class Piece:
    """The bytes of one packet."""

    start: int
    """Address of the first byte."""
    size: int

    @property
    def offset(self) -> int:
        """Bytes before the first one in its doubleword."""
        return self.start % DOUBLEWORD

    @property
    def address(self) -> int:
        """Address of the first doubleword."""
        return self.start - self.offset

    @property
    def length(self) -> int:
        """Doublewords."""
        return (self.offset + self.size + DOUBLEWORD - 1) // DOUBLEWORD

    @property
    def enables(self) -> tuple[int, int]:
        """Enabled bytes of the first and of the last doubleword."""
        first = 0xF << self.offset & 0xF
        last = 0xF >> -(self.offset + self.size) % DOUBLEWORD
        return (first & last, 0) if self.length == 1 else (first, last)

    def padded(self, data: bytes) -> bytes:
        """Return ``data`` in whole doublewords; bytes that are not enabled are 0."""
        return b"".join((bytes(self.offset), data, bytes(-(self.offset + self.size) % DOUBLEWORD)))


def pieces(start: int, size: int, limit: int) -> Iterator[Piece]:
    """Cut ``size`` bytes from ``start`` on into requests of at most ``limit`` bytes, none across a 4 KiB boundary.

    ``limit`` is a power of two from 4 to 4096, and counts whole doublewords.
    """
    end = start + size
    while start < end:
        stop = min(end, start - start % DOUBLEWORD + limit, start - start % PAGE + PAGE)
        yield Piece(start, stop - start)
        start = stop


def completion_pieces(start: int, size: int, max_payload: int, boundary: int | None = None) -> Iterator[Piece]:
    """Cut the answer to one read request at multiples of ``boundary``; None: at those of ``max_payload``."""
    step = min(boundary or max_payload, max_payload)
    end = start + size
    while start < end:
        stop = min(end, start - start % step + step)
        yield Piece(start, stop - start)
        start = stop


def writes(header: Header, start: int, data: bytes, max_payload: int) -> Iterator[MemoryWrite]:
    """Yield the requests that write ``data`` from ``start`` on."""
    for piece in pieces(start, len(data), max_payload):
        first, last = piece.enables
        offset = piece.start - start
        yield MemoryWrite(
            header=header,
            address=piece.address,
            first=first,
            last=last,
            data=piece.padded(data[offset : offset + piece.size]),
        )


def read_of(header: Header, piece: Piece) -> MemoryRead:
    """Return the request that reads a piece."""
    first, last = piece.enables
    return MemoryRead(header=header, address=piece.address, first=first, last=last, length=piece.length)


def reads(header: Header, tags: Iterable[int], start: int, size: int, max_read_request: int) -> Iterator[MemoryRead]:
    """Yield the requests that read ``size`` bytes from ``start`` on, each with the next one of ``tags``.

    Ends early if there are no more tags.
    """
    for piece, tag in zip(pieces(start, size, max_read_request), tags, strict=False):
        yield read_of(attrs.evolve(header, tag=tag), piece)


def _answer(header: Header) -> Header:
    # An answer has the attributes of its request but ID-based ordering, which is the completer's choice (2.2.6.4).
    return attrs.evolve(header, attributes=header.attributes & ~Attribute.ID_BASED_ORDERING, poisoned=False)


def completions(
    request: MemoryRead, data: bytes, completer: int, max_payload: int, boundary: int | None = None
) -> Iterator[Completion]:
    """Yield the answers to ``request`` with ``data``, which begins at the first enabled byte and ends at the last.

    A request that enables no byte is answered by one doubleword of zeroes.
    """
    header, rest = _answer(request.header), request.byte_count
    if len(data) != request.size:
        raise ValueError(f"{len(data)} bytes for a request of {request.size}")
    data = data or bytes(1)
    for piece in completion_pieces(request.start, rest, max_payload, boundary):
        offset = piece.start - request.start
        yield Completion(
            header=header,
            completer=completer,
            byte_count=rest,
            lower_address=piece.start & 0x7F,
            data=piece.padded(data[offset : offset + piece.size]),
        )
        rest -= piece.size


def failed(request: MemoryRead, completer: int, status: CompletionStatus) -> Completion:
    """Return the answer to a ``request`` of which nothing was read."""
    return Completion(
        header=_answer(request.header),
        completer=completer,
        status=status,
        byte_count=request.byte_count,
        lower_address=request.start & 0x7F,
    )
