"""Registers of an NTB endpoint function (Linux: pci-epf-ntb, ntb_hw_epf).

The function has the same layout on both of its links: a configuration region, two banks of scratchpads, doorbells, and
memory windows. Linux uses one BAR per group and counts them BAR0, BAR1, BAR2, and so on. All our BARs have
64 bits, so each takes two of the six registers: BAR0, BAR1 and BAR2 are at registers 0, 2 and 4, and the
windows that Linux puts into BAR3 to BAR5 lie behind the first one in BAR2.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum, IntFlag

__all__ = [
    "CONFIG_SIZE",
    "DB_COUNT",
    "DB_ENTRY_SIZE",
    "DEVICE_ID",
    "EXTENSION_MAGIC",
    "LINK_VECTOR",
    "MAX_MWS",
    "MAX_SPADS",
    "MSIX_ENABLE",
    "MSIX_OFFSET",
    "MW_ALIGN",
    "SPAD_OFFSET",
    "VECTORS",
    "VENDOR_ID",
    "Bar",
    "CommandStatus",
    "FunctionCommand",
    "NtbTopology",
    "Word",
    "db_data",
    "mw_offset",
    "mw_offsets",
    "mw_size",
]

VENDOR_ID, DEVICE_ID = 0x104C, 0xB00D
"""PCI ids of the function, as in Linux's documentation."""


class Bar(IntEnum):
    """First register of each BAR, by Linux's names."""

    CONFIG = 0
    """BAR0: configuration region, MSI-X table, this host's own scratchpads."""
    PEER_SPADS = 2
    """BAR1: the other host's scratchpads."""
    WINDOWS = 4
    """BAR2: doorbells, then the memory windows."""


class Word(IntEnum):
    """Offsets of the 32-bit words of the configuration region."""

    COMMAND = 0x00
    ARGUMENT = 0x04
    STATUS = 0x08
    TOPOLOGY = 0x0C
    ADDR_LO = 0x10
    ADDR_HI = 0x14
    SIZE = 0x18
    NO_OF_MW = 0x1C
    MW1_OFFSET = 0x20
    SPAD_OFFSET = 0x24
    SPAD_COUNT = 0x28
    DB_ENTRY_SIZE = 0x2C
    DB_DATA = 0x30
    """32 words: value to write to each doorbell of the other host; 0 while it can't be rung."""
    # The words from here on are not in Linux's layout.
    MAGIC = 0xB0
    LINK_EPOCH = 0xB4
    """Number of times that the link between the hosts came up."""
    MWS = 0xB8
    """Offset in BAR2 and bytes of each of 4 windows."""


DB_COUNT = 32
MAX_MWS = 4
MAX_SPADS = 1024
CONFIG_SIZE = Word.MWS + 8 * MAX_MWS
EXTENSION_MAGIC = 0x3142_544E
"""The bytes "NTB1": the words behind DB_DATA are valid."""
MSIX_OFFSET = 0x400
SPAD_OFFSET = 0x1000
DB_ENTRY_SIZE = 4
MW_ALIGN = 4096
"""Alignment in bytes of a window's memory in its own host."""
LINK_VECTOR = 0
"""The MSI-X vector of link events; doorbell n has vector n + 1."""
VECTORS = 1 + DB_COUNT


class FunctionCommand(IntEnum):
    """Values of COMMAND, the first three as in Linux. ARGUMENT: number of doorbells (with MSIX_ENABLE), or window."""

    CONFIGURE_DOORBELL = 1
    CONFIGURE_MW = 2
    LINK_UP = 3
    TEARDOWN_DOORBELL = 4
    TEARDOWN_MW = 5
    LINK_DOWN = 6


MSIX_ENABLE = 1 << 16


class CommandStatus(IntFlag):
    """Bits of STATUS: result of the last command, and state of the link between the hosts."""

    OK = 1
    ERROR = 2
    LINK_UP = 1 << 16


class NtbTopology(IntEnum):
    """The end of the function that a host is at."""

    PRIMARY = 0
    SECONDARY = 1


def db_data(doorbell: int) -> int:
    """Return the offset of a doorbell's DB_DATA word."""
    return Word.DB_DATA + 4 * doorbell


def mw_offset(window: int) -> int:
    """Return the offset of the word with a window's offset in BAR2."""
    return Word.MWS + 8 * window


def mw_size(window: int) -> int:
    """Return the offset of the word with a window's bytes."""
    return Word.MWS + 8 * window + 4


def mw_offsets(sizes: Sequence[int]) -> tuple[tuple[int, ...], int]:
    """Return the offsets in BAR2 of windows of these sizes, page-aligned behind the doorbells, and the end of BAR2."""
    at, offsets = MW_ALIGN, []
    for size in sizes:
        offsets.append(at)
        at += -(-size // MW_ALIGN) * MW_ALIGN
    return tuple(offsets), at
