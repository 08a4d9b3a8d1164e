"""Names of the registers in the BARs of an NTB, for traces."""

from __future__ import annotations

from drivers.carriers.ntb_registers import (
    CONFIG_SIZE,
    DB_COUNT,
    DB_ENTRY_SIZE,
    FIRST_DB,
    MSIX_OFFSET,
    SPAD_OFFSET,
    SPADS,
    Bar,
    Word,
)
from drivers.transports.ntb.registers import DB_CONTROL, spad_names

__all__ = ["register_name"]

MSIX_ENTRY = 16
GROUPS = {Word.DB_DATA: 1, Word.DB_OFFSET: 1, Word.MWS: 2}
"""First words of register groups, with the words per member."""
SPAD_NAMES = spad_names()


def register_name(bar: int, offset: int) -> str | None:
    """Return the name of the register, scratchpad or doorbell at ``offset`` of a BAR, or None if there is none."""
    if bar == Bar.WINDOWS:
        return f"window+{offset:#x}"
    if bar == Bar.DOORBELLS:
        doorbell = offset // DB_ENTRY_SIZE - FIRST_DB
        known = 0 <= doorbell < DB_COUNT
        return f"notify[{'control' if DB_CONTROL == 1 << doorbell else doorbell}]" if known else None
    if bar != Bar.CONFIG:
        return None
    if offset < CONFIG_SIZE:
        word = max(word for word in Word if word <= offset)
        size = 4 * GROUPS.get(word, 0)
        return word.name.lower() + (f"[{(offset - word) // size}]" if size else "")
    if MSIX_OFFSET <= offset < SPAD_OFFSET:
        return f"msix[{(offset - MSIX_OFFSET) // MSIX_ENTRY}]+{offset % MSIX_ENTRY:#x}"
    number, at = divmod(offset - SPAD_OFFSET, 4 * SPADS)
    return _spad(("spad", "peer_spad")[number], at) if number in (0, 1) else None


def _spad(bank: str, offset: int) -> str | None:
    name = SPAD_NAMES.get(offset // 4)
    return None if name is None else f"{bank}.{name.lower()}"
