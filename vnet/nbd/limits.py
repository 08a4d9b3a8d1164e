"""Checks commands of a client against the export's size and transmission flags. No I/O."""

from __future__ import annotations

from collections.abc import Mapping

from vnet.nbd.protocol import CommandFlag, CommandType, Export, NbdError, TransmissionFlag
from vnet.nbd.transmission import NbdCommand

__all__ = ["FUA", "NO_HOLE", "NbdLimits"]

F = TransmissionFlag
FUA, NO_HOLE, DF = map(int, CommandFlag)  # plain numbers are faster, and each command is checked
OFFERS: Mapping[int, int] = {
    CommandType.READ: F.HAS_FLAGS,
    CommandType.WRITE: F.HAS_FLAGS,
    CommandType.FLUSH: F.SEND_FLUSH,
    CommandType.TRIM: F.SEND_TRIM,
    CommandType.WRITE_ZEROES: F.SEND_WRITE_ZEROES,
}
"""Transmission flag that offers each command."""
FLAGS: Mapping[int, Mapping[int, int]] = {
    CommandType.READ: {DF: F.SEND_DF},
    CommandType.WRITE_ZEROES: {NO_HOLE: F.SEND_WRITE_ZEROES},
}
"""Transmission flag that offers each flag of a command, beside FUA."""
WRITES = frozenset((CommandType.WRITE, CommandType.TRIM, CommandType.WRITE_ZEROES))
FILLS = WRITES - {CommandType.TRIM}
"""Commands that can run out of space."""
WHOLE_MIN = 1 << 16
"""Size in bytes up to which a read with DF ("don't fragment") is always accepted."""


class NbdLimits:
    """Decides which commands of one client are valid."""

    def __init__(self, export: Export, payload_max: int) -> None:
        """``payload_max``: size of the largest read or write in bytes."""
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

    def check(self, command: NbdCommand, whole_max: int) -> NbdError:
        """Return the error of an invalid command, else OK; ``whole_max`` is the largest unfragmented read in bytes."""
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
