"""May a command be done? Pure: what a client asks for, against what it was told of the export."""

from __future__ import annotations

from collections.abc import Mapping

from vnet.nbd.protocol import CommandFlag, CommandType, Export, NbdError, TransmissionFlag
from vnet.nbd.transmission import Command

__all__ = ["FUA", "NO_HOLE", "Limits"]

F = TransmissionFlag
FUA, NO_HOLE, DF = map(int, CommandFlag)  # as plain numbers: they are looked at for each command
OFFERS: Mapping[int, int] = {
    CommandType.READ: F.HAS_FLAGS,
    CommandType.WRITE: F.HAS_FLAGS,
    CommandType.FLUSH: F.SEND_FLUSH,
    CommandType.TRIM: F.SEND_TRIM,
    CommandType.WRITE_ZEROES: F.SEND_WRITE_ZEROES,
}
"""Commands, and the transmission flag that offers each."""
FLAGS: Mapping[int, Mapping[int, int]] = {
    CommandType.READ: {DF: F.SEND_DF},
    CommandType.WRITE_ZEROES: {NO_HOLE: F.SEND_WRITE_ZEROES},
}
"""Flags of one command, and the transmission flag that offers each."""
WRITES = frozenset((CommandType.WRITE, CommandType.TRIM, CommandType.WRITE_ZEROES))
FILLS = WRITES - {CommandType.TRIM}
"""Commands that need room."""
WHOLE_MIN = 1 << 16
"""Bytes that a read in one piece may always have."""


class Limits:
    """Of one client's commands: what the protocol says of each that the server can't do."""

    def __init__(self, export: Export, payload_max: int) -> None:
        """``payload_max``: bytes of the largest read or write."""
        offers = export.flags
        self._size, self._block_mask, self._payload_max = export.size, export.block_min - 1, payload_max
        self._read_only = bool(offers & F.READ_ONLY)
        self._structured = bool(offers & F.SEND_DF)
        fua = FUA if offers & F.SEND_FUA else 0
        self._flags = {
            kind: fua | sum(flag for flag, offer in FLAGS.get(kind, {}).items() if offers & offer)
            for kind, offer in OFFERS.items()
            if offers & offer
        }

    def check(self, command: Command, whole_max: int) -> NbdError:
        """What is wrong with it; ``whole_max`` are the bytes that a read can give in one piece."""
        kind, size = command.type, command.size
        if self._read_only and kind in WRITES:
            return NbdError.PERM
        allowed = self._flags.get(kind)
        if allowed is None or command.flags & ~allowed:
            return NbdError.INVAL
        if kind == CommandType.FLUSH:
            return NbdError.OK
        if command.offset + size > self._size:
            return NbdError.NOSPC if kind in FILLS else NbdError.INVAL
        if (command.offset | size) & self._block_mask:
            return NbdError.INVAL
        if kind == CommandType.READ:
            if command.flags & DF and size > max(whole_max, WHOLE_MIN):
                return NbdError.OVERFLOW
            if size > self._payload_max:
                return NbdError.OVERFLOW if self._structured else NbdError.INVAL
        return NbdError.OK
