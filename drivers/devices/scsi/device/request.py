"""What a chain of a request queue or of the control queue asks for. Pure: everything of the driver is read once.

A request is header, CDB and data-out, then response, sense and data-in, wherever descriptors end (VIRTIO 1.4 sections
2.7.4 and 5.6.6.1).
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from drivers.devices.scsi.layout import (
    HEADER,
    NOTIFICATION,
    NOTIFICATION_ANSWER,
    RESPONSE,
    TMF,
    ControlType,
    Lun,
    Response,
    ScsiConfig,
)
from drivers.devices.scsi.sense import Sense
from rings.chain import Chain, copy_in, copy_out, skip, take, total
from rings.errors import BadChain

__all__ = ["Control", "Request"]


@attrs.frozen
class Request:
    """A request, and where its answer goes. Views are of the chain."""

    head: int
    lun: Lun | None
    """None for eight bytes that name nothing."""
    tag: int
    cdb: bytes
    out: Sequence[memoryview]
    out_size: int
    """Bytes of data-out, as is in_size of data-in."""
    data: Sequence[memoryview]
    """Where data-in goes."""
    in_size: int
    response: Sequence[memoryview]
    """12 bytes and the sense."""
    response_size: int
    whole: bool
    """False where the chain is too short for what every request has."""

    @staticmethod
    def parse(chain: Chain, config: ScsiConfig) -> Request:
        """Raises BadChain where there is no room for a response, so that nothing could ever be answered."""
        head, readable, writable = chain
        header_size, response_size = HEADER.size + config.cdb_size, RESPONSE.size + config.sense_size
        if readable and len(readable[0]) == header_size:
            header, out = bytes(readable[0]), readable[1:]
        else:
            header, out = copy_out(readable, header_size), skip(readable, header_size)
        if writable and len(writable[0]) == response_size:
            response, data = writable[:1], writable[1:]
        else:
            response, data = take(writable, response_size), skip(writable, response_size)
        room = total(response)
        if room < RESPONSE.size:
            raise BadChain(head, "there is no room for a response")
        whole = len(header) == header_size and room == response_size
        if not whole:
            return Request(head, None, 0, b"", (), 0, (), 0, response, room, whole)
        lun, tag, _, _, _ = HEADER.unpack_from(header)
        cdb = header[HEADER.size :]
        return Request(
            head, Lun.parse(lun), tag, cdb, out, total(out), data, total(data), response, response_size, whole
        )

    def answer(self, response: Response, status: int, sense: Sense | None, moved: int) -> None:
        """Write all of the response. ``moved``: bytes of data in both directions."""
        raw = b"" if sense is None else sense.emit()[: self.response_size - RESPONSE.size]
        residual = min(self.out_size + self.in_size - moved, 0xFFFF_FFFF)
        data = RESPONSE.pack(len(raw), residual, 0, status, response) + raw
        copy_in(self.response, data.ljust(self.response_size, b"\0"))


@attrs.frozen
class Control:
    """Something asked on the control queue, and where the answer goes."""

    head: int
    kind: int
    function: int
    """Of a TMF."""
    lun: Lun | None
    tag: int
    events: int
    """Of the notification commands."""
    writable: Sequence[memoryview]
    whole: bool
    """False where the chain is too short for what it is, or is nothing."""

    @staticmethod
    def parse(chain: Chain) -> Control:
        """Raises BadChain where there is no byte for a response."""
        head, readable, writable = chain
        room = total(writable)
        if not room:
            raise BadChain(head, "there is no byte for the response")
        data = copy_out(readable, TMF.size)
        kind = int.from_bytes(data[:4], "little") if len(data) >= 4 else -1
        if kind == ControlType.TMF and len(data) == TMF.size:
            _, function, lun, tag = TMF.unpack(data)
            return Control(head, kind, function, Lun.parse(lun), tag, 0, writable, whole=True)
        if kind in (ControlType.AN_QUERY, ControlType.AN_SUBSCRIBE) and len(data) >= NOTIFICATION.size:
            _, lun, events = NOTIFICATION.unpack_from(data)
            whole = room >= NOTIFICATION_ANSWER.size
            return Control(head, kind, 0, Lun.parse(lun), 0, events, writable, whole)
        return Control(head, kind, 0, None, 0, 0, writable, whole=False)

    def answer(self, response: Response, events: int = 0) -> int:
        """The bytes written. One that is not whole finds its response in the last byte there is."""
        if not self.whole:
            self.writable[-1][-1] = response
            return 0
        if self.kind == ControlType.TMF:
            return copy_in(self.writable, bytes((response,)))
        return copy_in(self.writable, NOTIFICATION_ANSWER.pack(events, response))
