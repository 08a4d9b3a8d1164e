"""A request queue of a driver: each request has a slot of memory, and requests are answered in any order."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Generic, TypeVar

from drivers.bus.virtio import DriverQueue
from drivers.flow.figures import RequestFigures
from drivers.flow.pump import AGAIN, QUEUE, Wait
from drivers.storage.submit import Submission, Submitter

__all__ = ["RequestQueue"]

BUDGET = 64
"""Maximum requests per batch."""
R = TypeVar("R", bound=Submission)
A = TypeVar("A")


class RequestQueue(ABC, Generic[R, A]):
    """A `drivers.storage.submit.SubmissionQueue`, and the flow that takes used buffers.

    A device type implements `room`, `put`, `read` and `end`; ``A`` is its type of an answer.
    """

    def __init__(self, queue: DriverQueue, submitter: Submitter[R], figures: RequestFigures) -> None:
        """Create a slot for each descriptor of the ring."""
        self.queue = queue
        self.figures = figures
        self._submitter = submitter
        self._free = list(range(queue.ring.num - 1, -1, -1))
        self._requests: list[R | None] = [None] * queue.ring.num

    # Implemented by each device type.

    @abstractmethod
    def room(self, request: R) -> bool:
        """Return whether slots and ring have room for the request."""

    @abstractmethod
    def put(self, request: R, slot: int) -> None:
        """Fill the slot, and add a chain of the slot and the request's data."""

    @abstractmethod
    def read(self, request: R, slot: int) -> A:
        """Return the device's answer from the slot. Load each byte once: the slot is reused afterwards."""

    @abstractmethod
    def end(self, request: R, answer: A, written: int) -> None:
        """Complete a request that the device used; ``written`` is the used length."""

    # Common to all.

    def add(self, request: R) -> None:
        slot = self._free.pop()
        self.put(request, slot)
        self.figures.taken += 1
        self._requests[slot] = request

    @property
    def busy(self) -> bool:
        return len(self._free) < len(self._requests)

    def flush(self) -> None:
        if self.queue.live:
            self.queue.flush()

    def move(self) -> tuple[int, Wait]:
        requests = self._requests
        used = self.queue.ring.get_each(BUDGET)
        for slot, written in used:
            request, requests[slot] = requests[slot], None
            assert request is not None
            answer = self.read(request, slot)
            self._free.append(slot)
            self.end(request, answer, written)
        self._submitter.feed(self)
        return len(used), AGAIN if len(used) == BUDGET else QUEUE

    def unanswered(self) -> list[R]:
        """Return the requests that the device did not use before its reset."""
        return [request for request in self._requests if request is not None]
