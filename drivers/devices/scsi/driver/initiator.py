"""A SCSI initiator for programs on the driver's host. It survives resets and link failures of its device.

`Initiator.execute` is the simple interface; fast programs make `ScsiRequest`s, `submit` several and `kick` once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count

import attrs
import trio

from drivers.devices.scsi import cdb as commands
from drivers.devices.scsi.driver.result import ScsiError, ScsiEvent, ScsiRequest, ScsiResult
from drivers.devices.scsi.layout import (
    NOTIFICATION,
    NOTIFICATION_ANSWER,
    REPORT_LUNS,
    TMF,
    AsyncEvent,
    ControlType,
    EventType,
    Lun,
    Response,
    ScsiConfig,
    ScsiStatus,
    Tmf,
)
from drivers.devices.scsi.sense import SenseKey
from drivers.errors import TransportLost
from drivers.flow.figures import RequestFigures, Traffic
from drivers.questions.ask import QuestionFlow
from drivers.storage.bounce import LARGE
from drivers.storage.submit import BUFFERS, PATIENCE, SubmissionQueue, Submitter
from rings.chain import copy_in

__all__ = ["Initiator"]

RETRIES = 5
"""Maximum number of retries of a command because of a unit attention for a reset."""
RESET_ASC = 0x29
"""Additional sense code of power on, reset and I_T nexus loss."""
TAGS = 1 << 32
"""First of the tags for commands without a tag of the caller."""
EVENTS_KEPT = 256
"""Maximum number of unread events per listener."""
LUNS_AT_FIRST, LUNS_MAX = 511, 1 << 22
"""Number of logical units that the first REPORT LUNS of a scan has room for, and the maximum."""


class Initiator(Submitter[ScsiRequest]):
    """The initiator of one SCSI host device. Run ``serve`` while the initiator is in use."""

    def __init__(self, *, buffers: int = BUFFERS, patience: float = PATIENCE, queues: int = 1) -> None:
        """``buffers``: bytes for request data; ``patience``: seconds that commands wait for a lost device."""
        super().__init__(buffers=buffers, patience=patience, queues=queues)
        self.config: ScsiConfig | None = None
        """Configuration of the device when it was last up."""
        self.transfer_max = 0
        """Maximum bytes of data of one command."""
        self.control_figures = RequestFigures()
        self.event_figures = Traffic()
        self.resets = 0
        """Number of command retries because of a unit attention for a reset."""
        self._segments = 0
        self._tags = count(TAGS)
        self._control: QuestionFlow | None = None
        self._listeners: dict[trio.MemorySendChannel[ScsiEvent], bool] = {}  # value: whether it missed events

    # Called by the driver.

    def come_up(
        self, config: ScsiConfig, queues: list[SubmissionQueue[ScsiRequest]], control: QuestionFlow, segments: int
    ) -> None:
        """Resume after the device became live. ``segments``: maximum number of data segments of one request."""
        returned = self.config is not None
        self.config, self._control, self._segments = config, control, segments
        self.transfer_max = min(segments * LARGE, max(1, config.max_sectors) * 512, self.largest)
        self.device_up(queues)
        if returned:  # events of the meantime are lost
            self.publish_event(ScsiEvent(EventType.NO_EVENT, None, 0, missed=True))

    def device_down(self, unanswered: list[ScsiRequest]) -> None:  # type: ignore[override]
        self._control = None
        super().device_down(unanswered)

    def publish_event(self, event: ScsiEvent) -> None:
        """Send an event to all listeners. If a listener's channel is full, its next event has ``missed`` set."""
        for channel, lost in list(self._listeners.items()):
            try:
                channel.send_nowait(attrs.evolve(event, missed=event.missed or lost))
                self._listeners[channel] = False
            except trio.WouldBlock:
                self._listeners[channel] = True
            except trio.BrokenResourceError:
                del self._listeners[channel]

    def on_response(self, request: ScsiRequest, result: ScsiResult) -> None:
        """Complete a request that the device answered, or queue it again after a unit attention for a reset."""
        sense = result.sense if result.status == ScsiStatus.CHECK_CONDITION and result.response is Response.OK else None
        was_reset = sense is not None and sense.key == SenseKey.UNIT_ATTENTION and sense.asc >> 8 == RESET_ASC
        if was_reset and not request.attention and request.retries < RETRIES:
            # The reset was ours, or one that no caller can handle. The unit did not execute the command: send it again.
            request.retries += 1
            self.resets += 1
            self._backlog.appendleft(request)
            return
        request.result = result
        request.done(request)

    # Submitter

    def admit(self, request: ScsiRequest) -> bool:
        segs = 0 if request.buffer is None else len(request.buffer.segs)
        if request.out_size and request.in_size:
            segs += 1
        if segs <= self._segments:
            return True
        self.fail(request, "too_large")
        return False

    def fail(self, request: ScsiRequest, cause: str) -> None:
        self.figures[0].taken += 1
        self.figures[0].fail(cause)
        size = request.out_size + request.in_size
        request.result = ScsiResult(Response.TRANSPORT_FAILURE, ScsiStatus.GOOD, b"", size, b"")
        request.done(request)

    # Interface for programs.

    async def execute(
        self,
        cdb: bytes | bytearray,
        *,
        lun: Lun = Lun(0, 0),  # noqa: B008  frozen
        data_out: bytes | bytearray | memoryview = b"",
        data_in: int = 0,
        attention: bool = False,
        tag: int | None = None,
    ) -> ScsiResult:
        """Execute a command with ``data_out`` and room for ``data_in`` bytes. Returns its result.

        A CHECK CONDITION is a result. One that reports a reset is retried, unless ``attention`` is set.
        ``tag`` identifies the command to task management functions.
        Raises ScsiError if the command has no result, also if the device was away for too long; ValueError for too much
        data or an invalid CDB length.
        """
        config = await self._known()
        size = len(data_out) + data_in
        if not 6 <= len(cdb) <= config.cdb_size:
            raise ValueError(f"CDB of {len(cdb)} bytes: must have 6 to {config.cdb_size}")
        if size > self.transfer_max:
            raise ValueError(f"{size} bytes of data: at most {self.transfer_max} per command")
        completion = trio.Event()
        request = ScsiRequest(
            lun, bytes(cdb), partial(_on_done, completion), out_size=len(data_out), in_size=data_in, attention=attention
        )
        request.tag = next(self._tags) if tag is None else tag
        if size:
            request.buffer = await self.buffer(size)
            copy_in(request.buffer.views, memoryview(data_out))
        self.submit(request)
        self.kick()
        await completion.wait()
        result = request.result
        assert result is not None
        if result.response is not Response.OK:
            raise ScsiError(result.response, f"command {cdb[0]:#04x} of {lun}")
        return result

    async def scan(self) -> list[Lun]:
        """Return all logical units, by REPORT LUNS. Raises ScsiError."""
        config = await self._known()
        try:
            reported = await self._report(REPORT_LUNS)
        except ScsiError as exc:
            if exc.response is not Response.BAD_TARGET:
                raise
        else:
            return sorted({lun for raw in reported if (lun := Lun.parse(raw)) is not None})
        luns: set[Lun] = set()
        for target in range(config.max_target + 1):
            try:
                reported = await self._report(Lun(target, 0))
            except ScsiError as exc:
                if exc.response is not Response.BAD_TARGET:
                    raise
                continue
            luns |= {lun for raw in reported if (lun := Lun.parse(bytes((1, target)) + raw[:2] + raw[4:])) is not None}
        return sorted(luns)

    async def _report(self, lun: Lun) -> list[bytes]:
        """Return the LUNs that REPORT LUNS of ``lun`` lists, eight bytes each. Raises ScsiError."""
        size = 8 + 8 * LUNS_AT_FIRST
        while True:
            size = min(size, self.transfer_max)
            result = await self.execute(commands.report_luns(size), lun=lun, data_in=size)
            data = result.data
            if not result.good or len(data) < 8:
                raise ScsiError(Response.FAILURE, f"REPORT LUNS of {lun} ({result.sense})")
            whole = 8 + int.from_bytes(data[:4], "big") // 8 * 8
            if whole <= len(data) or size >= min(whole, LUNS_MAX, self.transfer_max):
                return [data[at : at + 8] for at in range(8, min(whole, len(data)) - 7, 8)]
            size = min(whole, LUNS_MAX)

    async def manage(self, function: Tmf, lun: Lun, tag: int = 0) -> Response:
        """Perform a task management function. Returns the response. Raises ScsiError if the device is away."""
        data = TMF.pack(ControlType.TMF, function, lun.emit(), tag)
        return _response((await self._ask(data, 1))[0])

    async def query_events(self, lun: Lun, events: AsyncEvent) -> AsyncEvent:
        """Return those of the events that the unit can report. Raises ScsiError."""
        return await self._notifications(ControlType.AN_QUERY, lun, events)

    async def subscribe(self, lun: Lun, events: AsyncEvent) -> AsyncEvent:
        """Subscribe to exactly these events until a reset. Returns those that the unit can report. Raises ScsiError."""
        return await self._notifications(ControlType.AN_SUBSCRIBE, lun, events)

    @contextmanager
    def events(self) -> Iterator[trio.MemoryReceiveChannel[ScsiEvent]]:
        """Yield a channel of the device's events. If it is full, events are lost, and the next has ``missed`` set."""
        send, receive = trio.open_memory_channel[ScsiEvent](EVENTS_KEPT)
        self._listeners[send] = False
        try:
            with send, receive:
                yield receive
        finally:
            self._listeners.pop(send, None)

    # Internals.

    async def _notifications(self, kind: ControlType, lun: Lun, events: AsyncEvent) -> AsyncEvent:
        answer = await self._ask(NOTIFICATION.pack(kind, lun.emit(), events), NOTIFICATION_ANSWER.size)
        actual, response = NOTIFICATION_ANSWER.unpack(answer)
        if response != Response.OK:
            raise ScsiError(_response(response), f"{kind.name} of {lun}")
        return AsyncEvent(actual & events)

    async def _ask(self, data: bytes, size: int) -> bytes:
        """Send a control request. Returns the ``size`` bytes of the answer. Raises ScsiError if the device is away."""
        await self._known()
        if self._control is None:
            with trio.move_on_after(self._patience):
                await self.wait_up()
        if self._control is None:
            raise ScsiError(Response.TRANSPORT_FAILURE, "the device is away")
        try:
            answer = await self._control.ask(data, size)
        except TransportLost as exc:
            raise ScsiError(Response.TRANSPORT_FAILURE, str(exc)) from None
        return answer or bytes(size - 1) + bytes((Response.FAILURE,))  # the response is the last byte

    async def _known(self) -> ScsiConfig:
        if self.config is None:
            with trio.move_on_after(self._patience):
                await self.wait_up()
        if self.config is None:
            raise ScsiError(Response.TRANSPORT_FAILURE, "no device has come up yet")
        return self.config


def _on_done(completion: trio.Event, request: ScsiRequest) -> None:
    """Free the buffer and wake the caller, who may have been cancelled."""
    if request.buffer is not None:
        request.buffer.free()
    completion.set()


def _response(value: int) -> Response:
    return Response(value) if value in Response.__members__.values() else Response.FAILURE
