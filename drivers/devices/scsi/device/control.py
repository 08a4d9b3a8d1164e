"""The control queue and the event queue of a vhost-scsi device."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping

import attrs

from drivers.bus.vhost import DeviceQueue
from drivers.devices.scsi.device.request import ControlRequest
from drivers.devices.scsi.device.requests import VhostScsiRequestFlow
from drivers.devices.scsi.device.session import ScsiSession
from drivers.devices.scsi.layout import (
    EVENT,
    EVENTS_MISSED,
    REPORT_LUNS,
    ControlType,
    EventType,
    Lun,
    Response,
)
from drivers.flow.pump import AGAIN, QUEUE, Wait
from rings.chain import Chain, copy_in
from rings.errors import BadChain
from rings.queue import Vringh, complete, getdesc

__all__ = ["VhostScsiControlFlow", "VhostScsiEventFlow"]

BUDGET = 4
"""Control requests per batch. Few, because each may end all commands of the device."""


@attrs.frozen(eq=False)
class _FunctionResult:
    """A task management function whose tasks have ended, and its response."""

    request: ControlRequest
    response: Response


class VhostScsiControlFlow:
    """The control queue. It is never served in place, because a function may have to wait for the request queues."""

    def __init__(
        self, queue: DeviceQueue, session: ScsiSession, request_flows: Mapping[int, VhostScsiRequestFlow]
    ) -> None:
        """``request_flows``: the flows of the request queues by queue index; grows as queues start."""
        self.queue = queue
        self._session = session
        self._request_flows = request_flows
        self._figures = session.plug.control
        self._ring = queue.ring
        self._results: deque[_FunctionResult] = deque()

    def move(self) -> tuple[int, Wait]:
        ring = self._ring
        if ring is None or self.queue.ring is not ring:
            return 0, QUEUE
        moved = self._answer_functions(ring)
        for _ in range(BUDGET):
            chain = getdesc(ring)
            if chain is None:
                return moved, QUEUE
            moved += 1
            self._begin(ring, ControlRequest.parse(chain))
        return moved, AGAIN

    def _begin(self, ring: Vringh, request: ControlRequest) -> None:
        self._figures.taken += 1
        if not request.complete:
            self._answer(ring, request, Response.FAILURE)
        elif request.kind == ControlType.TMF:
            self._begin_function(request)
        else:
            self._answer_notification(ring, request)

    def _begin_function(self, request: ControlRequest) -> None:
        """Start a function once every request queue has caught up: it may refer to a command sent just before it."""
        flows = list(self._request_flows.values())
        left = len(flows)

        def caught_up() -> None:
            nonlocal left
            left -= 1
            if left < 1 and self.queue.ring is self._ring:
                tasks = self._session.tasks
                tasks.manage(request.function, request.lun, request.tag, self._on_result(request))

        for flow in flows:
            flow.catch_up(caught_up)
        if not flows:
            caught_up()

    def _on_result(self, request: ControlRequest) -> Callable[[Response], None]:
        def on_result(response: Response) -> None:
            self._results.append(_FunctionResult(request, response))
            self.queue.signal.set()

        return on_result

    def _answer_notification(self, ring: Vringh, request: ControlRequest) -> None:
        """Answer AN_QUERY or AN_SUBSCRIBE."""
        domain, lun = self._session.plug.domain, request.lun
        if lun is None or domain.find(lun) is None:
            self._answer(ring, request, Response.BAD_TARGET)
            return
        disk = domain.disk(lun)
        if disk is None:
            known = lun == REPORT_LUNS
            self._answer(ring, request, Response.OK if known else Response.INCORRECT_LUN)
            return
        events = request.events & disk.events
        if request.kind == ControlType.AN_SUBSCRIBE:
            disk.subscribed = events
        self._answer(ring, request, Response.OK, events)

    def _answer_functions(self, ring: Vringh) -> int:
        """Answer completed functions, after the responses of the commands that they ended (section 5.6.6.2).

        Returns their number.
        """
        count = len(self._results)
        if count:
            for flow in self._request_flows.values():
                if flow.attached():
                    flow.queue.flush()
        for _ in range(count):
            result = self._results.popleft()
            self._answer(ring, result.request, result.response)
        return count

    def _answer(self, ring: Vringh, request: ControlRequest, response: Response, events: int = 0) -> None:
        if response in (Response.OK, Response.FUNCTION_SUCCEEDED):
            self._figures.done += 1
        else:
            self._figures.fail(response.name.lower())
        complete(ring, request.head, request.answer(response, events))


class VhostScsiEventFlow:
    """The event queue. Events for which the driver has no buffer are lost, and the next one carries EVENTS_MISSED."""

    def __init__(self, queue: DeviceQueue, session: ScsiSession) -> None:
        self.queue = queue
        self._session = session
        self._figures = session.plug.events
        self._ring = queue.ring
        self._events: deque[tuple[int, Lun, int]] = deque()
        # An event or the end of the ring. Buffers that the driver adds meanwhile need no attention yet.
        self._event: Wait = queue.signal.wait

    def post(self, event: EventType, lun: Lun, reason: int) -> None:
        """Queue an event for the driver."""
        self._events.append((event, lun, reason))
        self.queue.signal.set()

    def move(self) -> tuple[int, Wait]:
        ring, moved = self._ring, 0
        if ring is None or self.queue.ring is not ring:
            return 0, QUEUE
        while self._events or self._session.events_missed:
            chain = getdesc(ring)
            if chain is None:
                self._figures.drop("no_buffer", len(self._events))
                self._events.clear()
                self._session.events_missed = True
                return moved, QUEUE
            self._fill(ring, chain)
            moved += 1
        return moved, self._event

    def _fill(self, ring: Vringh, chain: Chain) -> None:
        """Write the next event, or EVENTS_MISSED alone, into a buffer (section 5.6.6.3).

        A buffer too short for an event gets the EVENTS_MISSED flag at most.
        """
        head, readable, writable = chain
        if readable or not writable:
            raise BadChain(head, "an event buffer has to be writable")
        size = sum(map(len, writable))
        flag = EVENTS_MISSED if self._session.events_missed else 0
        if size < EVENT.size:
            self._figures.drop("short_buffer")
            data = flag.to_bytes(4, "little")
        else:
            event, lun, reason = self._events.popleft() if self._events else (EventType.NO_EVENT, None, 0)
            data = EVENT.pack(event | flag, bytes(8) if lun is None else lun.emit_reported(), reason)
            self._session.events_missed = False
            self._figures.packets += 1
            self._figures.bytes += EVENT.size
        complete(ring, head, copy_in(writable, data))
