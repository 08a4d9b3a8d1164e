"""Coalescing of a net device's calls: the driver sees used buffers at once, and is called later."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import trio

from drivers.devices.net.coalescing import MAX_USECS, NO_COALESCING, Coalescing, Direction
from drivers.devices.net.device.flows import VhostNetFlow
from drivers.flow.pump import Signal, Stopping

__all__ = ["CallCoalescer", "CallCoalescers"]


class CallCoalescer:
    """Calls the driver of one queue after so many packets, or so long after the first of them.

    Implements `drivers.bus.device_queue.CallDelay`. A driver that suppresses calls then is not called, and the count
    begins anew: once it wants calls again, it looks at the ring itself.
    """

    def __init__(self, flow: VhostNetFlow) -> None:
        self.parameters = NO_COALESCING
        self.queue = flow.queue
        self._flow = flow
        self._counted = 0  # packets at the last decision
        self._first: float | None = None  # time of the first packet since then
        self._timer = Signal()
        self._ring = flow.queue.ring_count  # number of the ring that the parameters are for

    def restart(self, parameters: Coalescing) -> None:
        """Set ``parameters`` if the queue has a new ring, in which no packet waits for a call."""
        if self._ring != self.queue.ring_count:
            self._ring, self._first = self.queue.ring_count, None
            self.set(parameters)

    def set(self, parameters: Coalescing) -> None:
        """Set the parameters, which apply at once to packets that wait for a call."""
        self.parameters = parameters
        self.queue.delay = self if parameters.on else None
        if self._first is None:
            self._begin()
        else:
            self._decide_if_due()
            self._timer.set()

    def due(self, undecided: bool) -> bool:
        if not undecided:
            return False
        now = trio.current_time()
        if self._first is None:
            self._first = now
            self._timer.set()
        packets = self._flow.packets - self._counted
        if packets < self.parameters.max_packets and now < self._first + self.parameters.max_usecs / 1e6:
            return False
        self._begin()
        return True

    def _begin(self) -> None:
        self._counted, self._first = self._flow.packets, None

    def _decide_if_due(self) -> None:
        if not self.queue.live:
            self._begin()
            return
        with Stopping(self.queue):
            if self.due(True):
                self.queue.decide()

    async def run(self) -> None:
        """Decide when time is up, until cancelled."""
        while True:
            if self._first is None:
                await self._timer.wait()
                continue
            with trio.move_on_at(self._first + self.parameters.max_usecs / 1e6) as limit:
                await self._timer.wait()
            if limit.cancelled_caught and self._first is not None:
                self._decide_if_due()


class CallCoalescers:
    """The coalescers of a device's data queues, from DRIVER_OK to reset."""

    def __init__(self, flows: Sequence[VhostNetFlow]) -> None:
        """``flows``: those of the data queues, by index."""
        self._all = [CallCoalescer(flow) for flow in flows]
        self._common = dict.fromkeys(Direction, NO_COALESCING)  # of the last command for all queues of a direction

    def __iter__(self) -> Iterator[CallCoalescer]:
        return iter(self._all)

    @property
    def by_queue(self) -> Mapping[int, Coalescing]:
        """Parameters of the queues whose calls are kept back, by index."""
        return {index: each.parameters for index, each in enumerate(self._all) if each.parameters.on}

    def set_all(self, direction: Direction, parameters: Coalescing) -> bool:
        """Set the parameters of all queues of a direction. Returns False, and changes nothing, for too long a delay."""
        if parameters.max_usecs > MAX_USECS:
            return False
        self._common[direction] = parameters
        for coalescer in self._all[direction::2]:
            coalescer.set(parameters)
        return True

    def set_one(self, index: int, parameters: Coalescing) -> bool:
        """Set the parameters of one queue. Returns False, and changes nothing, for too long a delay, or a queue that
        is no data queue or not enabled."""
        coalescer = self._enabled(index)
        if parameters.max_usecs > MAX_USECS or coalescer is None:
            return False
        coalescer.set(parameters)
        return True

    def get(self, index: int) -> Coalescing | None:
        """Return the parameters of one queue; None for one that is no data queue or not enabled."""
        coalescer = self._enabled(index)
        return None if coalescer is None else coalescer.parameters

    def _enabled(self, index: int) -> CallCoalescer | None:
        """Return the coalescer of one queue; None for one that is no data queue or not enabled.

        A command may precede the queue's task, which gives a new ring its parameters: then this does.
        """
        if index >= len(self._all) or not self._all[index].queue.live:
            return None
        self.restart(index)
        return self._all[index]

    def restart(self, index: int) -> None:
        """Give a queue with a new ring the parameters of its direction."""
        self._all[index].restart(self._common[Direction(index % 2)])
