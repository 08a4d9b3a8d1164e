"""Requests, results and events of an initiator."""

from __future__ import annotations

from collections.abc import Callable

import attrs

from drivers.devices.scsi.layout import RESPONSE, EventType, Lun, ResetReason, Response, ScsiStatus
from drivers.devices.scsi.sense import Sense
from drivers.errors import DriverError
from drivers.storage.bounce import Buffer
from rings.chain import copy_out, skip

__all__ = ["ScsiError", "ScsiEvent", "ScsiRequest", "ScsiResult", "read_result"]


class ScsiError(DriverError):
    """A command that did not reach its logical unit, or whose result is unknown. ``response`` is the device's."""

    def __init__(self, response: Response, what: str) -> None:
        super().__init__(f"{what}: {response.name}")
        self.response = response


@attrs.frozen
class ScsiResult:
    """Result of a command. ``data`` may be present with any status."""

    response: Response
    status: int
    """SAM status, as in `ScsiStatus`."""
    raw_sense: bytes
    residual: int
    """Unused bytes of both buffers."""
    data: bytes

    @property
    def good(self) -> bool:
        return self.response is Response.OK and self.status == ScsiStatus.GOOD

    @property
    def sense(self) -> Sense | None:
        """Parsed sense data."""
        return Sense.parse(self.raw_sense)


@attrs.frozen
class ScsiEvent:
    """An event that the device reported."""

    event: int
    """Event type, as in `EventType`."""
    lun: Lun | None
    reason: int
    missed: bool = False
    """Whether earlier events were lost."""

    @property
    def rescan(self) -> bool:
        """Whether units may have been added or removed, so that the caller should scan (section 5.6.6.3.1)."""
        moved = self.event == EventType.TRANSPORT_RESET and self.reason in (ResetReason.RESCAN, ResetReason.REMOVED)
        return self.missed or moved


@attrs.define(eq=False)
class ScsiRequest:
    """One command. When it ends, ``result`` is set and ``done`` is called. The caller owns the buffer."""

    lun: Lun
    cdb: bytes
    done: Callable[[ScsiRequest], None]
    buffer: Buffer | None = None
    """Data-out, followed by room for data-in."""
    out_size: int = 0
    """Bytes, as is in_size."""
    in_size: int = 0
    tag: int = 0
    attention: bool = False
    """Whether a unit attention for a reset ends the command; else the command is retried."""
    result: ScsiResult | None = None
    retries: int = 0
    serial: int = 0
    deadline: float | None = None


def read_result(request: ScsiRequest, raw: bytes, sense_size: int, written: int) -> ScsiResult | None:
    """Parse a response of which the device wrote ``written`` bytes. Returns None if response and length contradict."""
    if written < RESPONSE.size:
        return None
    sense_len, residual, _, status, response = RESPONSE.unpack_from(raw)
    if response not in Response.__members__.values():
        return None
    whole = RESPONSE.size + sense_size
    sense = raw[RESPONSE.size : RESPONSE.size + min(sense_len, sense_size, written - RESPONSE.size)]
    size = request.out_size + request.in_size
    if residual > size:
        return None
    moved = max(0, request.in_size - residual)
    if moved > max(0, written - whole):
        return None
    data = b""
    if request.buffer is not None and moved:
        data = copy_out(skip(request.buffer.views, request.out_size), moved)
    return ScsiResult(Response(response), status, sense, residual, data)
