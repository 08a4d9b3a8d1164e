"""Tags and credits."""

from __future__ import annotations

import pytest

from vnet.link.transaction.codec import emit
from vnet.link.transaction.errors import UnexpectedCompletion
from vnet.link.transaction.fields import MessageCode, TlpKind
from vnet.link.transaction.flow import FLOWS, TAGS, Flow, TagTable, Taken, taken_by
from vnet.link.transaction.packets import Completion, ConfigWrite, Header, MemoryRead, MemoryWrite, Message, Tlp

HEADER = Header(0, digest=True)
READ = MemoryRead(header=HEADER, address=0, length=1024, last=0xF)


def write(size: int) -> MemoryWrite:
    return MemoryWrite(header=HEADER, address=0, last=0xF if size > 4 else 0, data=bytes(size))


@pytest.mark.parametrize(
    ("packet", "flow", "data"),
    [
        (READ, Flow.NON_POSTED, 0),
        (write(4), Flow.POSTED, 1),
        (write(16), Flow.POSTED, 1),
        (write(20), Flow.POSTED, 2),
        (write(4096), Flow.POSTED, 256),
        (ConfigWrite(header=HEADER, target=0, register=0, data=bytes(4)), Flow.NON_POSTED, 1),
        (Message(header=HEADER, code=MessageCode.PM_PME), Flow.POSTED, 0),
        (Completion(header=HEADER, completer=0), Flow.COMPLETION, 0),
        (Completion(header=HEADER, completer=0, data=bytes(4)), Flow.COMPLETION, 1),
    ],
)
def test_a_packet_takes_one_header_credit_and_one_data_credit_for_16_bytes(packet: Tlp, flow: Flow, data: int) -> None:
    assert FLOWS[packet.kind] is flow
    assert taken_by(emit(packet)) == Taken(flow, 1, data)


def test_each_kind_belongs_to_a_flow() -> None:
    assert set(FLOWS) == set(TlpKind)


@pytest.mark.parametrize("bits", TAGS)
def test_each_outstanding_request_has_a_tag_of_its_own(bits: int) -> None:
    table: TagTable[str] = TagTable(bits)
    tags = [table.take(f"request {at}") for at in range(len(TAGS[bits]))]
    assert tags == list(TAGS[bits])
    assert table.take("one more") is None
    freed = TAGS[bits][7]
    assert table.give(freed) == "request 7"
    assert len(table) == len(TAGS[bits]) - 1
    assert table.take("one more") == freed
    assert table.get(freed) == "one more"


def test_the_tag_that_is_free_for_longest_is_taken_next() -> None:
    """A late completion then meets no new request for as long as possible."""
    table: TagTable[int] = TagTable(5)
    tag = table.take(0)
    assert tag == 0
    table.give(tag)
    assert [table.take(at) for at in range(32)] == [*range(1, 32), 0]


def test_a_completion_without_a_request_is_unexpected() -> None:
    table: TagTable[str] = TagTable()
    for lookup in (table.get, table.give):
        with pytest.raises(UnexpectedCompletion, match="tag 9 has no outstanding request"):
            lookup(9)
