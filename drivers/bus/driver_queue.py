"""A queue of a device, seen from the driver's side, for all transports and device types."""

from __future__ import annotations

from collections.abc import Callable

import attrs
import trio

from drivers.contracts.events import SILENT, Notified, QueueEnabled, QueueStopped, Reporter
from drivers.contracts.ipc import Handle
from drivers.flow.pump import BATCH_BUCKETS, Signal
from rings.errors import MemoryFault, RemoteRingError, section_of
from rings.queue import QueueStatistics, Virtqueue

__all__ = ["DriverQueue", "QueueSpec"]


@attrs.frozen
class QueueSpec:
    """A driver's requirements of a queue."""

    name: str
    num: int | None = None
    """Maximum size in descriptors; None: the device's maximum."""
    segments: int = 1
    """Descriptors of the longest chain that the driver adds; determines the size of indirect tables."""
    delayed: bool = False
    """Whether calls are delayed until most buffers in flight are used (transmit queues)."""


class DriverQueue:
    """A live queue of a device, seen from the driver's side: its ring, and the function that kicks the device."""

    def __init__(self, index: int, spec: QueueSpec, ring: Virtqueue, kick: Callable[[], None]) -> None:
        self.index = index
        self.spec = spec
        self.name = spec.name
        self.ring = ring
        self.kick = kick
        """Notifies the device. Posted: does not wait."""
        self.doorbells: tuple[Handle, Handle] | None = None
        """Events that kick the device and call the driver; None unless the transport notifies by events."""
        self.signal = Signal()
        self.batches = [0] * BATCH_BUCKETS
        self.calls = 0
        self.live = True
        self._closed = self._halted = False
        self.fault: str = ""
        self._past = QueueStatistics(0, 0, 0, 0)
        self._delayed = spec.delayed
        self._on_fault: Signal | None = None
        self.reporter = SILENT
        """Reporter of the queue's events."""

    def report_to(self, faults: Signal, recheck: float | None, reporter: Reporter = SILENT) -> None:
        """Set ``faults`` when the ring breaks; re-check the ring every ``recheck`` seconds if calls can get lost.

        ``reporter`` is that of the device.
        """
        self._on_fault, self.signal.recheck, self.reporter = faults, recheck, reporter.of_queue(self.name)
        self.reporter.lifecycle(QueueEnabled, self.ring.num)

    def follow(self, former: DriverQueue) -> None:
        """Continue the counters of ``former``, the queue of the same name before the last reset."""
        self._past = former.statistics()
        self.calls, self.batches, self.signal.rescues = former.calls, former.batches, former.signal.rescues

    def statistics(self) -> QueueStatistics:
        """Return the counters over the device's lifetime, including all resets."""
        return self._past if self._halted else self._past + self.ring.statistics()

    def on_call(self) -> None:
        """Handle a used buffer notification; ignored once the ring is down (section 2.7.8)."""
        self.calls += 1
        if (emit := self.reporter.events.rings) is not None:
            emit(Notified(trio.current_time(), self.reporter.source, "call", "arrived", None))
        if self.live:
            self.signal.set()

    def halt(self) -> None:
        """Release the ring of a queue that was reset, with the chains in flight."""
        self._past = self.statistics()
        self._halted = True
        self.close()

    def restart(self, ring: Virtqueue, kick: Callable[[], None]) -> None:
        """Continue with a new ring, after `halt`."""
        self.ring, self.kick = ring, kick
        self.live, self._closed, self._halted = True, False, False
        self.reporter.lifecycle(QueueEnabled, ring.num)

    def reachable(self) -> bool:
        return self.ring.reachable()

    def begin_turn(self) -> None:
        """Do nothing: used buffers are few, and each costs the same."""

    def quiet(self) -> None:
        self.ring.disable_cb()

    def rearm(self) -> bool:
        return self.ring.enable_cb_delayed() if self._delayed else self.ring.enable_cb()

    def flush(self) -> None:
        if self.ring.publish():
            self.kick()

    def fail(self, error: RemoteRingError | MemoryFault) -> None:
        self.live = False
        self.fault = f"{self.name}: {error}"
        self.reporter.lifecycle(QueueStopped, str(error), section_of(error))
        if self._on_fault is not None:
            self._on_fault.set()

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self.reporter.lifecycle(QueueStopped)
        self.live = False
        self.ring.close()
        self.signal.set()
