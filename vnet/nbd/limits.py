"""May a command be done? Pure: what a client asks for, against what it was told of the export."""

from __future__ import annotations

from collections.abc import Mapping

from vnet.nbd.protocol import CommandFlag, CommandType, Export, NbdError, TransmissionFlag
from vnet.nbd.transmission import Command

__all__ = ["FUA", "NO_HOLE", "Limits"]

WRITES = frozenset((CommandType.WRITE, CommandType.TRIM, CommandType.WRITE_ZEROES))
FUA, NO_HOLE, DF = map(int, CommandFlag)  # as plain numbers: they are looked at for each command
FLAGS: Mapping[int, int] = {
    CommandType.READ: FUA | DF,
    CommandType.WRITE: FUA,
    CommandType.FLUSH: FUA,
    CommandType.TRIM: FUA,
    CommandType.WRITE_ZEROES: FUA | NO_HOLE,
}
"""The commands there are, and the flags each may have."""


class Limits:
    """Of one client's commands."""

    def __init__(self, export: Export, block_max: int) -> None:
        """``block_max``: bytes of the largest read."""
        self._size, self._block_mask, self._block_max = export.size, export.block_min - 1, block_max
        self._read_only = bool(export.flags & TransmissionFlag.READ_ONLY)

    def check(self, command: Command, whole_max: int) -> NbdError:
        """What is wrong with it; ``whole_max`` are the bytes that a read can give in one piece."""
        allowed = FLAGS.get(command.type)
        if allowed is None or command.flags & ~allowed:
            return NbdError.INVAL
        if self._read_only and command.type in WRITES:
            return NbdError.PERM
        if command.type == CommandType.FLUSH:
            return NbdError.OK
        if command.offset + command.size > self._size:
            return NbdError.NOSPC if command.type in WRITES else NbdError.INVAL
        if (command.offset | command.size) & self._block_mask:
            return NbdError.INVAL
        most = whole_max if command.flags & DF else self._block_max
        return NbdError.OVERFLOW if command.type == CommandType.READ and command.size > most else NbdError.OK
