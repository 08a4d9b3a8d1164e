"""Completions put together: the data of one read request, in the order that its completions must have."""

from __future__ import annotations

from vnet.link.transaction.errors import MalformedTlp, UnexpectedCompletion
from vnet.link.transaction.fields import Attribute, CompletionStatus
from vnet.link.transaction.packets import Completion, MemoryRead

__all__ = ["Reassembly"]


class Reassembly:
    """The answer to one memory read, as far as it has arrived.

    ``boundary`` is the completer's read completion boundary, 64 or 128 bytes, at whose multiples all completions
    but the last one end.
    """

    def __init__(self, request: MemoryRead, boundary: int = 64) -> None:
        self.request = request
        self.status: CompletionStatus | None = None
        """Outcome; None while completions are missing."""
        self.poisoned = False
        """A completion was marked as damaged."""
        self._boundary = boundary
        self._data = bytearray()

    @property
    def data(self) -> bytes:
        """The bytes so far, from the first enabled one on."""
        return bytes(self._data[: self.request.size])

    @property
    def done(self) -> bool:
        return self.status is not None

    def add(self, completion: Completion) -> bool:
        """Add the next completion; return whether the request is done.

        Raises:
            UnexpectedCompletion: the completion is not the next one of this request; nothing was added.
            MalformedTlp: it ends at no read completion boundary.
        """
        self._check_identity(completion)
        if completion.status is not CompletionStatus.SUCCESS:
            self.status = completion.status
            return True
        rest, address = self.request.byte_count - len(self._data), self.request.start + len(self._data)
        self._check(completion, "byte count", completion.byte_count, rest)
        self._check(completion, "lower address", completion.lower_address, address & 0x7F)
        if not completion.data:
            raise UnexpectedCompletion("a successful completion of a read without data")
        size = completion.data_size
        if size < rest and (address + size) % self._boundary:
            raise MalformedTlp(f"a completion ends at {address + size:#x}: must be a multiple of {self._boundary}")
        offset = completion.lower_address % 4
        self._data += completion.data[offset : offset + size]
        self.poisoned |= completion.header.poisoned
        if size == rest:
            self.status = CompletionStatus.SUCCESS
        return self.done

    def _check_identity(self, completion: Completion) -> None:
        header, request = completion.header, self.request.header
        if self.done:
            raise UnexpectedCompletion(f"a completion with tag {header.tag}, whose request is done")
        self._check(completion, "requester", header.requester, request.requester)
        self._check(completion, "tag", header.tag, request.tag)
        self._check(completion, "traffic class", header.traffic_class, request.traffic_class)
        copied = ~Attribute.ID_BASED_ORDERING
        self._check(completion, "attributes", header.attributes & copied, request.attributes & copied)

    @staticmethod
    def _check(completion: Completion, name: str, value: int, expected: int) -> None:
        if value != expected:
            raise UnexpectedCompletion(
                f"a completion with tag {completion.header.tag} has {name} {int(value):#x}: must be {int(expected):#x}"
            )
