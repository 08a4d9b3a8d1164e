"""Registers of an NTB endpoint function, as Linux's ntb_hw_epf uses them.

The function has the same layout on both of its links: a configuration region, two banks of scratchpads, doorbells, and
memory windows. All our BARs have 64 bits, so each takes two of the six registers. That is the layout which the driver
knows from i.MX 8: BAR 0, 2 and 4 have the configuration and both banks, the doorbells, and the first window. Linux
would look for more windows in other BARs; ours lie behind the first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import IntEnum, IntFlag

__all__ = [
    "CONFIG_SIZE",
    "DB_COUNT",
    "DB_ENTRY_SIZE",
    "EXTENSION_MAGIC",
    "FIRST_DB",
    "IDS",
    "LINK_VECTOR",
    "MAX_MWS",
    "MAX_SPADS",
    "MSIX_ENABLE",
    "MSIX_OFFSET",
    "MW_ALIGN",
    "SPADS",
    "SPAD_OFFSET",
    "VECTORS",
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

IDS: Mapping[str, tuple[int, int]] = {"1957:0809": (0x1957, 0x0809), "104c:b00d": (0x104C, 0xB00D)}
"""Vendor id and device id of the function, by their notation in lspci: those that have this layout in Linux's driver,
and those of the kernel's guide to NTB functions, with which Linux's driver expects another layout."""


class Bar(IntEnum):
    """First register of each BAR."""

    CONFIG = 0
    """Configuration region, MSI-X table, this host's own scratchpads, the other host's scratchpads."""
    DOORBELLS = 2
    WINDOWS = 4


class Word(IntEnum):
    """Offsets of the 32-bit words of the configuration region."""

    COMMAND = 0x00
    ARGUMENT = 0x04
    STATUS = 0x08
    TOPOLOGY = 0x0C
    ADDR_LO = 0x10
    ADDR_HI = 0x14
    SIZE = 0x18
    SIZE_HI = 0x1C
    NO_OF_MW = 0x20
    MW1_OFFSET = 0x24
    SPAD_OFFSET = 0x28
    SPAD_COUNT = 0x2C
    DB_ENTRY_SIZE = 0x30
    DB_DATA = 0x34
    """32 words, by vector of the other host: value to write to its doorbell; 0 while it can't be rung."""
    DB_OFFSET = 0xB4
    """32 words, by vector: offset of that doorbell, besides its number times DB_ENTRY_SIZE."""
    # The words from here on are not in Linux's layout.
    MAGIC = 0x134
    LINK_EPOCH = 0x138
    """Number of times that the link between the hosts came up."""
    MWS = 0x13C
    """Offset in the BAR of the windows and bytes of each of 4 windows."""


LINK_VECTOR, FIRST_DB = 0, 2
"""The MSI-X vectors of link events and of doorbell 0. Linux leaves the one in between out."""
VECTORS = 32
"""Vectors of the function. The doorbells of the other host are numbered like its vectors."""
DB_COUNT = VECTORS - FIRST_DB
MAX_MWS = 4
MAX_SPADS = 1024
SPADS = 128
"""Scratchpads of a host, unless it is told otherwise."""
CONFIG_SIZE = Word.MWS + 8 * MAX_MWS
EXTENSION_MAGIC = 0x3242_544E
"""The bytes "NTB2": the words behind DB_OFFSET are valid."""
MSIX_OFFSET = 0x400
SPAD_OFFSET = 0x1000
DB_ENTRY_SIZE = 4
MW_ALIGN = 4096
"""Alignment in bytes of a window's memory in its own host."""


class FunctionCommand(IntEnum):
    """Values of COMMAND. ARGUMENT: number of vectors (with MSIX_ENABLE), or window."""

    CONFIGURE_DOORBELL = 1
    TEARDOWN_DOORBELL = 2
    CONFIGURE_MW = 3
    TEARDOWN_MW = 4
    LINK_UP = 5
    LINK_DOWN = 6


MSIX_ENABLE = 1 << 16


class CommandStatus(IntFlag):
    """Bits of STATUS: result of the last command, and state of the link between the hosts.

    Both halves can be accessed alone. A write clears the result.
    """

    OK = 1
    ERROR = 2
    LINK_UP = 1 << 16


class NtbTopology(IntEnum):
    """The end of the function that a host is at."""

    PRIMARY = 0
    SECONDARY = 1


def db_data(doorbell: int) -> int:
    """Return the offset of a doorbell's DB_DATA word."""
    return Word.DB_DATA + 4 * (FIRST_DB + doorbell)


def mw_offset(window: int) -> int:
    """Return the offset of the word with a window's offset in its BAR."""
    return Word.MWS + 8 * window


def mw_size(window: int) -> int:
    """Return the offset of the word with a window's bytes."""
    return Word.MWS + 8 * window + 4


def mw_offsets(sizes: Sequence[int]) -> tuple[tuple[int, ...], int]:
    """Return the offsets in their BAR of windows of these sizes, page-aligned, and the end of the BAR."""
    at, offsets = 0, []
    for size in sizes:
        offsets.append(at)
        at += -(-size // MW_ALIGN) * MW_ALIGN
    return tuple(offsets), at
