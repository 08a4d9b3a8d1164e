"""Names of the registers in the BARs of a back half, for traces."""

from __future__ import annotations

from drivers.transports.pci.back import BAR, COMMON_AT, DEVICE_AT, ISR_AT, MSIX_BAR, MSIX_ENTRY, MULTIPLIER, NOTIFY_AT
from drivers.transports.pci.registers import COMMON_SIZE, Common

__all__ = ["register_name"]


def register_name(bar: int, offset: int) -> str | None:
    """Return the name of the register at ``offset`` of a BAR, or None if there is none."""
    if bar == MSIX_BAR:
        return f"msix[{offset // MSIX_ENTRY}]+{offset % MSIX_ENTRY:#x}"
    if bar != BAR or offset < COMMON_AT:
        return None
    if offset >= NOTIFY_AT:
        return f"notify[{(offset - NOTIFY_AT) // MULTIPLIER}]"
    if offset >= DEVICE_AT:
        return f"config+{offset - DEVICE_AT:#x}"
    if offset >= ISR_AT:
        return "isr" if offset == ISR_AT else None
    at = offset - COMMON_AT
    return max(field for field in Common if field <= at).name.lower() if at < COMMON_SIZE else None
