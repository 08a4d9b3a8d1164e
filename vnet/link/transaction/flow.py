"""Tags of outstanding requests, and credits of the receiver's buffers, as tables (PCI Express 2.2.6.2, 2.6.1)."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from enum import Enum
from typing import Generic, TypeVar

import attrs

from vnet.link.transaction.errors import UnexpectedCompletion
from vnet.link.transaction.fields import TlpKind
from vnet.link.transaction.packets import ConfigRead, MemoryRead, Tlp

__all__ = ["CREDIT", "FLOWS", "TAGS", "Credits", "CreditTable", "Flow", "TagTable", "credits_of"]

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


def credits_of(packet: Tlp) -> tuple[int, int]:
    """Return the header and data credits that ``packet`` takes; its digest is part of the header's."""
    size = 0 if isinstance(packet, MemoryRead | ConfigRead) else len(packet.data)
    return 1, -(-size // CREDIT)


class CreditTable:
    """A sender's credits by flow: what the receiver granted, less what packets took."""

    def __init__(self, granted: Mapping[Flow, Credits]) -> None:
        self._left = {flow: granted[flow] for flow in Flow}

    def left(self, flow: Flow) -> Credits:
        """Return the credits that are left."""
        return self._left[flow]

    def take(self, packet: Tlp) -> bool:
        """Take the credits for ``packet``; return False, and take none, if there are too few."""
        flow, left = FLOWS[packet.kind], self._left[FLOWS[packet.kind]]
        headers, data = credits_of(packet)
        if (left.headers is not None and left.headers < headers) or (left.data is not None and left.data < data):
            return False
        self._add(flow, -headers, -data)
        return True

    def give(self, packet: Tlp) -> None:
        """Return the credits of a ``packet`` that the receiver has handled."""
        self._add(FLOWS[packet.kind], *credits_of(packet))

    def _add(self, flow: Flow, headers: int, data: int) -> None:
        left = self._left[flow]
        self._left[flow] = Credits(
            None if left.headers is None else left.headers + headers, None if left.data is None else left.data + data
        )


T = TypeVar("T")


class TagTable(Generic[T]):
    """Outstanding requests by tag. ``bits`` is 5, 8 or 10."""

    def __init__(self, bits: int = 8) -> None:
        self._free = deque(TAGS[bits])
        self._outstanding: dict[int, T] = {}

    def __len__(self) -> int:
        """Return how many requests are outstanding."""
        return len(self._outstanding)

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
