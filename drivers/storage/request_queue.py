"""A queue of requests at the driver's side: each has a slot of memory, and is taken back by it, in any order."""

from __future__ import annotations

from typing import Generic, TypeVar

from drivers.bus.virtio import DriverQueue
from drivers.flow.figures import RequestFigures
from drivers.flow.pump import Need, QueueFlow
from drivers.storage.submit import Submission, Submitter

__all__ = ["RequestQueue"]

BUDGET = 64
"""Requests per batch."""
R = TypeVar("R", bound=Submission)
A = TypeVar("A")


class RequestQueue(QueueFlow, Generic[R, A]):
    """A `drivers.storage.submit.Queue`, and the flow that takes answers back.

    A device type says how a request is put into the ring, with its slot as token, and what an answer ``A`` means.
    """

    def __init__(self, queue: DriverQueue, submitter: Submitter[R], figures: RequestFigures) -> None:
        """There is a slot for each descriptor of the ring."""
        self.queue = queue
        self.figures = figures
        self._submitter = submitter
        self._free = list(range(queue.ring.num - 1, -1, -1))
        self._requests: list[R | None] = [None] * queue.ring.num

    # What each device type says.

    def room(self, request: R) -> bool:
        """Whether slots and ring take it now."""
        raise NotImplementedError

    def put(self, request: R, slot: int) -> None:
        """Fill the slot, and add a chain of it and of the request's data."""
        raise NotImplementedError

    def read(self, request: R, slot: int) -> A:
        """What the device wrote into the slot, each byte loaded once: it belongs to another request afterwards."""
        raise NotImplementedError

    def end(self, request: R, answer: A, written: int) -> None:
        """The device gave the request back, and says that it wrote so many bytes."""
        raise NotImplementedError

    # What they have in common.

    def add(self, request: R) -> None:
        slot = self._free.pop()
        self.put(request, slot)
        self.figures.taken += 1
        self._requests[slot] = request

    def flush(self) -> None:
        if self.queue.live:
            self.queue.flush()

    def move(self) -> tuple[int, Need]:
        get, requests = self.queue.ring.get, self._requests
        moved = 0
        while moved < BUDGET:
            used = get()
            if used is None:
                break
            slot, written = used
            request, requests[slot] = requests[slot], None
            assert request is not None
            answer = self.read(request, slot)
            self._free.append(slot)
            self.end(request, answer, written)
            moved += 1
        self._submitter.feed(self)
        return moved, Need.TURN if moved == BUDGET else Need.QUEUE

    def unanswered(self) -> list[R]:
        """After the device was reset: what it never gave back."""
        return [request for request in self._requests if request is not None]
