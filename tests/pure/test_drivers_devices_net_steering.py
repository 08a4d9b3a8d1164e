"""Parameters of receive-side scaling, from and to bytes."""

from __future__ import annotations

import struct

import pytest

from drivers.devices.net.steering import KEY, TABLE_LENGTH, HashConfig, RssConfig, fill_table

CONFIG = RssConfig(HashConfig(0x1FF, KEY), (0, 1, 2, 1), 2, 3)
HEAD, BEHIND = struct.pack("<IHH", 0x1FF, 3, 2), struct.pack("<HB", 3, 40)


def test_parameters_are_laid_out_as_specified() -> None:
    assert CONFIG.emit() == HEAD + struct.pack("<4H", 0, 1, 2, 1) + BEHIND + KEY
    assert RssConfig.parse(CONFIG.emit()) == CONFIG


def test_the_reserved_bit_of_a_queue_is_ignored() -> None:
    data = struct.pack("<IHH", 0x1FF, 3, 0x8002) + struct.pack("<4H", 0x8000, 1, 0x8002, 1) + BEHIND + KEY
    assert RssConfig.parse(data) == CONFIG


def table(entries: int, length: int | None = None) -> bytes:
    mask = (entries if length is None else length) - 1
    return struct.pack("<IHH", 1, mask, 0) + bytes(2 * entries) + BEHIND + KEY


@pytest.mark.hostile("N07")
@pytest.mark.parametrize(
    "data",
    [
        *(b"", HEAD[:7], HEAD, HEAD + bytes(8), HEAD + bytes(8) + BEHIND[:2]),
        *(CONFIG.emit()[:-1], CONFIG.emit() + b"\0"),
        *(table(3), table(256), table(4, 8), table(8, 4), table(4, 0x10000)),
        HEAD + bytes(8) + struct.pack("<HB", 0, 40) + KEY,
        HEAD + bytes(8) + struct.pack("<HB", 3, 41) + KEY,
    ],
)
def test_data_of_another_size_than_they_say_are_none(data: bytes) -> None:
    assert RssConfig.parse(data) is None


def test_types_and_keys_beyond_a_device_are_not_valid() -> None:
    assert HashConfig(0x1FF, KEY).valid
    assert not HashConfig(0x200, KEY).valid
    assert not HashConfig(1, bytes(41)).valid


@pytest.mark.parametrize(("most", "length"), [(128, 128), (255, 128), (4096, TABLE_LENGTH), (100, 64), (1, 1)])
def test_a_table_has_as_many_entries_as_a_power_of_two(most: int, length: int) -> None:
    filled = fill_table((0, 1, 2), most)
    assert len(filled) == length
    assert filled[:3] == (0, 1, 2)[:length]
