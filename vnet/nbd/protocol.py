"""Numbers, flags and errors of the network block device protocol."""

from __future__ import annotations

from enum import IntEnum, IntFlag

import attrs

__all__ = [
    "ChunkType",
    "CommandFlag",
    "CommandType",
    "Export",
    "Info",
    "NbdError",
    "NbdProtocolError",
    "Option",
    "OptionReply",
    "TransmissionFlag",
]


class NbdProtocolError(Exception):
    """The client violated the protocol, so that its later bytes have no meaning."""


class Option(IntEnum):
    EXPORT_NAME = 1
    ABORT = 2
    LIST = 3
    INFO = 6
    GO = 7
    STRUCTURED_REPLY = 8


class OptionReply(IntEnum):
    ACK = 1
    SERVER = 2
    INFO = 3
    ERR_UNSUP = 1 << 31 | 1
    ERR_INVALID = 1 << 31 | 3
    ERR_UNKNOWN = 1 << 31 | 6
    ERR_TOO_BIG = 1 << 31 | 9


class Info(IntEnum):
    EXPORT = 0
    NAME = 1
    DESCRIPTION = 2
    BLOCK_SIZE = 3


class TransmissionFlag(IntFlag):
    HAS_FLAGS = 1
    READ_ONLY = 2
    SEND_FLUSH = 4
    SEND_FUA = 8
    ROTATIONAL = 16
    SEND_TRIM = 32
    SEND_WRITE_ZEROES = 64
    SEND_DF = 128
    CAN_MULTI_CONN = 256


class CommandType(IntEnum):
    READ = 0
    WRITE = 1
    DISC = 2
    FLUSH = 3
    TRIM = 4
    CACHE = 5
    WRITE_ZEROES = 6
    BLOCK_STATUS = 7


class CommandFlag(IntFlag):
    FUA = 1
    NO_HOLE = 2
    DF = 4


class NbdError(IntEnum):
    """Error number of a reply; 0 for success."""

    OK = 0
    PERM = 1
    IO = 5
    NOMEM = 12
    INVAL = 22
    NOSPC = 28
    OVERFLOW = 75
    NOTSUP = 95
    SHUTDOWN = 108


class ChunkType(IntEnum):
    NONE = 0
    OFFSET_DATA = 1
    ERROR = 1 << 15 | 1


@attrs.frozen
class Export:
    """Properties of the disk that a client receives; sizes in bytes."""

    name: str
    size: int
    flags: TransmissionFlag
    description: str = ""
    block_min: int = 1
    block_preferred: int = 4096
    block_max: int = 32 << 20
