"""The table of built-in transports."""

from __future__ import annotations

from collections.abc import Mapping

from drivers.carriers.transport import Transport
from drivers.transports import epf_mailbox, mmio, ntb, pci, vhost_user

__all__ = ["BUILT_IN_TRANSPORTS"]

BUILT_IN_TRANSPORTS: Mapping[str, Transport] = {
    "pci": pci.PCI,
    "epf_mailbox": epf_mailbox.MAILBOX,
    "mmio": mmio.MMIO,
    "ntb": ntb.NTB,
    "vhost_user": vhost_user.VHOST_USER,
}
"""Built-in transports by name."""
