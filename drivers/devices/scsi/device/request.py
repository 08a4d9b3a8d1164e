"""Requests of a request queue and of the control queue, parsed from chains. Pure: each byte of the driver is read once.

A request is header, CDB and data-out, then response, sense and data-in, with any division into descriptors (VIRTIO 1.4
sections 2.7.4 and 5.6.6.1).
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

__all__ = ["ControlRequest", "VhostScsiRequest"]


@attrs.frozen
class VhostScsiRequest:
    """A parsed request. The memory views are of its chain."""

    head: int
    lun: Lun | None = None
    """None if the eight bytes of the LUN field are invalid."""
    tag: int = 0
    cdb: bytes = b""
    out: Sequence[memoryview] = ()
    """Data-out."""
    out_size: int = 0
    """Bytes, as is in_size."""
    data: Sequence[memoryview] = ()
    """Room for data-in."""
    in_size: int = 0
    response: Sequence[memoryview] = attrs.field(kw_only=True)
    """Room for the 12 bytes of the response and the sense data."""
    response_size: int = attrs.field(kw_only=True)
    complete: bool = attrs.field(kw_only=True)
    """False if the chain is too short for header, CDB, response and sense data."""

    @staticmethod
    def parse(chain: Chain, config: ScsiConfig) -> VhostScsiRequest:
        """Parse a chain. Raises BadChain if it has no room for a response, so that the device cannot answer."""
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
            raise BadChain(head, "the chain has no room for a response")
        complete = len(header) == header_size and room == response_size
        if not complete:
            return VhostScsiRequest(head, response=response, response_size=room, complete=False)
        lun, tag, _, _, _ = HEADER.unpack_from(header)
        cdb = header[HEADER.size :]
        return VhostScsiRequest(
            head,
            Lun.parse(lun),
            tag,
            cdb,
            out=out,
            out_size=total(out),
            data=data,
            in_size=total(data),
            response=response,
            response_size=response_size,
            complete=True,
        )

    def answer(self, response: Response, status: int, sense: Sense | None, moved: int) -> None:
        """Write response and sense data. ``moved``: bytes of data in both directions."""
        raw = b"" if sense is None else sense.emit()[: self.response_size - RESPONSE.size]
        residual = min(self.out_size + self.in_size - moved, 0xFFFF_FFFF)
        data = RESPONSE.pack(len(raw), residual, 0, status, response) + raw
        copy_in(self.response, data.ljust(self.response_size, b"\0"))


@attrs.frozen
class ControlRequest:
    """A parsed request of the control queue. The memory views are of its chain."""

    head: int
    kind: int
    function: int
    """Subtype of a TMF."""
    lun: Lun | None
    tag: int
    events: int
    """Events of AN_QUERY and AN_SUBSCRIBE."""
    writable: Sequence[memoryview]
    complete: bool
    """False if the chain is too short for its type, or the type is unknown."""

    @staticmethod
    def parse(chain: Chain) -> ControlRequest:
        """Parse a chain. Raises BadChain if it has no byte for a response."""
        head, readable, writable = chain
        room = total(writable)
        if not room:
            raise BadChain(head, "the chain has no byte for the response")
        data = copy_out(readable, TMF.size)
        kind = int.from_bytes(data[:4], "little") if len(data) >= 4 else -1
        if kind == ControlType.TMF and len(data) == TMF.size:
            _, function, lun, tag = TMF.unpack(data)
            return ControlRequest(
                head, kind, function, Lun.parse(lun), tag=tag, events=0, writable=writable, complete=True
            )
        if kind in (ControlType.AN_QUERY, ControlType.AN_SUBSCRIBE) and len(data) >= NOTIFICATION.size:
            _, lun, events = NOTIFICATION.unpack_from(data)
            complete = room >= NOTIFICATION_ANSWER.size
            return ControlRequest(
                head, kind, 0, Lun.parse(lun), tag=0, events=events, writable=writable, complete=complete
            )
        return ControlRequest(head, kind, 0, None, tag=0, events=0, writable=writable, complete=False)

    def answer(self, response: Response, events: int = 0) -> int:
        """Write the response, into the last byte if the request is incomplete. Returns the bytes written."""
        if not self.complete:
            self.writable[-1][-1] = response
            return 0
        if self.kind == ControlType.TMF:
            return copy_in(self.writable, bytes((response,)))
        return copy_in(self.writable, NOTIFICATION_ANSWER.pack(events, response))
