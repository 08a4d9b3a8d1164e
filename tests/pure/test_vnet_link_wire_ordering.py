"""Ordering of packets: the table, and the queue that follows it."""

from __future__ import annotations

import pytest

from vnet.link.transaction.codec import emit
from vnet.link.transaction.fields import Attribute, TlpKind
from vnet.link.transaction.flow import FLOWS, Flow, taken_by
from vnet.link.transaction.packets import Completion, ConfigWrite, Header, MemoryRead, MemoryWrite, Tlp
from vnet.link.wire.ordering import PASSING, ROWS, Passing, Row, SendQueue

RELAXED = Header(0x100, attributes=Attribute.RELAXED_ORDERING)


def packet(row: Row, relaxed: bool = False, tag: int = 0) -> Tlp:
    header = Header(0x100, tag, attributes=Attribute.RELAXED_ORDERING if relaxed else Attribute.NONE)
    match row:
        case Row.POSTED:
            return MemoryWrite(header=header, address=4 * tag, data=bytes(4))
        case Row.READ:
            return MemoryRead(header=header, address=4 * tag, length=1)
        case Row.NON_POSTED_WRITE:
            return ConfigWrite(header=Header(0, tag), target=0x100, register=0, data=bytes(4))
        case Row.COMPLETION:
            return Completion(header=header, completer=0, data=bytes(4))


def queue_of(*packets: Tlp) -> SendQueue:
    queue = SendQueue()
    for each in packets:
        queue.add(each, emit(each))
    return queue


def test_each_kind_of_packet_has_a_row_and_the_table_is_whole() -> None:
    assert set(ROWS) == set(TlpKind)
    assert set(PASSING) == {(later, earlier) for later in Row for earlier in Row}


def test_the_table_is_that_of_the_specification() -> None:
    no, relaxed, yes, must = Passing.NO, Passing.RELAXED, Passing.PERMITTED, Passing.REQUIRED
    assert [[PASSING[later, earlier] for earlier in Row] for later in Row] == [
        [relaxed, must, must, yes],
        [no, yes, yes, yes],
        [relaxed, yes, yes, yes],
        [relaxed, must, must, yes],
    ]


PAIRS = [
    (later, earlier) for later in Row for earlier in Row if FLOWS[packet(later).kind] is not FLOWS[packet(earlier).kind]
]
"""Packets of two flows: those of one stay in order."""


@pytest.mark.parametrize(("later", "earlier"), PAIRS)
@pytest.mark.parametrize("relaxed", [False, True])
def test_a_packet_passes_a_blocked_one_if_the_table_says_so(later: Row, earlier: Row, relaxed: bool) -> None:
    first, second = packet(earlier, tag=1), packet(later, relaxed, tag=2)
    blocked = FLOWS[first.kind]
    queue = queue_of(first, second)
    taken = queue.take(lambda data: taken_by(data).flow is not blocked)
    asks = second.header.attributes & Attribute.RELAXED_ORDERING
    passes = PASSING[later, earlier]
    expected = bool(asks) if passes is Passing.RELAXED else passes is not Passing.NO
    assert (taken == emit(second)) == expected
    assert len(queue) == 2 - expected


def test_packets_leave_in_their_order_while_nothing_is_blocked() -> None:
    packets = [packet(row, tag=tag) for tag, row in enumerate([*Row, *reversed(Row)])]
    queue = queue_of(*packets)
    assert [queue.take(lambda _: True) for _ in packets] == [emit(each) for each in packets]
    assert queue.take(lambda _: True) is None


def test_a_read_pushes_the_writes_before_it() -> None:
    """The flow of a device that writes data and then reads: the read must not arrive first."""
    queue = queue_of(packet(Row.POSTED, tag=1), packet(Row.READ, tag=2))
    assert queue.take(lambda data: taken_by(data).flow is Flow.NON_POSTED) is None
