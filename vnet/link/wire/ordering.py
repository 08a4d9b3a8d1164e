"""Packets that wait to be sent, and which of them may pass which (PCI Express 2.4.1)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from enum import Enum

import attrs

from vnet.link.transaction.fields import Attribute, TlpKind
from vnet.link.transaction.flow import FLOWS, Flow
from vnet.link.transaction.packets import Tlp

__all__ = ["PASSING", "ROWS", "Passing", "Row", "SendQueue"]


class Row(Enum):
    """A row or column of the table."""

    POSTED = "posted"
    READ = "read"
    NON_POSTED_WRITE = "non-posted write"
    COMPLETION = "completion"


class Passing(Enum):
    """Whether a packet may pass an earlier one."""

    NO = "no"
    RELAXED = "only with relaxed ordering"
    PERMITTED = "yes"
    REQUIRED = "must be able to"
    """The link could deadlock otherwise."""


ROWS: Mapping[TlpKind, Row] = {
    TlpKind.MWR: Row.POSTED,
    TlpKind.MSG: Row.POSTED,
    TlpKind.MRD: Row.READ,
    TlpKind.CFG_RD: Row.READ,
    TlpKind.CFG_WR: Row.NON_POSTED_WRITE,
    TlpKind.CPL: Row.COMPLETION,
    TlpKind.CPLD: Row.COMPLETION,
}
_PASSING: Mapping[Row, tuple[Passing, Passing, Passing, Passing]] = {
    Row.POSTED: (Passing.RELAXED, Passing.REQUIRED, Passing.REQUIRED, Passing.PERMITTED),
    Row.READ: (Passing.NO, Passing.PERMITTED, Passing.PERMITTED, Passing.PERMITTED),
    Row.NON_POSTED_WRITE: (Passing.RELAXED, Passing.PERMITTED, Passing.PERMITTED, Passing.PERMITTED),
    Row.COMPLETION: (Passing.RELAXED, Passing.REQUIRED, Passing.REQUIRED, Passing.PERMITTED),
}
PASSING: Mapping[tuple[Row, Row], Passing] = {
    (later, earlier): passing for later, row in _PASSING.items() for earlier, passing in zip(Row, row, strict=True)
}
"""Cells by the later and the earlier packet. Completions of one request stay in order; these are of different ones."""


@attrs.frozen
class _Waiting:
    serial: int
    row: Row
    relaxed: bool
    packet: bytes


class SendQueue:
    """Packets by flow. Within a flow they stay in order, which the table permits everywhere."""

    def __init__(self) -> None:
        self._flows: dict[Flow, deque[_Waiting]] = {flow: deque() for flow in Flow}
        self._serial = 0

    def __len__(self) -> int:
        return sum(map(len, self._flows.values()))

    def add(self, packet: Tlp, data: bytes) -> None:
        """Add a packet, whose bytes are ``data``."""
        kind = packet.kind
        relaxed = bool(packet.header.attributes & Attribute.RELAXED_ORDERING)
        self._flows[FLOWS[kind]].append(_Waiting(self._serial, ROWS[kind], relaxed, data))
        self._serial += 1

    def clear(self) -> None:
        for flow in self._flows.values():
            flow.clear()

    def take(self, accepts: Callable[[bytes], bool]) -> bytes | None:
        """Return the earliest packet that is accepted and may pass those before it; None without one."""
        flows = sorted((flow for flow in self._flows.values() if flow), key=lambda flow: flow[0].serial)
        for at, flow in enumerate(flows):
            head = flow[0]
            if all(self._may_pass(head, earlier[0]) for earlier in flows[:at]) and accepts(head.packet):
                flow.popleft()
                return head.packet
        return None

    @staticmethod
    def _may_pass(later: _Waiting, earlier: _Waiting) -> bool:
        passing = PASSING[later.row, earlier.row]
        return later.relaxed if passing is Passing.RELAXED else passing is not Passing.NO
