"""The table of transports."""

from __future__ import annotations

from drivers.carriers.transport import Transport
from drivers.transports import epf_mailbox, mmio, ntb, pci, vhost_user

__all__ = ["TRANSPORTS"]


TRANSPORTS: dict[str, Transport] = {
    "pci": pci.PCI,
    "epf_mailbox": epf_mailbox.MAILBOX,
    "mmio": mmio.MMIO,
    "ntb": ntb.NTB,
    "vhost_user": vhost_user.USER,
}
"""Transports by name; extensions add theirs."""
