"""Requests of one end that wait for completions."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import attrs

from drivers.carriers.framing import ProtocolError
from vnet.link.transaction.bulk import Bulk, emit_read, spans
from vnet.link.transaction.codec import emit
from vnet.link.transaction.errors import UnexpectedCompletion
from vnet.link.transaction.fields import CompletionStatus
from vnet.link.transaction.flow import TagTable
from vnet.link.transaction.packets import Completion, ConfigRead, ConfigWrite
from vnet.link.wire.errors import Failure
from vnet.link.wire.requests import FAILURES

__all__ = ["Reads", "Transfer"]

BOUNDARY = 64
"""Completions that are not the last of their request end at multiples of it, in bytes."""


@attrs.define(eq=False)
class Transfer:
    """An access: the data as they arrive."""

    data: bytearray
    missing: int
    """Requests without an answer."""
    failure: Failure | None = None

    @property
    def done(self) -> bool:
        return self.missing == 0


@attrs.define(eq=False)
class _Request:
    transfer: Transfer
    requester: int
    at: int
    """Place of the next byte in the transfer."""
    start: int
    """Address of the next byte."""
    rest: int
    """Bytes that are missing; of a configuration request, those that its answer has: 4 or 0."""
    memory: bool = True


class Reads:
    """Reads are cut into requests, which are sent as tags are free; each answer is checked against its request."""

    def __init__(self) -> None:
        self._tags: TagTable[_Request] = TagTable(8)
        self._waiting: deque[_Request] = deque()

    @property
    def outstanding(self) -> int:
        """Requests that were sent and not answered."""
        return len(self._tags)

    @property
    def wanted(self) -> bool:
        """Whether `issue` has requests to send."""
        return bool(self._waiting) and not self._tags.full

    def begin(self, requester: int, ranges: list[tuple[int, int]]) -> list[Transfer]:
        """Begin reads of these ranges, each an address and a number of bytes; `issue` sends the requests."""
        transfers = []
        for start, size in ranges:
            transfer = Transfer(bytearray(size), 0)
            for place, part in spans(start, size):
                transfer.missing += 1
                self._waiting.append(_Request(transfer, requester, place - start, place, part))
            transfers.append(transfer)
        return transfers

    def configure(self, request: ConfigRead | ConfigWrite) -> tuple[Transfer, bytes] | None:
        """Begin a configuration request, and return its bytes; None if all tags are taken."""
        size = 4 if isinstance(request, ConfigRead) else 0
        transfer = Transfer(bytearray(size), 1)
        tag = self._tags.take(_Request(transfer, request.header.requester, 0, 0, size, memory=False))
        if tag is None:
            return None
        return transfer, emit(attrs.evolve(request, header=attrs.evolve(request.header, tag=tag)))

    def issue(self) -> Iterator[bytes]:
        """Yield the requests to send now."""
        while self._waiting and not self._tags.full:
            request = self._waiting.popleft()
            tag = self._tags.take(request)
            assert tag is not None  # one is free
            yield emit_read(request.requester, tag, request.start, request.rest)

    def complete_data(self, packet: Bulk) -> None:
        """Take a completion with data. Raises ProtocolError if it is not the next one of a request."""
        request = self._request(packet.tag, packet.requester)
        if not request.memory:
            if len(packet.data) != request.rest:
                raise ProtocolError(f"unexpected completion: {len(packet.data)} bytes for a configuration request")
        elif packet.size != request.rest or packet.start != request.start & 0x7F:
            raise ProtocolError(
                f"unexpected completion: {packet.size} bytes from {packet.start:#x}, for tag {packet.tag}"
            )
        size = len(packet.data)
        request.transfer.data[request.at : request.at + size] = packet.data
        request.at += size
        request.start += size
        request.rest -= size
        if request.rest and request.start % BOUNDARY:
            raise ProtocolError(f"malformed TLP: a completion ends at {request.start:#x}")
        if not request.rest:
            self._finish(packet.tag, None)

    def complete(self, packet: Completion) -> Failure | None:
        """Take any other completion; return the failure that it is. Raises ProtocolError likewise."""
        request = self._request(packet.header.tag, packet.header.requester)
        failure: Failure | None = None
        if packet.status is not CompletionStatus.SUCCESS:
            failure = FAILURES[packet.status]
        elif packet.header.poisoned:
            failure = Failure.POISONED
        elif packet.data or request.memory or request.rest:
            raise ProtocolError(f"unexpected completion: {len(packet.data)} bytes for tag {packet.header.tag}")
        self._finish(packet.header.tag, failure)
        return failure

    def lose(self) -> None:
        """End all requests: the link went down."""
        requests = [*self._waiting, *self._tags.outstanding.values()]
        self._waiting.clear()
        self._tags = TagTable(8)
        for request in requests:
            request.transfer.missing = 0
            request.transfer.failure = Failure.LINK_DOWN

    def _request(self, tag: int, requester: int) -> _Request:
        try:
            request = self._tags.get(tag)
        except UnexpectedCompletion as error:
            raise ProtocolError(f"unexpected completion: {error}") from None
        if requester != request.requester:
            raise ProtocolError(f"unexpected completion: tag {tag} for requester {requester:#06x}")
        return request

    def _finish(self, tag: int, failure: Failure | None) -> None:
        transfer = self._tags.give(tag).transfer
        transfer.missing -= 1
        transfer.failure = transfer.failure or failure
