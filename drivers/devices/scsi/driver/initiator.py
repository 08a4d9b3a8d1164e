"""A SCSI initiator as programs on the driver's host use it: it outlives resets and link flaps of its device.

`Initiator.execute` is for everybody; programs that want speed make `ScsiRequest`s, `submit` several and `kick` once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Protocol

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
    Status,
    Tmf,
)
from drivers.devices.scsi.sense import Key
from drivers.flow.figures import RequestFigures, Traffic
from drivers.storage.bounce import LARGE
from drivers.storage.submit import BUFFERS, PATIENCE, Queue, Submitter
from rings.chain import copy_in

__all__ = ["Initiator"]

RETRIES = 5
"""Times that a command is given to the device again because a reset had to be told first."""
RESET_ASC = 0x29
TAGS = 1 << 32
"""From here on are the tags that nobody chose."""
EVENTS_KEPT = 256
LUNS_AT_FIRST, LUNS_MAX = 511, 1 << 22
"""How many logical units a scan asks for, and will ask for."""


class ControlQueue(Protocol):
    """The live control queue."""

    async def ask(self, data: bytes, size: int, /) -> bytes:
        """What the device answers, ``size`` bytes. Raises ScsiError where it goes away first."""


class Initiator(Submitter[ScsiRequest]):
    """The initiator of one SCSI host device. ``serve`` has to run for as long as it is used."""

    def __init__(self, *, buffers: int = BUFFERS, patience: float = PATIENCE, queues: int = 1) -> None:
        """``buffers``: bytes for data on its way; ``patience``: seconds that commands wait for a lost device."""
        super().__init__(buffers=buffers, patience=patience, queues=queues)
        self.config: ScsiConfig | None = None
        """Of the device when it was there last."""
        self.transfer_max = 0
        """Bytes of data that one command may have."""
        self.control_figures = RequestFigures()
        self.event_figures = Traffic()
        self.resets = 0
        """Times that a command was done again because a unit had to tell of a reset first."""
        self._segments = 0
        self._tags = count(TAGS)
        self._control: ControlQueue | None = None
        self._listeners: dict[trio.MemorySendChannel[ScsiEvent], bool] = {}  # and whether it lost events

    # What the driver says.

    def come_up(
        self, config: ScsiConfig, queues: list[Queue[ScsiRequest]], control: ControlQueue, segments: int
    ) -> None:
        """The device is live: it gets again what was kept. ``segments``: of the data of one request."""
        again = self.config is not None
        self.config, self._control, self._segments = config, control, segments
        self.transfer_max = min(segments * LARGE, max(1, config.max_sectors) * 512, self.largest)
        self.device_up(queues)
        if again:  # nobody told what happened meanwhile
            self.publish_event(ScsiEvent(EventType.NO_EVENT, None, 0, missed=True))

    def device_down(self, kept: list[ScsiRequest]) -> None:  # type: ignore[override]
        self._control = None
        super().device_down(kept)

    def publish_event(self, event: ScsiEvent) -> None:
        """Tell who listens; who is too slow learns that it missed some."""
        for channel, lost in list(self._listeners.items()):
            try:
                channel.send_nowait(attrs.evolve(event, missed=event.missed or lost))
                self._listeners[channel] = False
            except trio.WouldBlock:
                self._listeners[channel] = True
            except trio.BrokenResourceError:
                del self._listeners[channel]

    def answered(self, request: ScsiRequest, result: ScsiResult) -> None:
        """The device is done with a request."""
        sense = result.sense if result.status == Status.CHECK_CONDITION and result.response is Response.OK else None
        attended = sense is not None and sense.key == Key.UNIT_ATTENTION and sense.asc >> 8 == RESET_ASC
        if attended and not request.attention and request.retries < RETRIES:
            # It comes of a reset of ours, or of one that nobody who makes requests can mend: what was asked for was
            # not done, and can be done now.
            request.retries += 1
            self.resets += 1
            self._waiting.appendleft(request)
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
        request.result = ScsiResult(Response.TRANSPORT_FAILURE, Status.GOOD, b"", size, b"")
        request.done(request)

    # What programs say.

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
        """Do a command with ``data_out``, and room for ``data_in`` bytes.

        A CHECK CONDITION is a result like any other; but with ``attention`` only that which tells of a reset, else the
        command is done again. ``tag`` is the name that task management functions know it by.
        Raises ScsiError where there is no result, also after a device was away for too long; ValueError for more data
        than one command may have, or no CDB.
        """
        config = await self._known()
        size = len(data_out) + data_in
        if not 6 <= len(cdb) <= config.cdb_size:
            raise ValueError(f"a CDB of {len(cdb)} bytes: it has 6 to {config.cdb_size}")
        if size > self.transfer_max:
            raise ValueError(f"{size} bytes of data for one command, which has at most {self.transfer_max}")
        over = trio.Event()
        request = ScsiRequest(lun, bytes(cdb), _free, out_size=len(data_out), in_size=data_in, attention=attention)
        request.tag = next(self._tags) if tag is None else tag
        request.context = over
        if size:
            request.buffer = await self.buffer(size)
            copy_in(request.buffer.views, memoryview(data_out))
        self.submit(request)
        self.kick()
        await over.wait()
        result = request.result
        assert result is not None
        if result.response is not Response.OK:
            raise ScsiError(result.response, f"command {cdb[0]:#04x} of {lun}")
        return result

    async def scan(self) -> list[Lun]:
        """All logical units there are, by REPORT LUNS. Raises ScsiError."""
        config = await self._known()
        try:
            found = await self._report(REPORT_LUNS)
        except ScsiError as exc:
            if exc.response is not Response.BAD_TARGET:
                raise
        else:
            return sorted({lun for raw in found if (lun := Lun.parse(raw)) is not None})
        luns: set[Lun] = set()
        for target in range(config.max_target + 1):
            try:
                found = await self._report(Lun(target, 0))
            except ScsiError as exc:
                if exc.response is not Response.BAD_TARGET:
                    raise
                continue
            luns |= {lun for raw in found if (lun := Lun.parse(bytes((1, target)) + raw[:2] + raw[4:])) is not None}
        return sorted(luns)

    async def _report(self, lun: Lun) -> list[bytes]:
        """Raises ScsiError."""
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
        """Do a task management function; what the device answers. Raises ScsiError where nobody does."""
        data = TMF.pack(ControlType.TMF, function, lun.emit(), tag)
        return _response((await self._ask(data, 1))[0])

    async def query_events(self, lun: Lun, events: AsyncEvent) -> AsyncEvent:
        """Which of the events the unit can report. Raises ScsiError."""
        return await self._notifications(ControlType.AN_QUERY, lun, events)

    async def subscribe(self, lun: Lun, events: AsyncEvent) -> AsyncEvent:
        """Hear of these events from now on, and of no others, until a reset; those that there are. Raises ScsiError."""
        return await self._notifications(ControlType.AN_SUBSCRIBE, lun, events)

    @contextmanager
    def events(self) -> Iterator[trio.MemoryReceiveChannel[ScsiEvent]]:
        """What the device tells, from now on; whoever is too slow misses some, and learns that."""
        send, receive = trio.open_memory_channel[ScsiEvent](EVENTS_KEPT)
        self._listeners[send] = False
        try:
            with send, receive:
                yield receive
        finally:
            self._listeners.pop(send, None)

    # How it is done.

    async def _notifications(self, kind: ControlType, lun: Lun, events: AsyncEvent) -> AsyncEvent:
        answer = await self._ask(NOTIFICATION.pack(kind, lun.emit(), events), NOTIFICATION_ANSWER.size)
        actual, response = NOTIFICATION_ANSWER.unpack(answer)
        if response != Response.OK:
            raise ScsiError(_response(response), f"{kind.name} of {lun}")
        return AsyncEvent(actual & events)

    async def _ask(self, data: bytes, size: int) -> bytes:
        await self._known()
        if self._control is None:
            with trio.move_on_after(self._patience):
                await self.wait_up()
        if self._control is None:
            raise ScsiError(Response.TRANSPORT_FAILURE, "the device is away")
        return await self._control.ask(data, size)

    async def _known(self) -> ScsiConfig:
        if self.config is None:
            with trio.move_on_after(self._patience):
                await self.wait_up()
        if self.config is None:
            raise ScsiError(Response.TRANSPORT_FAILURE, "there is no device yet")
        return self.config


def _free(request: ScsiRequest) -> None:
    """Whoever waited for it may have gone."""
    if request.buffer is not None:
        request.buffer.free()
    assert isinstance(request.context, trio.Event)
    request.context.set()


def _response(value: int) -> Response:
    return Response(value) if value in Response.__members__.values() else Response.FAILURE
