"""Logical units: what a command does to one. Pure: a CDB becomes an answer, or what its store has to do for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import attrs

from drivers.devices.scsi.cdb import COMMANDS, Command, Op, find
from drivers.devices.scsi.layout import Response
from drivers.devices.scsi.sense import Asc, CheckCondition, Key, Sense, illegal
from drivers.storage.workers import Extent, Kind
from rings.chain import copy_out, take, total

__all__ = ["NO_SENSE", "Call", "Handler", "Io", "Overrun", "Reply", "Unit"]

NO_SENSE = Sense(Key.NO_SENSE, Asc.NONE)
UNATTENDED = frozenset((Op.INQUIRY, Op.REPORT_LUNS, Op.REQUEST_SENSE))
"""Commands that work whatever a unit has to tell first (SAM-5 section 5.14)."""


@attrs.frozen
class Reply:
    """A command that has ended: GOOD with ``data``, or CHECK CONDITION with ``sense``."""

    data: bytes = b""
    sense: Sense | None = None
    taken: int = 0
    """Bytes of data-out that were used."""


GOOD = Reply()


@attrs.frozen
class Io:
    """What the store has to do before a command can end."""

    kind: Kind
    offset: int = 0
    """Bytes, as is ``size``."""
    size: int = 0
    out: Sequence[memoryview] = ()
    """Data to write or to compare with."""
    taken: int = 0
    """Bytes of data-out that are used once it is done."""
    given: int = 0
    """Bytes of data-in that are there then."""
    extents: Sequence[Extent] = ()
    pattern: bytes = b""
    stable: bool = False


class Overrun(Exception):
    """The buffers are smaller than what the CDB asks for."""


@attrs.frozen
class Call:
    """A command, and the room for its data."""

    command: Command
    cdb: bytes
    out: Sequence[memoryview]
    """What the initiator sends."""
    room: int
    """Bytes that it takes."""

    def field(self, at: int, size: int) -> int:
        return int.from_bytes(self.cdb[at : at + size], "big")

    def answer(self, data: bytes, allocation: int) -> Reply:
        """``data``, as much of it as was allocated. Raises Overrun where there is not that much room."""
        self.need_room(allocation)
        return Reply(data[:allocation])

    def need_room(self, size: int) -> None:
        """Raises Overrun where there is less."""
        if size > self.room:
            raise Overrun

    def payload(self, size: int) -> list[memoryview]:
        """The first bytes of data-out. Raises Overrun where there are not so many."""
        if total(self.out) < size:
            raise Overrun
        return take(self.out, size)

    def parameters(self, size: int) -> bytes:
        """A private copy of them. Raises Overrun."""
        return copy_out(self.payload(size), size)


Handler = Callable[[Any, Call], "Reply | Io"]


class Unit:
    """Whatever a LUN may name: a disk, a well-known logical unit, or nothing."""

    handlers: ClassVar[Mapping[tuple[int, int | None], Handler]] = {}
    """By operation code and service action."""

    def __init__(self) -> None:
        self.attentions: list[Asc] = []
        """What an initiator is told before it may go on, in order."""

    def attention(self, asc: Asc) -> None:
        """Something happened that the initiator has to know of; once is enough."""
        if asc not in self.attentions:
            self.attentions.append(asc)

    def perform(self, cdb: bytes, out: Sequence[memoryview], room: int) -> Reply | Io | Response:
        """Begin a command, with the data that came and ``room`` bytes for what goes; OVERRUN where these are too few.

        Nothing was done unless it is an `Io`, or a `Reply` without sense.
        """
        try:
            if self.attentions and cdb[0] not in UNATTENDED:
                raise CheckCondition(Sense(Key.UNIT_ATTENTION, self.attentions.pop(0)))
            command = self.find(cdb)
            return self.handlers[command.opcode, command.action](self, Call(command, cdb, out, room))
        except CheckCondition as check:
            return Reply(sense=check.sense)
        except Overrun:
            return Response.OVERRUN

    def find(self, cdb: bytes) -> Command:
        """Raises CheckCondition for what it can't do."""
        command = find(cdb)
        if (command.opcode, command.action) not in self.handlers:
            raise illegal(Asc.INVALID_COMMAND_OPERATION_CODE, 0)
        return command

    def supported(self) -> list[Command]:
        """The commands it knows, in the order of their codes."""
        return [COMMANDS[key] for key in sorted(self.handlers, key=lambda key: (key[0], key[1] or 0))]
