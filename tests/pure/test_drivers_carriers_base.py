"""A field of the configuration is accessed in its own width."""

from __future__ import annotations

import pytest

from drivers.carriers.base import read_field, write_field

START = 0x100


@pytest.mark.parametrize(
    ("offset", "size", "step"),
    [(3, 1, 1), (6, 2, 2), (12, 4, 4), (8, 8, 4), (0, 6, 1), (5, 2, 1)],
    ids=["byte", "word", "double word", "64 bits", "address", "unaligned"],
)
def test_a_field_is_read_and_written_by_accesses_of_its_width(offset: int, size: int, step: int) -> None:
    registers, sizes = bytearray(range(32)), list[int]()

    def read(at: int, width: int) -> int:
        sizes.append(width)
        return int.from_bytes(registers[at - START : at - START + width], "little")

    def write(at: int, width: int, value: int) -> None:
        sizes.append(width)
        registers[at - START : at - START + width] = value.to_bytes(width, "little")

    field = slice(offset, offset + size)
    assert read_field(read, START, offset, size) == registers[field]
    write_field(write, START, offset, b"\xaa" * size)
    assert registers == bytes(range(offset)) + b"\xaa" * size + bytes(range(offset + size, 32))
    assert sizes == [step] * (2 * (size // step))
