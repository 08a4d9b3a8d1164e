"""Values made of the bytes of an input: the same bytes always make the same values, and missing bytes are zeros."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

__all__ = ["Source"]

T = TypeVar("T")
SMALL = 0xC0
"""First bytes below it are a value by themselves."""


class Source:
    """Reads an input from its start to its end."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def left(self) -> int:
        """Bytes that were not read yet."""
        return max(0, len(self._data) - self._at)

    def take(self, size: int) -> bytes:
        """Return the next ``size`` bytes."""
        part = self._data[self._at : self._at + size]
        self._at += size
        return part.ljust(size, b"\0")

    def rest(self) -> bytes:
        return self.take(self.left)

    def byte(self) -> int:
        return self.take(1)[0]

    def word(self, size: int) -> int:
        """Return a little-endian number of ``size`` bytes."""
        return int.from_bytes(self.take(size), "little")

    def number(self, size: int) -> int:
        """Return a number of up to ``size`` bytes, mostly at an edge: small, or near a power of two."""
        first = self.byte()
        if first < SMALL:
            return first & (1 << 8 * size) - 1
        if first < SMALL + 0x20:
            return self.word(size)
        power, offset = divmod(first - SMALL - 0x20, 2)
        return (1 << 8 * size * (power + 1) // 16) - 1 + offset & (1 << 8 * size) - 1

    def flag(self) -> bool:
        return bool(self.byte() & 1)

    def pick(self, values: Sequence[T]) -> T:
        """Return one of ``values``, of which there are at most 256."""
        return values[self.byte() % len(values)]

    def blob(self, longest: int) -> bytes:
        """Return bytes behind their number, at most ``longest`` and at most those that are left."""
        return self.take(min(self.number(2), longest, self.left))

    def cut(self, data: bytes | bytearray) -> list[memoryview]:
        """Return the data as up to four views, none of them empty, as rings have them."""
        rest, parts = memoryview(data), []
        for _ in range(self.byte() & 3):
            at = self.number(1) % (len(rest) + 1)
            parts.append(rest[:at])
            rest = rest[at:]
        return [part for part in [*parts, rest] if len(part)]

    def overwrite(self, area: memoryview | bytearray) -> None:
        """Write a number of up to 8 bytes into an area, at a multiple of its size; cut it to a smaller area."""
        size = 1 << self.byte() % 4
        at = self.number(1) % (len(area) // size) * size if size <= len(area) else 0
        area[at : at + size] = self.number(size).to_bytes(size, "little")[: len(area)]
