"""The device's side of a queue of questions: each chain is answered at once, and in order.

    flow = AnswerFlow(queue, answer)
    await queue.serve_each_ring(partial(pump, flow, device.settle, in_place=True))

``answer`` is a function that takes a chain, writes into it, and returns the bytes that it wrote.
"""

from __future__ import annotations

from collections.abc import Callable

from drivers.bus.device_queue import DeviceQueue
from drivers.flow.pump import AGAIN, QUEUE, Wait
from rings.chain import Chain
from rings.queue import complete, getdesc

__all__ = ["AnswerFlow"]

BUDGET = 16
"""Maximum questions per batch."""


class AnswerFlow:
    """The flow of a queue whose chains are answered one by one."""

    def __init__(self, queue: DeviceQueue, answer: Callable[[Chain], int]) -> None:
        """``answer`` may raise BadChain for a chain that violates the device type's rules, which breaks the queue."""
        self.queue = queue
        self._answer = answer

    def move(self) -> tuple[int, Wait]:
        ring = self.queue.ring
        if ring is None:
            return 0, QUEUE
        for moved in range(BUDGET):
            chain = getdesc(ring)
            if chain is None:
                return moved, QUEUE
            complete(ring, chain[0], self._answer(chain))
        return BUDGET, AGAIN
