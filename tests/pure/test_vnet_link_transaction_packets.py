"""Packets of the transaction layer as values: which exist, and what they say of the bytes that they concern."""

from __future__ import annotations

import pytest

from vnet.link.transaction.errors import MalformedTlp
from vnet.link.transaction.fields import MessageCode
from vnet.link.transaction.packets import Completion, Header, MemoryRead, MemoryWrite, Message, slot_power

HEADER = Header(0x0100, tag=0x5A)


def test_the_limit_of_a_slot_is_in_watts() -> None:
    packet = Message(header=Header(0), code=MessageCode.SET_SLOT_POWER_LIMIT, data=bytes.fromhex("fa010000"))
    assert slot_power(packet) == 25.0


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: Header(0x10000), "requester = 0x10000: must be 0 to 0xffff"),
        (lambda: Header(0, tag=1024), "tag = 0x400: must be 0 to 0x3ff"),
        (lambda: MemoryRead(header=HEADER, address=2, length=1), "address = 0x2: must be 0 to .* in multiples of 4"),
        (lambda: MemoryRead(header=HEADER, address=0, length=0), "length = 0 doublewords: must be 1 to 1024"),
        (lambda: MemoryWrite(header=HEADER, address=0, data=b""), "0 bytes of data: must be 4 to 4096"),
        (lambda: MemoryWrite(header=HEADER, address=0, data=b"abc"), "3 bytes of data: must be 4 to 4096"),
        (lambda: Completion(header=HEADER, completer=0, byte_count=4097), "byte count = 4097: must be 1 to 4096"),
    ],
)
def test_a_packet_that_breaks_a_rule_does_not_exist(wrong: object, message: str) -> None:
    assert callable(wrong)
    with pytest.raises(MalformedTlp, match=message):
        wrong()


@pytest.mark.parametrize(
    ("length", "first", "last", "start", "size"),
    [
        (1, 0b1111, 0, 0x1000, 4),
        (1, 0b1000, 0, 0x1003, 1),
        (1, 0b0110, 0, 0x1001, 2),
        (1, 0b1001, 0, 0x1000, 4),
        (2, 0b1110, 0b0001, 0x1001, 4),
        (1024, 0b1000, 0b0111, 0x1003, 4092),
    ],
)
def test_a_read_is_of_the_bytes_from_the_first_enabled_one_to_the_last(
    length: int, first: int, last: int, start: int, size: int
) -> None:
    read = MemoryRead(header=HEADER, address=0x1000, length=length, first=first, last=last)
    assert (read.start, read.size, read.byte_count) == (start, size, size)


def test_a_flush_reads_nothing_and_its_completion_counts_one_byte() -> None:
    flush = MemoryRead(header=HEADER, address=0x1000, length=1, first=0)
    assert (flush.start, flush.size, flush.byte_count) == (0x1000, 0, 1)


@pytest.mark.parametrize(
    ("lower_address", "byte_count", "doublewords", "carried"),
    [(0, 4, 1, 4), (3, 1, 1, 1), (0x7E, 2, 1, 2), (1, 100, 2, 7), (2, 3, 2, 3)],
)
def test_a_completion_carries_the_bytes_from_its_lower_address_on_up_to_its_count(
    lower_address: int, byte_count: int, doublewords: int, carried: int
) -> None:
    completion = Completion(
        header=HEADER, completer=0, byte_count=byte_count, lower_address=lower_address, data=bytes(4 * doublewords)
    )
    assert completion.data_size == carried
