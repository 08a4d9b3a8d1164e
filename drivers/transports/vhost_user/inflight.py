"""The memory in which a back end notes what is in flight, and which its front end keeps for the next one."""

from __future__ import annotations

from drivers.ipc import Handle, Ipc, SharedMemory, Unusable
from drivers.transports.vhost_user.payloads import Inflight, Refused
from rings.layout import MAX_NUM
from rings.split.inflight import InflightLog, log_size

__all__ = ["InflightArea"]


class InflightArea:
    """The logs of all queues, one after the other."""

    def __init__(self, shared: SharedMemory, num_queues: int, queue_size: int) -> None:
        self._shared = shared
        self._num_queues = num_queues
        self.queue_size = queue_size

    @classmethod
    def make(cls, ipc: Ipc, asked: Inflight, queues: int) -> tuple[Inflight, Handle]:
        """A new one for a front end: what to tell it, and what to pass. Raises Refused."""
        _check(asked, queues)
        size = log_size(asked.queue_size) * asked.num_queues
        try:
            shared, handle = ipc.make(size)
        except Unusable as exc:
            raise Refused(str(exc)) from None
        shared.close()  # it comes back with SET_INFLIGHT_FD
        return Inflight(size, 0, asked.num_queues, asked.queue_size), handle

    @classmethod
    def take(cls, ipc: Ipc, given: Inflight, handle: Handle, queues: int) -> InflightArea:
        """The one that a front end kept. Raises Refused."""
        _check(given, queues)
        size = log_size(given.queue_size) * given.num_queues
        if given.mmap_size < size:
            raise Refused(f"an inflight area of {given.mmap_size} bytes where {size} are needed")
        try:
            shared = ipc.map(handle, size, given.mmap_offset)
        except Unusable as exc:
            raise Refused(f"the inflight area: {exc}") from None
        return cls(shared, given.num_queues, given.queue_size)

    def log(self, index: int, num: int) -> InflightLog:
        """Of one queue; to be closed before the area is. Raises Refused where that queue has none."""
        if index >= self._num_queues or num != self.queue_size:
            raise Refused(
                f"an inflight area of {self._num_queues} queues of {self.queue_size}, not for {index} of {num}"
            )
        size = log_size(num)
        return InflightLog(self._shared.view[index * size : (index + 1) * size], num)

    def close(self) -> None:
        self._shared.close()


def _check(area: Inflight, queues: int) -> None:
    if not 1 <= area.num_queues <= queues:
        raise Refused(f"an inflight area for {area.num_queues} queues of a device that has {queues}")
    if not 1 <= area.queue_size <= MAX_NUM or area.queue_size & area.queue_size - 1:
        raise Refused(f"an inflight area for queues of {area.queue_size} descriptors")
