"""Commands of a logical unit. Pure: a CDB becomes a reply, or an I/O request to the unit's store."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import attrs

from drivers.contracts.ports import SectorStore
from drivers.devices.scsi.cdb import COMMANDS, Op, ScsiCommand, find
from drivers.devices.scsi.layout import Response
from drivers.devices.scsi.sense import Asc, CheckCondition, Sense, SenseKey, illegal
from drivers.storage.workers import IoKind, StoreExtent
from rings.chain import copy_out, take, total

__all__ = ["NO_SENSE", "Call", "Handler", "Io", "Overrun", "Reply", "Unit"]

NO_SENSE = Sense(SenseKey.NO_SENSE, Asc.NONE)
UNATTENDED = frozenset((Op.INQUIRY, Op.REPORT_LUNS, Op.REQUEST_SENSE))
"""Commands that a pending unit attention does not block (SAM-5 section 5.14)."""


@attrs.frozen
class Reply:
    """Result of a completed command: GOOD with ``data``, or CHECK CONDITION with ``sense``."""

    data: bytes = b""
    sense: Sense | None = None
    out_used: int = 0
    """Bytes of data-out consumed."""


GOOD = Reply()


@attrs.frozen
class Io:
    """I/O that the store must complete before the command can end."""

    store: SectorStore
    kind: IoKind
    offset: int = 0
    """Bytes, as is ``size``."""
    size: int = 0
    out: Sequence[memoryview] = ()
    """Data to write or to compare."""
    out_used: int = 0
    """Bytes of data-out that the I/O consumes."""
    in_size: int = 0
    """Bytes of data-in that the I/O returns."""
    extents: Sequence[StoreExtent] = ()
    """Ranges of DISCARD and WRITE_ZEROES."""
    pattern: bytes = b""
    stable: bool = False
    render: Callable[[Sequence[tuple[int, int, bool]]], bytes] | None = None
    """Data-in of STATUS."""


class Overrun(Exception):
    """A buffer of the request is smaller than the CDB requires."""


@attrs.frozen
class Call:
    """A command with its data buffers."""

    command: ScsiCommand
    cdb: bytes
    out: Sequence[memoryview]
    """Data-out."""
    room: int
    """Bytes of room for data-in."""

    def field(self, at: int, size: int) -> int:
        """Return the big-endian number of ``size`` bytes at offset ``at`` of the CDB."""
        return int.from_bytes(self.cdb[at : at + size], "big")

    def answer(self, data: bytes, allocation: int) -> Reply:
        """Return ``data`` cut to the allocation length. Raises Overrun if data-in has less room than the allocation."""
        self.need_room(allocation)
        return Reply(data[:allocation])

    def need_room(self, size: int) -> None:
        """Raise Overrun if data-in has less than ``size`` bytes of room."""
        if size > self.room:
            raise Overrun

    def payload(self, size: int) -> list[memoryview]:
        """Return the first ``size`` bytes of data-out. Raises Overrun if there are fewer."""
        if total(self.out) < size:
            raise Overrun
        return take(self.out, size)

    def parameters(self, size: int) -> bytes:
        """Return a private copy of the first ``size`` bytes of data-out. Raises Overrun if there are fewer."""
        return copy_out(self.payload(size), size)


Handler = Callable[[Any, Call], "Reply | Io"]


class Unit:
    """The object at a LUN: a disk, a well-known logical unit, or the stand-in for an absent unit."""

    handlers: ClassVar[Mapping[tuple[int, int | None], Handler]] = {}
    """Handlers by operation code and service action."""

    def __init__(self) -> None:
        self.attentions: list[Asc] = []
        """Pending unit attentions, oldest first."""

    def attention(self, asc: Asc) -> None:
        """Add a unit attention, unless it is pending already."""
        if asc not in self.attentions:
            self.attentions.append(asc)

    def perform(self, cdb: bytes, out: Sequence[memoryview], room: int) -> Reply | Io | Response:
        """Begin a command with data-out ``out`` and ``room`` bytes for data-in; OVERRUN if a buffer is too small.

        The command has changed nothing unless the result is an `Io`, or a `Reply` without sense.
        """
        try:
            if self.attentions and cdb[0] not in UNATTENDED:
                raise CheckCondition(Sense(SenseKey.UNIT_ATTENTION, self.attentions.pop(0)))
            command = self.find(cdb)
            return self.handlers[command.opcode, command.action](self, Call(command, cdb, out, room))
        except CheckCondition as check:
            return Reply(sense=check.sense)
        except Overrun:
            return Response.OVERRUN

    def find(self, cdb: bytes) -> ScsiCommand:
        """Return the command of a CDB. Raises CheckCondition if the unit does not support it."""
        command = find(cdb)
        if (command.opcode, command.action) not in self.handlers:
            raise illegal(Asc.INVALID_COMMAND_OPERATION_CODE, 0)
        return command

    def supported(self) -> list[ScsiCommand]:
        """Return the supported commands in the order of their codes."""
        return [COMMANDS[key] for key in sorted(self.handlers, key=lambda key: (key[0], key[1] or 0))]
