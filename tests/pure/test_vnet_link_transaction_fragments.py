"""Accesses cut into packets and put together again."""

from __future__ import annotations

from itertools import count, pairwise

import attrs
import pytest
from cocotbext.pcie.core.tlp import Tlp as Reference
from hypothesis import given
from hypothesis import strategies as st

from vnet.link.tlp import FRAMING, PcieParameters, read_cost, write_cost
from vnet.link.transaction.codec import emit, parse
from vnet.link.transaction.errors import MalformedTlp, UnexpectedCompletion
from vnet.link.transaction.fields import SIZES, Attribute, CompletionStatus
from vnet.link.transaction.fragments import completion_pieces, completions, failed, pieces, reads, writes
from vnet.link.transaction.packets import Completion, Header, MemoryRead
from vnet.link.transaction.reassembly import Reassembly

HEADER = Header(0x0100, tag=3, attributes=Attribute.RELAXED_ORDERING | Attribute.ID_BASED_ORDERING)
EDGES = (0, 1, 3, 4, 63, 64, 65, 127, 128, 0xF80, 0xFFC, 0xFFD, 0xFFF)
starts = st.builds(
    int.__add__, st.sampled_from((0, 0xFFFF_F000, 1 << 40)), st.sampled_from(EDGES) | st.integers(0, 4095)
)
sizes = st.integers(1, 20_000) | st.sampled_from((1, 2, 3, 4, 5, 64, 128, 4096, 4097))
limits = st.sampled_from(SIZES)
boundaries = st.sampled_from((None, 64, 128))


@given(starts, sizes, limits)
def test_requests_cover_an_access_once_within_their_limits(start: int, size: int, limit: int) -> None:
    cut = list(pieces(start, size, limit))
    assert cut[0].start == start
    assert cut[-1].start + cut[-1].size == start + size
    assert all(one.start + one.size == other.start for one, other in pairwise(cut))
    for piece in cut:
        assert 1 <= piece.length <= limit // 4
        assert piece.start // 4096 == (piece.start + piece.size - 1) // 4096
        other = Reference()
        other.set_addr_be(piece.start, piece.size)
        assert (piece.length, piece.enables) == (other.length, (other.first_be, other.last_be))


@given(starts, st.binary(min_size=1, max_size=9000), limits)
def test_writes_put_each_byte_where_it_belongs(start: int, data: bytes, limit: int) -> None:
    memory: dict[int, int] = {}
    for sent in writes(HEADER, start, data, limit):
        packet = parse(emit(sent), limit)
        assert packet == sent
        length = len(sent.data) // 4
        for word in range(length):
            enabled = sent.first if word == 0 else sent.last if word == length - 1 else 0xF
            for byte in range(4):
                if enabled >> byte & 1:
                    address = sent.address + word * 4 + byte
                    assert address not in memory
                    memory[address] = sent.data[word * 4 + byte]
    assert memory == dict(enumerate(data, start))


@given(starts, sizes, limits, limits, boundaries)
def test_reads_are_answered_within_limits_and_put_together(
    start: int, size: int, request: int, payload: int, boundary: int | None
) -> None:
    content = bytes((start + at) * 37 % 251 for at in range(size))
    data = b""
    for read in reads(HEADER, count(), start, size, request):
        assert parse(emit(read)) == read
        reassembly = Reassembly(read, boundary or 64)
        at = read.start - start
        for answer in completions(read, content[at : at + read.size], 0x0208, payload, boundary):
            assert not reassembly.done
            assert (answer.header.tag, answer.header.attributes) == (read.header.tag, Attribute.RELAXED_ORDERING)
            back = parse(emit(answer), payload)
            assert isinstance(back, Completion)
            assert reassembly.add(back) == (answer.byte_count == answer.data_size)
        assert reassembly.status is CompletionStatus.SUCCESS
        data += reassembly.data
    assert data == content


@given(sizes, limits, limits, boundaries)
def test_the_cost_of_a_transfer_is_that_of_its_packets(
    size: int, payload: int, request: int, boundary: int | None
) -> None:
    parameters = PcieParameters(max_payload=payload, max_read_request=request, completion_boundary=boundary)
    start = 1 << 40
    posted = list(writes(HEADER, start, bytes(size), payload))
    requests = list(reads(HEADER, count(), start, size, request))
    answers = [answer for read in requests for answer in completions(read, bytes(read.size), 0, payload, boundary)]
    read = read_cost(parameters, size)
    assert read.completion is not None
    for cost, packets in (
        (write_cost(parameters, size).request, posted),
        (read.request, requests),
        (read.completion, answers),
    ):
        assert (cost.tlps, cost.wire) == (len(packets), sum(FRAMING + len(emit(packet)) for packet in packets))
        assert {packet.kind for packet in packets} == {cost.kind}


def test_an_access_of_no_bytes_takes_no_request() -> None:
    assert list(pieces(100, 0, 128)) == []
    assert list(completion_pieces(100, 0, 128)) == []


def test_requests_end_early_without_tags() -> None:
    assert [read.header.tag for read in reads(HEADER, (5, 9), 0, 4096, 512)] == [5, 9]


@pytest.mark.parametrize(
    ("first", "last", "length", "count", "lower"),
    [
        # The rows of the specification's tables of byte counts and lower addresses (2.3.1.1).
        (0b1001, 0, 1, 4, 0),
        (0b0101, 0, 1, 3, 0),
        (0b1010, 0, 1, 3, 1),
        (0b0011, 0, 1, 2, 0),
        (0b0110, 0, 1, 2, 1),
        (0b1100, 0, 1, 2, 2),
        (0b0001, 0, 1, 1, 0),
        (0b0100, 0, 1, 1, 2),
        (0b1000, 0, 1, 1, 3),
        (0b0000, 0, 1, 1, 0),
        (0b0001, 0b1000, 2, 8, 0),
        (0b0001, 0b0100, 2, 7, 0),
        (0b0001, 0b0010, 2, 6, 0),
        (0b1111, 0b0001, 2, 5, 0),
        (0b0010, 0b1000, 2, 7, 1),
        (0b1100, 0b0111, 3, 9, 2),
        (0b1000, 0b0001, 2, 2, 3),
    ],
)
def test_byte_counts_and_lower_addresses_are_those_of_the_tables(
    first: int, last: int, length: int, count: int, lower: int
) -> None:
    read = MemoryRead(header=HEADER, address=0x1000, first=first, last=last, length=length)
    answer = failed(read, 0, CompletionStatus.UNSUPPORTED_REQUEST)
    assert (answer.byte_count, answer.lower_address) == (count, lower)
    [whole] = completions(read, bytes(read.size), 0, 128)
    assert (whole.byte_count, whole.lower_address, len(whole.data)) == (count, lower, length * 4)


def test_a_read_that_enables_no_byte_is_answered_by_one_doubleword() -> None:
    read = MemoryRead(header=HEADER, address=0x1000, first=0, length=1)
    [answer] = completions(read, b"", 0, 128)
    reassembly = Reassembly(read)
    assert reassembly.add(answer)
    assert reassembly.data == b""


def test_an_answer_has_as_many_bytes_as_its_request() -> None:
    read = MemoryRead(header=HEADER, address=0, length=1)
    with pytest.raises(ValueError, match="3 bytes for a request of 4"):
        next(completions(read, b"abc", 0, 128))


READ = MemoryRead(header=HEADER, address=0x1020, length=64, last=0xF)
ANSWERS = tuple(completions(READ, bytes(range(256)), 0x0208, 128, 64))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"header": Header(0x0101, 3, attributes=HEADER.attributes)}, "has requester 0x101: must be 0x100"),
        ({"header": Header(0x0100, 4, attributes=HEADER.attributes)}, "has tag 0x4: must be 0x3"),
        ({"header": Header(0x0100, 3, 1, HEADER.attributes)}, "has traffic class 0x1: must be 0x0"),
        ({"header": Header(0x0100, 3)}, "has attributes 0x0: must be 0x2"),
        ({"byte_count": 255}, "has byte count 0xff: must be 0x100"),
        ({"lower_address": 0x24}, "has lower address 0x24: must be 0x20"),
        ({"data": b""}, "without data"),
    ],
)
def test_a_completion_that_does_not_suit_its_request_is_refused_and_changes_nothing(
    changes: dict[str, object], message: str
) -> None:
    reassembly = Reassembly(READ)
    with pytest.raises(UnexpectedCompletion, match=message):
        reassembly.add(attrs.evolve(ANSWERS[0], **changes))  # type: ignore[arg-type]
    assert [reassembly.add(answer) for answer in ANSWERS] == [*[False] * (len(ANSWERS) - 1), True]
    assert reassembly.data == bytes(range(256))


def test_completions_out_of_order_twice_or_too_late_are_refused() -> None:
    reassembly = Reassembly(READ)
    with pytest.raises(UnexpectedCompletion, match="byte count"):
        reassembly.add(ANSWERS[1])
    reassembly.add(ANSWERS[0])
    with pytest.raises(UnexpectedCompletion, match="byte count"):
        reassembly.add(ANSWERS[0])
    for answer in ANSWERS[1:]:
        reassembly.add(answer)
    with pytest.raises(UnexpectedCompletion, match="tag 3, whose request is done"):
        reassembly.add(ANSWERS[-1])


def test_a_completion_ends_at_a_read_completion_boundary() -> None:
    with pytest.raises(MalformedTlp, match="a completion ends at 0x1040: must be a multiple of 128"):
        Reassembly(READ, 128).add(ANSWERS[0])


def test_a_failure_ends_a_request_and_damaged_data_are_marked() -> None:
    reassembly = Reassembly(READ)
    reassembly.add(attrs.evolve(ANSWERS[0], header=attrs.evolve(ANSWERS[0].header, poisoned=True)))
    assert reassembly.poisoned
    assert reassembly.add(failed(READ, 0x0208, CompletionStatus.COMPLETER_ABORT))
    assert reassembly.status is CompletionStatus.COMPLETER_ABORT
    assert len(reassembly.data) == 32
