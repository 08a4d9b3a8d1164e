"""Commands as an initiator makes them, and what it hears: how each ended, and what a device tells of itself."""

from __future__ import annotations

from collections.abc import Callable

import attrs

from drivers.devices.scsi.layout import RESPONSE, EventType, Lun, ResetReason, Response, Status
from drivers.devices.scsi.sense import Sense
from drivers.errors import DriverError
from drivers.storage.bounce import Buffer
from rings.chain import copy_out, skip

__all__ = ["ScsiError", "ScsiEvent", "ScsiRequest", "ScsiResult", "read_result"]


class ScsiError(DriverError):
    """A command never got to a logical unit, or nothing is known of its end; ``response`` is the device's word."""

    def __init__(self, response: Response, what: str) -> None:
        super().__init__(f"{what}: {response.name}")
        self.response = response


@attrs.frozen
class ScsiResult:
    """How a command ended. Data are there whatever the status, as far as the device said so."""

    response: Response
    status: int
    """As in `Status`."""
    raw_sense: bytes
    residual: int
    """Bytes of both buffers that were not used."""
    data: bytes

    @property
    def good(self) -> bool:
        return self.response is Response.OK and self.status == Status.GOOD

    @property
    def sense(self) -> Sense | None:
        """Why not."""
        return Sense.parse(self.raw_sense)


@attrs.frozen
class ScsiEvent:
    """Something the device told of itself."""

    event: int
    """As in `EventType`."""
    lun: Lun | None
    reason: int
    missed: bool = False
    """Whether others got lost before it."""

    @property
    def rescan(self) -> bool:
        """Whether units may have come or gone, so that a scan is due (section 5.6.6.3.1)."""
        moved = self.event == EventType.TRANSPORT_RESET and self.reason in (ResetReason.RESCAN, ResetReason.REMOVED)
        return self.missed or moved


@attrs.define(eq=False)
class ScsiRequest:
    """One command. ``done`` is called when it ended, with ``result`` set; the buffer is its maker's."""

    lun: Lun
    cdb: bytes
    done: Callable[[ScsiRequest], None]
    buffer: Buffer | None = None
    """Data-out, and behind it room for data-in."""
    out_size: int = 0
    """Bytes, as is in_size."""
    in_size: int = 0
    tag: int = 0
    attention: bool = False
    """Whether it ends where a reset of the unit has to be told, rather than to be done after that."""
    result: ScsiResult | None = None
    retries: int = 0
    serial: int = 0
    deadline: float | None = None
    context: object = None
    """Whatever ``done`` needs."""


def read_result(request: ScsiRequest, raw: bytes, sense_size: int, written: int) -> ScsiResult | None:
    """What a device wrote, and said it wrote: None where these do not go together, so that nothing is known."""
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
