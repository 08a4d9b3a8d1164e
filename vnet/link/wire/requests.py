"""Requests of one port that wait for completions, each with its own clock (PCI Express 2.3.2, 2.8)."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator

import attrs

from vnet.link.transaction.errors import UnexpectedCompletion
from vnet.link.transaction.fields import CompletionStatus
from vnet.link.transaction.flow import TagTable
from vnet.link.transaction.fragments import Piece, pieces, read_of
from vnet.link.transaction.packets import Completion, ConfigRead, ConfigWrite, Header, MemoryRead
from vnet.link.transaction.reassembly import Reassembly
from vnet.link.wire.errors import Failure

__all__ = ["FAILURES", "Requests", "Transfer"]

Request = MemoryRead | ConfigRead | ConfigWrite
TAG_BITS = 8
FAILURES = {
    CompletionStatus.UNSUPPORTED_REQUEST: Failure.UNSUPPORTED,
    CompletionStatus.RETRY: Failure.UNSUPPORTED,
    CompletionStatus.COMPLETER_ABORT: Failure.ABORTED,
}


@attrs.define(eq=False)
class Transfer:
    """One access: the answers to its requests so far."""

    parts: list[bytes]
    """Answers by the number of the request."""
    missing: int
    """Requests without an answer."""
    failure: Failure | None = None
    """The first failure of a request."""

    @property
    def done(self) -> bool:
        return self.missing == 0

    @property
    def result(self) -> bytes | Failure:
        """The data, or why there is none."""
        return b"".join(self.parts) if self.failure is None else self.failure

    def answer(self, number: int, data: bytes | Failure) -> None:
        """Take the outcome of a request."""
        self.missing -= 1
        if isinstance(data, Failure):
            self.failure = self.failure or data
        else:
            self.parts[number] = data


@attrs.define(eq=False)
class _Pending:
    transfer: Transfer
    number: int
    deadline: float
    request: Request = attrs.field(init=False)
    reassembly: Reassembly | None = None


class Requests:
    """Reads are cut into requests, which are sent as tags are free. Times in nanoseconds."""

    def __init__(self, timeout: float, max_read_request: int, boundary: int) -> None:
        """``boundary`` is the completer's read completion boundary."""
        self._timeout = timeout
        self._max_read_request = max_read_request
        self._boundary = boundary
        self._waiting: deque[tuple[Transfer, Header, int, Piece]] = deque()
        self._configuration: deque[tuple[Transfer, ConfigRead | ConfigWrite]] = deque()
        self._tags: TagTable[_Pending] = TagTable(TAG_BITS)
        """Requests that were sent; the oldest one has the first deadline."""

    def __len__(self) -> int:
        """Return how many requests wait for a completion."""
        return len(self._tags)

    def read(self, header: Header, start: int, size: int) -> Transfer:
        """Begin a read of memory."""
        parts = list(pieces(start, size, self._max_read_request))
        transfer = Transfer([b""] * len(parts), len(parts))
        self._waiting.extend((transfer, header, number, piece) for number, piece in enumerate(parts))
        return transfer

    def configure(self, request: ConfigRead | ConfigWrite) -> Transfer:
        """Begin a configuration request."""
        transfer = Transfer([b""], 1)
        self._configuration.append((transfer, request))
        return transfer

    def issue(self, now: float) -> Iterator[Request]:
        """Yield the requests to send now, each with a tag."""
        deadline = now + self._timeout
        while self._configuration and not self._tags.full:
            transfer, config = self._configuration.popleft()
            pending = _Pending(transfer, 0, deadline)
            pending.request = attrs.evolve(config, header=attrs.evolve(config.header, tag=self._take_tag(pending)))
            yield pending.request
        while self._waiting and not self._tags.full:
            transfer, header, number, piece = self._waiting.popleft()
            pending = _Pending(transfer, number, deadline)
            pending.request = read = read_of(attrs.evolve(header, tag=self._take_tag(pending)), piece)
            pending.reassembly = Reassembly(read, self._boundary)
            yield read

    def _take_tag(self, pending: _Pending) -> int:
        tag = self._tags.take(pending)
        assert tag is not None  # one is free
        return tag

    def complete(self, completion: Completion) -> bool:
        """Take a completion; return whether its data was poisoned.

        Raises:
            UnexpectedCompletion: it answers no request.
            MalformedTlp: it ends at no read completion boundary.
        """
        tag = completion.header.tag
        pending = self._tags.get(tag)
        if pending.reassembly is None:
            self._complete_configuration(pending, completion)
        elif pending.reassembly.add(completion):
            self._finish(tag, self._outcome(pending.reassembly))
        return completion.header.poisoned

    def _complete_configuration(self, pending: _Pending, completion: Completion) -> None:
        header = pending.request.header
        if completion.header.requester != header.requester:
            raise UnexpectedCompletion(f"a completion with tag {header.tag} for {completion.header.requester:#06x}")
        if completion.status is not CompletionStatus.SUCCESS:
            self._finish(header.tag, FAILURES[completion.status])
        elif isinstance(pending.request, ConfigRead) and not completion.data:
            raise UnexpectedCompletion("a successful completion of a configuration read without data")
        else:
            self._finish(header.tag, Failure.POISONED if completion.header.poisoned else completion.data)

    @staticmethod
    def _outcome(reassembly: Reassembly) -> bytes | Failure:
        assert reassembly.status is not None  # it is done
        if reassembly.status is not CompletionStatus.SUCCESS:
            return FAILURES[reassembly.status]
        return Failure.POISONED if reassembly.poisoned else reassembly.data

    def _finish(self, tag: int, outcome: bytes | Failure) -> None:
        pending = self._tags.give(tag)
        pending.transfer.answer(pending.number, outcome)

    @property
    def deadline(self) -> float:
        """Time of the next time-out."""
        for pending in self._tags.outstanding.values():
            return pending.deadline
        return math.inf

    def expire(self, now: float) -> list[Request]:
        """End the requests whose time is over, and return them."""
        late = [(tag, pending) for tag, pending in self._tags.outstanding.items() if now >= pending.deadline]
        for tag, _ in late:
            self._finish(tag, Failure.TIMEOUT)
        return [pending.request for _, pending in late]

    def lose(self) -> None:
        """End all requests: the link went down."""
        waiting = [transfer for transfer, *_ in self._waiting]
        configuration = [transfer for transfer, _ in self._configuration]
        pending = [pending.transfer for pending in self._tags.outstanding.values()]
        self._waiting.clear()
        self._configuration.clear()
        self._tags = TagTable(TAG_BITS)
        for transfer in (*waiting, *configuration, *pending):
            transfer.answer(0, Failure.LINK_DOWN)
