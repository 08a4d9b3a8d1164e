"""Values of the header's fields, and the tables of packet types and messages (PCI Express 2.2)."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, IntEnum, IntFlag

import attrs

__all__ = [
    "AddressType",
    "Attribute",
    "CompletionStatus",
    "DOUBLEWORD",
    "MESSAGES",
    "MessageCode",
    "MessageForm",
    "PAGE",
    "Routing",
    "SIZES",
    "TYPE_COMPLETION",
    "TYPE_CONFIG0",
    "TYPE_CONFIG1",
    "TYPE_LOCKED_COMPLETION",
    "TYPE_MEMORY",
    "TYPE_MESSAGE",
    "TlpKind",
    "UNSUPPORTED_TYPES",
]

DOUBLEWORD = 4
"""Bytes."""
PAGE = 4096
"""Bytes: no memory request crosses a boundary of this size, and no packet carries more data."""
SIZES = (128, 256, 512, 1024, 2048, PAGE)
"""Permitted maximum payload and read request sizes, in bytes."""
TYPE_MEMORY, TYPE_CONFIG0, TYPE_CONFIG1 = 0x00, 0x04, 0x05
TYPE_COMPLETION, TYPE_LOCKED_COMPLETION, TYPE_MESSAGE = 0x0A, 0x0B, 0x10
"""Values of Type; that of messages has the routing in its lowest three bits."""


class TlpKind(Enum):
    """Transaction layer packets, as the specification calls them."""

    MWR = "MWr"
    MRD = "MRd"
    CPLD = "CplD"
    CPL = "Cpl"
    CFG_RD = "CfgRd"
    CFG_WR = "CfgWr"
    MSG = "Msg"


class Attribute(IntFlag):
    """Ordering and caching attributes (2.2.6.3)."""

    NONE = 0
    NO_SNOOP = 1
    RELAXED_ORDERING = 2
    ID_BASED_ORDERING = 4


class AddressType(IntEnum):
    """Kind of a memory request's address (2.2.4.1)."""

    UNTRANSLATED = 0
    TRANSLATION_REQUEST = 1
    TRANSLATED = 2


class CompletionStatus(IntEnum):
    """Outcome of a non-posted request (2.2.9)."""

    SUCCESS = 0
    UNSUPPORTED_REQUEST = 1
    RETRY = 2
    """For configuration requests: the function is not ready yet."""
    COMPLETER_ABORT = 4


class Routing(IntEnum):
    """Receivers of a message (2.2.8)."""

    TO_ROOT = 0
    BROADCAST = 3
    """From the root complex to everything below it."""
    LOCAL = 4
    GATHER = 5


class MessageCode(IntEnum):
    """Supported messages (2.2.8)."""

    PM_ACTIVE_STATE_NAK = 0x14
    PM_PME = 0x18
    PME_TURN_OFF = 0x19
    PME_TO_ACK = 0x1B
    ASSERT_INTA = 0x20
    ASSERT_INTB = 0x21
    ASSERT_INTC = 0x22
    ASSERT_INTD = 0x23
    DEASSERT_INTA = 0x24
    DEASSERT_INTB = 0x25
    DEASSERT_INTC = 0x26
    DEASSERT_INTD = 0x27
    ERR_COR = 0x30
    ERR_NONFATAL = 0x31
    ERR_FATAL = 0x33
    SET_SLOT_POWER_LIMIT = 0x50


@attrs.frozen
class MessageForm:
    """Routing of a message, and its bytes of data."""

    routing: Routing
    size: int = 0


M, R = MessageCode, Routing
MESSAGES: Mapping[MessageCode, MessageForm] = {
    M.PM_ACTIVE_STATE_NAK: MessageForm(R.LOCAL),
    M.PM_PME: MessageForm(R.TO_ROOT),
    M.PME_TURN_OFF: MessageForm(R.BROADCAST),
    M.PME_TO_ACK: MessageForm(R.GATHER),
    **{code: MessageForm(R.LOCAL) for code in M if M.ASSERT_INTA <= code <= M.DEASSERT_INTD},
    **{code: MessageForm(R.TO_ROOT) for code in (M.ERR_COR, M.ERR_NONFATAL, M.ERR_FATAL)},
    M.SET_SLOT_POWER_LIMIT: MessageForm(R.LOCAL, DOUBLEWORD),
}

UNSUPPORTED_TYPES: Mapping[tuple[int, int], str] = {
    (0, 0x01): "a locked memory read",
    (1, 0x01): "a locked memory read",
    (0, 0x02): "an I/O read",
    (2, 0x02): "an I/O write",
    (0, TYPE_LOCKED_COMPLETION): "a completion of a locked read",
    (2, TYPE_LOCKED_COMPLETION): "a completion of a locked read",
    **{(fmt, kind): "an atomic operation" for fmt in (2, 3) for kind in (0x0C, 0x0D, 0x0E)},
    (2, 0x1B): "a deferrable memory write",
    (3, 0x1B): "a deferrable memory write",
}
"""Packets that the specification knows and the codec refuses, by (Fmt, Type)."""
