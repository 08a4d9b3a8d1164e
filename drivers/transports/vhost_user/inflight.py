"""The inflight area: shared memory in which a back end logs chains in flight; its front end keeps it for the next."""

from __future__ import annotations

from collections.abc import Sequence

from drivers.contracts.ipc import Handle, Ipc, SharedMemory, Unusable
from drivers.transports.vhost_user.payloads import Inflight, MessageRefused
from rings.formats import RingFormat
from rings.queue import Vringh

__all__ = ["InflightArea"]


class InflightArea:
    """The logs of all queues, one after the other, each with as many entries as the front end's largest ring.

    The front end requests the area before the driver chooses format and sizes of its rings, so a ring may be smaller
    than its log (VIRTIO 1.4 section 4.1.5.1.3).
    """

    def __init__(self, shared: SharedMemory, num_queues: int, queue_size: int) -> None:
        self._shared = shared
        self._num_queues = num_queues
        self._queue_size = queue_size

    @classmethod
    def make(cls, ipc: Ipc, request: Inflight, queues: int, formats: Sequence[RingFormat]) -> tuple[Inflight, Handle]:
        """Allocate an area for a front end. Returns its description and its handle. Raises MessageRefused."""
        size = max(_sizes(request, queues, formats))
        try:
            shared, handle = ipc.make(size)
        except Unusable as exc:
            raise MessageRefused(str(exc)) from None
        shared.close()  # SET_INFLIGHT_FD passes it back
        return Inflight(size, 0, request.num_queues, request.queue_size), handle

    @classmethod
    def take(cls, ipc: Ipc, area: Inflight, handle: Handle, queues: int, formats: Sequence[RingFormat]) -> InflightArea:
        """Map the area that a front end kept, for rings of one of ``formats``. Raises MessageRefused."""
        sizes = _sizes(area, queues, formats)
        if area.mmap_size < min(sizes):
            raise MessageRefused(f"an inflight area of {area.mmap_size} bytes, {min(sizes)} needed")
        try:
            ipc.map(handle, 1, area.mmap_offset + area.mmap_size - 1).close()  # the file has all of the area
            shared = ipc.map(handle, min(area.mmap_size, max(sizes)), area.mmap_offset)
        except Unusable as exc:
            raise MessageRefused(f"the inflight area: {exc}") from None
        return cls(shared, area.num_queues, area.queue_size)

    def check(self, index: int, num: int, form: RingFormat) -> None:
        """Raise MessageRefused if the area has no log for a ring of ``num`` descriptors."""
        room = len(self._shared.view) // form.log_size(self._queue_size)
        if index >= min(self._num_queues, room) or num > self._queue_size:
            raise MessageRefused(
                f"ring {index} of {num} descriptors: the inflight area has room for {min(self._num_queues, room)}"
                f" {form.name} rings of {self._queue_size}"
            )

    def logged(self, index: int, form: RingFormat, ring: Vringh) -> Vringh:
        """Return ``ring`` wrapped with its log; close it before the area. Raises BadRing."""
        size = form.log_size(self._queue_size)
        return form.with_log(ring, self._shared.view[index * size : (index + 1) * size], self._queue_size)

    def close(self) -> None:
        self._shared.close()


def _sizes(area: Inflight, queues: int, formats: Sequence[RingFormat]) -> list[int]:
    """Return the bytes of the area for rings of each possible format. Raises MessageRefused if there is none."""
    if not 1 <= area.num_queues <= queues:
        raise MessageRefused(f"an inflight area for {area.num_queues} queues; the device has {queues}")
    candidates = [form for form in formats if form.has_num(area.queue_size)]
    if not candidates:
        raise MessageRefused(f"an inflight area for queues of {area.queue_size} descriptors")
    return [form.log_size(area.queue_size) * area.num_queues for form in candidates]
