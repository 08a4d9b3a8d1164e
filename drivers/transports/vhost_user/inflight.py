"""The memory in which a back end notes what is in flight, and which its front end keeps for the next one."""

from __future__ import annotations

from collections.abc import Sequence

from drivers.contracts.ipc import Handle, Ipc, SharedMemory, Unusable
from drivers.transports.vhost_user.payloads import Inflight, MessageRefused
from rings.formats import RingFormat
from rings.queue import Vringh

__all__ = ["InflightArea"]


class InflightArea:
    """The logs of all queues, one after the other, each with as many entries as the front end's largest ring.

    The front end makes the area before a driver chooses the format and the sizes of its rings: a ring may be smaller
    than the log it gets (VIRTIO 1.4 section 4.1.5.1.3).
    """

    def __init__(self, shared: SharedMemory, num_queues: int, queue_size: int) -> None:
        self._shared = shared
        self._num_queues = num_queues
        self._queue_size = queue_size

    @classmethod
    def make(cls, ipc: Ipc, asked: Inflight, queues: int, formats: Sequence[RingFormat]) -> tuple[Inflight, Handle]:
        """A new one for a front end: what to tell it, and what to pass. Raises MessageRefused."""
        size = max(_sizes(asked, queues, formats))
        try:
            shared, handle = ipc.make(size)
        except Unusable as exc:
            raise MessageRefused(str(exc)) from None
        shared.close()  # it comes back with SET_INFLIGHT_FD
        return Inflight(size, 0, asked.num_queues, asked.queue_size), handle

    @classmethod
    def take(
        cls, ipc: Ipc, given: Inflight, handle: Handle, queues: int, formats: Sequence[RingFormat]
    ) -> InflightArea:
        """The one that a front end kept, for rings of one of these formats. Raises MessageRefused."""
        sizes = _sizes(given, queues, formats)
        if given.mmap_size < min(sizes):
            raise MessageRefused(f"an inflight area of {given.mmap_size} bytes where {min(sizes)} are needed")
        try:
            shared = ipc.map(handle, min(given.mmap_size, max(sizes)), given.mmap_offset)
        except Unusable as exc:
            raise MessageRefused(f"the inflight area: {exc}") from None
        return cls(shared, given.num_queues, given.queue_size)

    def check(self, index: int, num: int, form: RingFormat) -> None:
        """Raises MessageRefused unless a ring of ``num`` descriptors has a log here."""
        room = len(self._shared.view) // form.log_size(self._queue_size)
        if index >= min(self._num_queues, room) or num > self._queue_size:
            raise MessageRefused(
                f"ring {index} of {num} descriptors: the inflight area has room for {min(self._num_queues, room)}"
                f" {form.name} rings of {self._queue_size}"
            )

    def logged(self, index: int, form: RingFormat, ring: Vringh) -> Vringh:
        """``ring`` with its log around it; to be closed before the area is. Raises BadRing."""
        size = form.log_size(self._queue_size)
        return form.logged(ring, self._shared.view[index * size : (index + 1) * size], self._queue_size)

    def close(self) -> None:
        self._shared.close()


def _sizes(area: Inflight, queues: int, formats: Sequence[RingFormat]) -> list[int]:
    """Bytes of such an area for rings of each format. Raises MessageRefused where there can be no such rings."""
    if not 1 <= area.num_queues <= queues:
        raise MessageRefused(f"an inflight area for {area.num_queues} queues of a device that has {queues}")
    fitting = [form for form in formats if form.has_num(area.queue_size)]
    if not fitting:
        raise MessageRefused(f"an inflight area for queues of {area.queue_size} descriptors")
    return [form.log_size(area.queue_size) * area.num_queues for form in fitting]
