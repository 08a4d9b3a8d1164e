"""Tags of outstanding requests, and credits that packets take, as tables (PCI Express 2.2.6.2, 2.6.1)."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from enum import Enum
from typing import Generic, TypeVar

import attrs

from vnet.link.transaction.errors import UnexpectedCompletion
from vnet.link.transaction.fields import (
    DOUBLEWORD,
    TYPE_COMPLETION,
    TYPE_LOCKED_COMPLETION,
    TYPE_MEMORY,
    TYPE_MESSAGE,
    TlpKind,
)

__all__ = ["CREDIT", "FLOWS", "TAGS", "Credits", "Flow", "TagTable", "Taken", "taken_by"]

CREDIT = 16
"""Bytes of data that one data credit stands for."""
TAGS: Mapping[int, range] = {5: range(32), 8: range(256), 10: range(256, 1024)}
"""Usable tags by their bits; those of 10 bits have a bit of the upper two set (2.2.6.2)."""


class Flow(Enum):
    """Packets that share credits."""

    POSTED = "posted"
    NON_POSTED = "non-posted"
    COMPLETION = "completion"


FLOWS: Mapping[TlpKind, Flow] = {
    TlpKind.MWR: Flow.POSTED,
    TlpKind.MSG: Flow.POSTED,
    TlpKind.MRD: Flow.NON_POSTED,
    TlpKind.CFG_RD: Flow.NON_POSTED,
    TlpKind.CFG_WR: Flow.NON_POSTED,
    TlpKind.CPL: Flow.COMPLETION,
    TlpKind.CPLD: Flow.COMPLETION,
}


@attrs.frozen
class Credits:
    """Buffers for packets: ``headers``, and ``data`` in units of 16 bytes. None: without limit."""

    headers: int | None
    data: int | None


@attrs.frozen
class Taken:
    """Credits that a packet takes."""

    flow: Flow
    headers: int
    data: int


def taken_by(packet: bytes) -> Taken:
    """Return the credits of a packet by its first word alone, so also of a malformed one. The digest is free."""
    word = int.from_bytes(packet[:DOUBLEWORD], "big")
    kind, with_data = word >> 24 & 0x1F, word >> 30 & 1
    data = -(-(word & 0x3FF or 1024) * DOUBLEWORD // CREDIT) if with_data else 0
    if kind in (TYPE_COMPLETION, TYPE_LOCKED_COMPLETION):
        flow = Flow.COMPLETION
    elif (kind == TYPE_MEMORY and with_data) or kind & ~7 == TYPE_MESSAGE:
        flow = Flow.POSTED
    else:
        flow = Flow.NON_POSTED
    return Taken(flow, 1, data)


T = TypeVar("T")


class TagTable(Generic[T]):
    """Outstanding requests by tag. ``bits`` is 5, 8 or 10."""

    def __init__(self, bits: int = 8) -> None:
        self._free = deque(TAGS[bits])
        self._outstanding: dict[int, T] = {}

    def __len__(self) -> int:
        """Return how many requests are outstanding."""
        return len(self._outstanding)

    @property
    def full(self) -> bool:
        """Whether all tags are taken."""
        return not self._free

    @property
    def outstanding(self) -> Mapping[int, T]:
        """The requests by tag, the oldest one first."""
        return self._outstanding

    def take(self, request: T) -> int | None:
        """Return a tag for ``request``, the one that is free for longest; None if all are taken."""
        if not self._free:
            return None
        tag = self._free.popleft()
        self._outstanding[tag] = request
        return tag

    def get(self, tag: int) -> T:
        """Return the request with ``tag``; raise `UnexpectedCompletion` if there is none."""
        try:
            return self._outstanding[tag]
        except KeyError:
            raise UnexpectedCompletion(f"tag {tag} has no outstanding request") from None

    def give(self, tag: int) -> T:
        """Free ``tag`` and return its request; raise `UnexpectedCompletion` if there is none."""
        request = self.get(tag)
        del self._outstanding[tag]
        self._free.append(tag)
        return request
