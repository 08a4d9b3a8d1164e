"""The three BARs of an NTB endpoint function as 32-bit registers. No I/O."""

from __future__ import annotations

from collections.abc import Callable

from drivers.carriers.ntb_registers import DB_ENTRY_SIZE, FIRST_DB, SPAD_OFFSET, VECTORS, Word
from vnet.link.base import all_ones

__all__ = ["ConfigBar", "DoorbellBar", "WindowBar", "Words"]

HALVES = Word.STATUS, Word.STATUS + 2
"""Registers of 16 bits."""


class Words:
    """``size`` bytes of 32-bit registers; an access of another size reads 0, or writes nothing."""

    def __init__(self, size: int, read: Callable[[int], int], write: Callable[[int, int], None]) -> None:
        self._size = size
        self._read = read
        self._write = write

    def read(self, offset: int, size: int) -> int:
        return self._read(offset) if self._is_word(offset, size) else 0

    def write(self, offset: int, size: int, value: int) -> None:
        if self._is_word(offset, size):
            self._write(offset, value)

    def _is_word(self, offset: int, size: int) -> bool:
        return size == 4 and not offset % 4 and 0 <= offset < self._size


def bank(spads: list[int]) -> Words:
    """Return the registers of a bank of scratchpads."""

    def write(offset: int, value: int) -> None:
        spads[offset // 4] = int(value)

    return Words(4 * len(spads), lambda offset: spads[offset // 4], write)


class ConfigBar:
    """BAR 0: the configuration region, followed by this host's own scratchpads and by the other host's."""

    def __init__(self, config: Words, clear: Callable[[], None], spads: list[int], peer_spads: list[int]) -> None:
        """``clear`` clears the result of the last command."""
        self._config = config
        self._clear = clear
        self._banks = bank(spads), bank(peer_spads)
        self._size = 4 * len(spads)

    def read(self, offset: int, size: int) -> int:
        if offset >= SPAD_OFFSET:
            number, at = self._spad(offset)
            return self._banks[number].read(at, size)
        if size == 2 and offset in HALVES:
            return self._config.read(Word.STATUS, 4) >> 8 * (offset - Word.STATUS) & all_ones(2)
        return self._config.read(offset, size)

    def write(self, offset: int, size: int, value: int) -> None:
        if offset >= SPAD_OFFSET:
            number, at = self._spad(offset)
            self._banks[number].write(at, size, value)
        elif offset == Word.STATUS and size in (2, 4):
            self._clear()
        else:
            self._config.write(offset, size, value)

    def _spad(self, offset: int) -> tuple[int, int]:
        """Return the number of a bank and the offset in it; the second bank is followed by nothing."""
        number = int(offset - SPAD_OFFSET >= self._size)
        return number, offset - SPAD_OFFSET - number * self._size


class DoorbellBar:
    """BAR 2: the doorbells, one for each vector of the other host."""

    def __init__(self, ring: Callable[[int, int], None]) -> None:
        self._ring = ring

    def read(self, offset: int, size: int) -> int:
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        vector, odd = divmod(offset, DB_ENTRY_SIZE)
        if size == 4 and not odd and FIRST_DB <= vector < VECTORS:
            self._ring(vector - FIRST_DB, value)


class WindowBar:
    """BAR 4 except mapped memory windows."""

    def read(self, offset: int, size: int) -> int:
        return all_ones(size)

    def write(self, offset: int, size: int, value: int) -> None:
        """Ignore the write."""
