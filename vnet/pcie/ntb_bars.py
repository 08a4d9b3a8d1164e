"""The three BARs of an NTB endpoint function as 32-bit registers. No I/O."""

from __future__ import annotations

from collections.abc import Callable

from drivers.carriers.ntb_registers import DB_COUNT, DB_ENTRY_SIZE, MW_ALIGN, SPAD_OFFSET
from vnet.link.base import all_ones

__all__ = ["ConfigBar", "DoorbellBar", "Words", "bank"]


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
    """BAR0: the configuration region, followed by this host's own scratchpads."""

    def __init__(self, config: Words, spads: Words) -> None:
        self._config = config
        self._spads = spads

    def read(self, offset: int, size: int) -> int:
        if offset < SPAD_OFFSET:
            return self._config.read(offset, size)
        return self._spads.read(offset - SPAD_OFFSET, size)

    def write(self, offset: int, size: int, value: int) -> None:
        if offset < SPAD_OFFSET:
            self._config.write(offset, size, value)
        else:
            self._spads.write(offset - SPAD_OFFSET, size, value)


class DoorbellBar:
    """BAR2 except mapped memory windows: the doorbells."""

    def __init__(self, ring: Callable[[int, int], None]) -> None:
        self._ring = ring

    def read(self, offset: int, size: int) -> int:
        return 0 if offset < MW_ALIGN else all_ones(size)

    def write(self, offset: int, size: int, value: int) -> None:
        doorbell, odd = divmod(offset, DB_ENTRY_SIZE)
        if size == 4 and not odd and doorbell < DB_COUNT:
            self._ring(doorbell, value)
