"""Names of the registers of a virtio-mmio device, for traces."""

from __future__ import annotations

from drivers.transports.mmio.registers import CONFIG, Register

__all__ = ["register_name"]


def register_name(bar: int, offset: int) -> str | None:
    """Return the name of the register at ``offset`` of the region, which is BAR 0; None if there is none."""
    if bar or offset < 0:
        return None
    if offset >= CONFIG:
        return f"config+{offset - CONFIG:#x}"
    at = offset & ~3
    return next((register.name.lower() for register in Register if register == at), None)
