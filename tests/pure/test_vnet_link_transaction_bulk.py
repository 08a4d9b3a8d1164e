"""The quick path of packets that carry data has the bytes of the codec, and takes what the codec takes."""

from __future__ import annotations

from random import Random

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.tlps import random_tlp
from vnet.link.transaction.bulk import (
    Bulk,
    BulkKind,
    emit_completion,
    emit_read,
    emit_write,
    parse_bulk,
    spans,
)
from vnet.link.transaction.codec import emit, parse
from vnet.link.transaction.errors import TlpError
from vnet.link.transaction.fragments import completions, pieces, read_of, writes
from vnet.link.transaction.packets import Completion, Header, MemoryRead, MemoryWrite, Tlp

ranges = st.tuples(st.integers(0, (1 << 40)), st.integers(1, 9000))
IDENTITY = 0x0103


def view_of(packet: Tlp) -> Bulk | None:
    """Return what the quick path must say of a packet, if it takes the packet."""
    header, empty = packet.header, memoryview(b"")
    match packet:
        case MemoryRead():
            return Bulk(BulkKind.READ, header.requester, header.tag, packet.start, packet.size, empty)
        case MemoryWrite():
            begin = packet.first.bit_length() - packet.first.bit_count()
            enabled = packet.first.bit_count() + packet.last.bit_count() + max(0, len(packet.data) - 8)
            data = memoryview(packet.data)[begin : begin + enabled]
            return Bulk(BulkKind.WRITE, header.requester, header.tag, packet.address + begin, enabled, data)
        case Completion():
            low = packet.lower_address % 4
            data = memoryview(packet.data)[low : low + packet.data_size]
            kind = BulkKind.COMPLETION
            return Bulk(kind, header.requester, header.tag, packet.lower_address, packet.byte_count, data)
    return None


@given(ranges)
def test_writes_have_the_bytes_of_the_codec(span: tuple[int, int]) -> None:
    start, size = span
    data = Random(size).randbytes(size)
    slow = [emit(each) for each in writes(Header(IDENTITY), start, data, 4096)]
    quick = [b"".join(emit_write(IDENTITY, at, data[at - start : at - start + n])) for at, n in spans(start, size)]
    assert quick == slow
    assert b"".join(bytes(taken.data) for each in quick if (taken := parse_bulk(memoryview(each)))) == data


@given(ranges, st.integers(0, 255))
def test_reads_and_completions_have_the_bytes_of_the_codec(span: tuple[int, int], tag: int) -> None:
    start, size = span
    for (at, count), piece in zip(spans(start, size), pieces(start, size, 4096), strict=True):
        request = read_of(Header(IDENTITY, tag), piece)
        assert emit_read(IDENTITY, tag, at, count) == emit(request)
        data = Random(count).randbytes(count)
        [slow] = completions(request, data, 7, 4096)
        assert b"".join(emit_completion(IDENTITY, tag, 7, at, data)) == emit(slow)


@pytest.mark.parametrize("seed", range(5))
def test_a_packet_that_the_quick_path_takes_is_as_the_codec_says(seed: int) -> None:
    random, count = Random(seed), 0
    for _ in range(400):
        tlp = random_tlp(random)
        if random.random() < 0.8:
            tlp = attrs.evolve(tlp, header=Header(tlp.header.requester, tlp.header.tag & 0xFF))
        packet = bytearray(emit(tlp))
        if random.random() < 0.5:
            packet[random.randrange(min(16, len(packet)))] ^= 1 << random.randrange(8)
        if random.random() < 0.1:
            del packet[random.randrange(len(packet)) :]
        taken = parse_bulk(memoryview(packet))
        if taken is not None:
            count += 1
            assert taken == view_of(parse(bytes(packet)))
    assert count > 20


@pytest.mark.hostile("L08")
@given(st.binary(max_size=80))
def test_bytes_that_the_codec_refuses_are_refused(packet: bytes) -> None:
    taken = parse_bulk(memoryview(packet))
    try:
        right = parse(packet)
    except TlpError:
        assert taken is None
    else:
        assert taken is None or taken == view_of(right)
