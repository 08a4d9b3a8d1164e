"""Requests over a stream that wait for completions."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from drivers.carriers.framing import ProtocolError
from vnet.link.transaction.bulk import Bulk, parse_bulk
from vnet.link.transaction.codec import emit, parse
from vnet.link.transaction.fragments import completions
from vnet.link.transaction.packets import Completion, ConfigRead, Header, MemoryRead
from vnet.link.wire.errors import Failure
from vnet.stream.reads import Reads, Transfer

REQUESTER = 0x0100
START = 0x4000_0F80


def reading(size: int) -> tuple[Reads, Transfer, list[MemoryRead]]:
    """Return a read from `START` on, and its requests as they were sent."""
    reads = Reads()
    [transfer] = reads.begin(REQUESTER, [(START, size)])
    sent = [parse(request) for request in reads.issue()]
    requests = [request for request in sent if isinstance(request, MemoryRead)]
    assert len(requests) == len(sent)
    return reads, transfer, requests


def parsed(packets: Iterable[Completion]) -> list[Bulk]:
    bulks = [parse_bulk(memoryview(emit(packet))) for packet in packets]
    return [bulk for bulk in bulks if bulk is not None]


def answer(request: MemoryRead, data: bytes, payload: int = 4096) -> list[Bulk]:
    return parsed(completions(request, data, 0, payload, 64))


def test_a_read_across_4_kib_is_two_requests_whose_answers_come_in_any_order() -> None:
    data = bytes(range(256)) * 2
    reads, transfer, [low, high] = reading(len(data))
    assert (low.start + low.size, high.start) == (0x4000_1000, 0x4000_1000)
    for packet in answer(high, data[low.size :]):
        reads.complete_data(packet)
    assert not transfer.done
    for packet in answer(low, data[: low.size]):
        reads.complete_data(packet)
    assert (transfer.done, transfer.failure, bytes(transfer.data)) == (True, None, data)
    assert not reads.outstanding


def test_completions_of_a_request_come_in_the_order_of_addresses() -> None:
    reads, transfer, [request] = reading(128)
    first, second = answer(request, bytes(range(128)), payload=64)
    with pytest.raises(ProtocolError, match="unexpected completion: 64 bytes"):
        reads.complete_data(second)
    assert not transfer.done
    reads.complete_data(first)
    reads.complete_data(second)
    assert bytes(transfer.data) == bytes(range(128))


def test_requests_wait_for_free_tags() -> None:
    reads = Reads()
    transfers = reads.begin(REQUESTER, [(START + 0x1000 * at, 4) for at in range(300)])
    sent = [parse(request) for request in reads.issue()]
    assert len(sent) == reads.outstanding < len(transfers)
    assert not reads.wanted
    assert isinstance(sent[0], MemoryRead)
    for packet in answer(sent[0], b"1234"):
        reads.complete_data(packet)
    assert reads.wanted
    assert len(list(reads.issue())) == 1


def test_a_link_that_goes_down_ends_all_requests() -> None:
    reads, transfer, _ = reading(512)
    reads.lose()
    assert (transfer.done, transfer.failure, reads.outstanding) == (True, Failure.LINK_DOWN, 0)


def test_the_answer_to_a_configuration_read_has_four_bytes() -> None:
    reads = Reads()
    begun = reads.configure(ConfigRead(header=Header(REQUESTER), target=0, register=0))
    assert begun is not None
    transfer, sent = begun
    request = parse(sent)
    empty = Completion(header=request.header, completer=0)
    with pytest.raises(ProtocolError, match="unexpected completion: 0 bytes"):
        reads.complete(empty)
    long, right = parsed(
        Completion(header=request.header, completer=0, data=data, byte_count=len(data))
        for data in (bytes(8), b"\xf4\x1a\x41\x10")
    )
    with pytest.raises(ProtocolError, match="8 bytes for a configuration request"):
        reads.complete_data(long)
    reads.complete_data(right)
    assert (transfer.done, bytes(transfer.data)) == (True, b"\xf4\x1a\x41\x10")
