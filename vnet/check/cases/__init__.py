"""All cases, in the order in which they run: honest ones first, so that a device is known before it is attacked."""

from __future__ import annotations

from collections.abc import Sequence

from vnet.check.case import Case
from vnet.check.cases.blk import BLK
from vnet.check.cases.honest import HONEST
from vnet.check.cases.indirect import INDIRECT_TABLES
from vnet.check.cases.memory import MEMORY
from vnet.check.cases.messages import MESSAGES
from vnet.check.cases.net import NET
from vnet.check.cases.packed import PACKED
from vnet.check.cases.pci.hostile import PCI_HOSTILE
from vnet.check.cases.pci.interrupts import PCI_INTERRUPTS
from vnet.check.cases.pci.registers import PCI_REGISTERS
from vnet.check.cases.pci.space import PCI_SPACE
from vnet.check.cases.pci.structures import PCI_STRUCTURES
from vnet.check.cases.rng import RNG
from vnet.check.cases.scsi import SCSI
from vnet.check.cases.set_up import SET_UP
from vnet.check.cases.split import SPLIT

__all__ = ["CASES"]

TABLES = (
    PCI_SPACE, PCI_STRUCTURES, PCI_REGISTERS, PCI_INTERRUPTS, PCI_HOSTILE, HONEST, BLK, NET, SCSI, RNG, MESSAGES,
    MEMORY, SET_UP, SPLIT, INDIRECT_TABLES, PACKED,
)  # fmt: skip
CASES: Sequence[Case] = [case for table in TABLES for case in table.cases]
