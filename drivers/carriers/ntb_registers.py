"""The registers of an NTB endpoint function, before anything is done with them (Linux: pci-epf-ntb, ntb_hw_epf).

The function shows the same on both of its links: a configuration region, two banks of scratchpads, doorbells, and
memory windows. Linux names one BAR for each group and counts them BAR0, BAR1, BAR2, and so on. All BARs here have
64 bits, so each takes two of the six registers: BAR0, BAR1 and BAR2 are found at registers 0, 2 and 4, and the
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
    "NtbCommand",
    "NtbTopology",
    "Word",
    "db_data",
    "mw_offset",
    "mw_offsets",
    "mw_size",
]

VENDOR_ID, DEVICE_ID = 0x104C, 0xB00D
"""What the documented set-up of Linux gives the function."""


class Bar(IntEnum):
    """Linux's names, and the register at which each BAR starts."""

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
    """32 words: what to write to each doorbell of the other host; 0 while that can't be rung."""
    # What follows is not in Linux's layout.
    MAGIC = 0xB0
    LINK_EPOCH = 0xB4
    """How often the link between the hosts came up."""
    MWS = 0xB8
    """For each of 4 windows: its offset in BAR2, and its bytes."""


DB_COUNT = 32
MAX_MWS = 4
MAX_SPADS = 1024
CONFIG_SIZE = Word.MWS + 8 * MAX_MWS
EXTENSION_MAGIC = 0x3142_544E
"""The bytes "NTB1": the words behind DB_DATA have a meaning."""
MSIX_OFFSET = 0x400
SPAD_OFFSET = 0x1000
DB_ENTRY_SIZE = 4
MW_ALIGN = 4096
"""Bytes to which a window's memory is aligned in its own host."""
LINK_VECTOR = 0
"""The MSI-X vector of link events; doorbell n has vector n + 1."""
VECTORS = 1 + DB_COUNT


class NtbCommand(IntEnum):
    """ARGUMENT is the number of doorbells (with MSIX_ENABLE) or the window. The first three are Linux's."""

    CONFIGURE_DOORBELL = 1
    CONFIGURE_MW = 2
    LINK_UP = 3
    TEARDOWN_DOORBELL = 4
    TEARDOWN_MW = 5
    LINK_DOWN = 6


MSIX_ENABLE = 1 << 16


class CommandStatus(IntFlag):
    """STATUS: how the last command ended, and what the link between the hosts does."""

    OK = 1
    ERROR = 2
    LINK_UP = 1 << 16


class NtbTopology(IntEnum):
    """Which end of the function a host is at."""

    PRIMARY = 0
    SECONDARY = 1


def db_data(doorbell: int) -> int:
    """Offset of a doorbell's DB_DATA word."""
    return Word.DB_DATA + 4 * doorbell


def mw_offset(window: int) -> int:
    """Offset of the word that says where a window starts in BAR2."""
    return Word.MWS + 8 * window


def mw_size(window: int) -> int:
    """Offset of the word that says how many bytes a window has."""
    return Word.MWS + 8 * window + 4


def mw_offsets(sizes: Sequence[int]) -> tuple[tuple[int, ...], int]:
    """Where windows of these bytes start in BAR2, behind the doorbells, each on its own page; and where BAR2 ends."""
    at, offsets = MW_ALIGN, []
    for size in sizes:
        offsets.append(at)
        at += -(-size // MW_ALIGN) * MW_ALIGN
    return tuple(offsets), at
