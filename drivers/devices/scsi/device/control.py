"""The control queue and the event queue at the device's side."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

import attrs

from drivers.bus.vhost import DeviceQueue
from drivers.devices.scsi.device.request import Control
from drivers.devices.scsi.layout import (
    EVENT,
    EVENTS_MISSED,
    REPORT_LUNS,
    ControlType,
    EventType,
    Lun,
    Response,
)
from drivers.flow.figures import Traffic
from drivers.flow.pump import Need, QueueFlow
from rings.chain import Chain, copy_in
from rings.errors import BadChain
from rings.queue import Vringh

if TYPE_CHECKING:
    from drivers.devices.scsi.device.device import BoundVhostScsi

__all__ = ["ControlFlow", "EventFlow"]

BUDGET = 4
"""Commands of the control queue per batch: each may end all requests there are."""


@attrs.frozen(eq=False)
class _Waiting:
    """A task management function whose tasks have ended."""

    control: Control
    response: Response


class ControlFlow(QueueFlow):
    """The control queue. Nothing of it is done in place: a function may have to wait for the request queues."""

    def __init__(self, queue: DeviceQueue, bound: BoundVhostScsi) -> None:
        self.queue = queue
        self._bound = bound
        self._ring = queue.ring
        self._ended: deque[_Waiting] = deque()

    def move(self) -> tuple[int, Need]:
        ring = self._ring
        if ring is None or self.queue.ring is not ring:
            return 0, Need.QUEUE
        moved = self._give_back(ring)
        for _ in range(BUDGET):
            chain = ring.getdesc()
            if chain is None:
                return moved, Need.QUEUE
            moved += 1
            self._begin(ring, Control.parse(chain))
        return moved, Need.TURN

    def _begin(self, ring: Vringh, control: Control) -> None:
        figures = self._bound.plug.control
        figures.taken += 1
        if not control.whole:
            self._answer(ring, control, Response.FAILURE)
        elif control.kind == ControlType.TMF:
            self._look(control)
        else:
            self._notifications(ring, control)

    def _look(self, control: Control) -> None:
        """Do a function once every request queue was looked at: it may mean a request that came just before it."""
        flows = list(self._bound.flows.values())
        left = len(flows)

        def looked() -> None:
            nonlocal left
            left -= 1
            if left < 1 and self.queue.ring is self._ring:
                self._bound.tasks.manage(control.function, control.lun, control.tag, self._later(control))

        for flow in flows:
            flow.look(looked)
        if not flows:
            looked()

    def _later(self, control: Control) -> Callable[[Response], None]:
        def over(response: Response) -> None:
            self._ended.append(_Waiting(control, response))
            self.queue.signal.set()

        return over

    def _notifications(self, ring: Vringh, control: Control) -> None:
        domain, lun = self._bound.plug.domain, control.lun
        if lun is None or domain.find(lun) is None:
            self._answer(ring, control, Response.BAD_TARGET)
            return
        disk = domain.disk(lun)
        if disk is None:
            known = lun == REPORT_LUNS
            self._answer(ring, control, Response.OK if known else Response.INCORRECT_LUN)
            return
        events = control.events & disk.events
        if control.kind == ControlType.AN_SUBSCRIBE:
            disk.subscribed = events
        self._answer(ring, control, Response.OK, events)

    def _give_back(self, ring: Vringh) -> int:
        """Answer functions that are done, behind the answers of the requests that they ended (section 5.6.6.2)."""
        count = len(self._ended)
        if count:
            for flow in self._bound.flows.values():
                if flow.held():
                    flow.queue.flush()
        for _ in range(count):
            waiting = self._ended.popleft()
            self._answer(ring, waiting.control, waiting.response)
        return count

    def _answer(self, ring: Vringh, control: Control, response: Response, events: int = 0) -> None:
        figures = self._bound.plug.control
        if response in (Response.OK, Response.FUNCTION_SUCCEEDED):
            figures.done += 1
        else:
            figures.fail(response.name.lower())
        ring.complete(control.head, control.answer(response, events))


class EventFlow(QueueFlow):
    """The event queue: what happens is put into the driver's buffers, and what finds none is lost, and said to be."""

    def __init__(self, queue: DeviceQueue, bound: BoundVhostScsi, figures: Traffic) -> None:
        self.queue = queue
        self._bound = bound
        self._figures = figures
        self._ring = queue.ring
        self._events: deque[tuple[int, Lun, int]] = deque()

    def post(self, event: EventType, lun: Lun, reason: int) -> None:
        """Tell the driver."""
        self._events.append((event, lun, reason))
        self.queue.signal.set()

    def move(self) -> tuple[int, Need]:
        ring, moved = self._ring, 0
        if ring is None or self.queue.ring is not ring:
            return 0, Need.QUEUE
        while self._events or self._bound.missed:
            chain = ring.getdesc()
            if chain is None:
                self._figures.drop("no_buffer", len(self._events))
                self._events.clear()
                self._bound.missed = True
                return moved, Need.QUEUE
            self._fill(ring, chain)
            moved += 1
        return moved, Need.SOURCE

    def _fill(self, ring: Vringh, chain: Chain) -> None:
        """One buffer: the next event, or that some were lost. A short one is told nothing else (section 5.6.6.3)."""
        head, readable, writable = chain
        if readable or not writable:
            raise BadChain(head, "an event buffer has to be writable")
        size = sum(map(len, writable))
        flag = EVENTS_MISSED if self._bound.missed else 0
        if size < EVENT.size:
            self._figures.drop("short_buffer")
            data = flag.to_bytes(4, "little")
        else:
            event, lun, reason = self._events.popleft() if self._events else (EventType.NO_EVENT, None, 0)
            data = EVENT.pack(event | flag, bytes(8) if lun is None else lun.emit_reported(), reason)
            self._bound.missed = False
            self._figures.packets += 1
            self._figures.bytes += EVENT.size
        ring.complete(head, copy_in(writable, data))

    async def wait(self, need: Need) -> None:
        """For an event, or the end of the ring; what the driver adds meanwhile is looked at when there is something."""
        await self.queue.signal.wait()
