"""Requests for statistics, and replies to them, from and to bytes."""

from __future__ import annotations

import random

import pytest

from drivers.devices.net.statistics import QueueCounts, QueueTypes, StatType, parse_replies, parse_types

REQUESTS = (QueueTypes(0, 1), QueueTypes(1, 1 << 16))
RX = QueueCounts(0, StatType.RX_BASIC, range(6))
TX = QueueCounts(1, StatType.TX_BASIC, range(6, 12))


def test_replies_come_out_as_they_went_in() -> None:
    first, second = parse_replies(RX.emit() + TX.emit(), REQUESTS)
    assert first.by_name["rx_drop_overruns"] == 5
    assert list(second.by_name.values()) == list(range(6, 12))


def test_a_reply_of_a_later_device_is_longer_and_one_of_an_earlier_shorter() -> None:
    more, less = (QueueCounts(0, StatType.RX_BASIC, range(count)).emit() for count in (8, 2))
    for data, count in ((more, 6), (less, 2)):
        assert [len(reply.by_name) for reply in parse_replies(data + TX.emit(), REQUESTS)] == [count, 6]


@pytest.mark.parametrize("size", [0, 7, 57, 0xFFFF])
def test_a_reply_whose_size_can_not_be_ends_the_answer(size: int) -> None:
    data = bytearray(RX.emit())
    data[6:8] = size.to_bytes(2, "little")
    assert not list(parse_replies(bytes(data), REQUESTS))
    assert len(list(parse_replies(TX.emit() + bytes(data), REQUESTS))) == 1


def test_an_answer_that_is_cut_has_the_replies_that_are_whole() -> None:
    data = RX.emit() + TX.emit()
    for end in range(len(data)):
        assert len(list(parse_replies(data[:end], REQUESTS))) == end // len(RX.emit())


def test_no_bytes_of_any_kind_raise() -> None:
    rng = random.Random(5)
    for _ in range(5000):
        data = rng.randbytes(rng.randrange(40))
        list(parse_replies(data, REQUESTS))
        parse_types(data)
