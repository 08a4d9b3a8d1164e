"""The device side's bus: a device's status, features, queues and configuration, for all transports.

A transport's back half translates register accesses or messages into calls on `VhostDevice`; a device
type's driver is bound to it here. The two do not know each other.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, Protocol, TypeVar

import trio

from drivers.bus.binding import Binding
from drivers.bus.device_queue import DeviceQueue, OfferedQueue, QueueOps
from drivers.bus.model import Bus, BusDriver
from drivers.contracts.events import (
    SILENT,
    DeviceReset,
    FeaturesNegotiated,
    NeedsResetSet,
    Notified,
    Reporter,
    StatusChanged,
)
from drivers.contracts.liveness import Liveness
from drivers.flow.pump import Signal
from rings import status as st
from rings.errors import MemoryFault, RemoteRingError
from rings.features import EMPTY_TABLE, FeatureTable, RingFeature, mask
from rings.formats import ring_format
from rings.in_order import InOrderVringh
from rings.memory import Memory
from rings.observers.meter import Meter
from rings.queue import Vringh
from rings.status import Status

__all__ = [
    "DeviceQueue",
    "Joinable",
    "OfferedQueue",
    "VhostBound",
    "VhostBus",
    "VhostDevice",
    "VhostDriver",
    "VhostOps",
]

FAILURES_KEPT = 8


class VhostOps(QueueOps, Protocol):
    """A transport's back half, as its device uses it; `drivers.bus.back.VhostBack` implements it."""

    @property
    def features(self) -> int:
        """Ring and transport feature bits that the transport supports."""

    @property
    def meter(self) -> Meter | None:
        """Meter of accesses to the driver's memory; None if the link takes no time."""

    def memory(self) -> Memory:
        """Return the driver's memory as mapped now. Raises MemoryFault if it is unreachable."""

    def config_changed(self) -> None:
        """Notify the driver that configuration or status changed."""

    async def settle(self) -> None:
        """Sleep until the link has carried the accesses so far."""

    def status_changed(self, status: Status) -> None:
        """Handle a new device status: after a driver's write, and 0 at the end of a reset."""

    def changed(self) -> None:
        """Handle new features, configuration or NEEDS_RESET, before the driver is notified."""


P_co = TypeVar("P_co", covariant=True)


class VhostBound(ABC, Generic[P_co]):
    """A device type's device side bound to one device, until it is unbound. The bus calls the methods."""

    def __init__(self, device: VhostDevice, plug: P_co) -> None:
        """``plug``: settings of the device, and where its data go."""
        self.device = device
        self.plug = plug

    @abstractmethod
    def offer(self) -> None:
        """Offer features, queues and configuration through `VhostDevice.offer`. Raises ProbeDeferred, ProbeError."""

    @abstractmethod
    async def run(self) -> None:
        """Serve the device from DRIVER_OK until a reset cancels it; called again at the next DRIVER_OK."""

    def features_ok(self, features: int) -> None:
        """Adapt to the negotiated features at FEATURES_OK; the configuration may depend on them."""

    def config_written(self, offset: int, data: bytes) -> None:
        """Handle a driver's write to the configuration, which is not stored otherwise. Ignores it by default."""

    def reset(self) -> None:
        """Undo the driver's changes of the configuration, at the end of a reset."""

    async def close(self) -> None:
        """Release the resources of `offer`. Does nothing by default."""
        await trio.lowlevel.checkpoint()


class Joinable(Protocol):
    """The outer end of a device: a plug with a port, or a mediator with another driver behind it."""

    def join(self, device: VhostDevice) -> VhostBound[object]:
        """Return ``device`` bound to this end. Raises ProbeDeferred, ProbeError."""


class VhostDriver(BusDriver, Protocol):
    """A device type's device side, as `drivers.virtio_type.VirtioType.vhost_driver` makes it."""

    def bind(self, device: VhostDevice) -> VhostBound[object]:
        """Return the device bound to its plug. Raises ProbeDeferred for a missing resource, ProbeError."""


class VhostDevice:
    """A virtio device, seen from the device's side.

    All methods called by a transport are synchronous and accept any value from the other side.
    """

    def __init__(
        self, device_id: int, vendor_id: int, ops: VhostOps, name: str = "", reporter: Reporter = SILENT
    ) -> None:
        self.device_id = device_id
        self.vendor_id = vendor_id
        self.ops = ops
        self.name = name
        self.reporter = reporter
        self.table = EMPTY_TABLE
        self.ready = trio.Event()
        """Set once a driver has offered features; before that, the other side must not see the device."""
        self.bound: VhostBound[object] | None = None
        """The device type bound to the device; None between two drivers."""
        self.device_features = 0
        self.failures: deque[str] = deque(maxlen=FAILURES_KEPT)
        self.resets = 0
        self.queues: list[DeviceQueue] = []
        self._last: dict[str, DeviceQueue] = {}
        """Last queue of each name, for its counters."""
        self.generation = 0
        self._config = b""
        self._config_read = False
        self.liveness = Liveness()
        """Whether the device type serves the device, from DRIVER_OK to its reset."""
        self._scope: trio.CancelScope | None = None
        self._idle = trio.Event()
        self._idle.set()
        self._go = Signal()
        self._clear()

    def _clear(self) -> None:
        self.status = Status(0)
        self.driver_features = 0
        self.features = 0
        for queue in self.queues:
            queue.forget()

    # Called by the device type

    def offer(self, table: FeatureTable, features: int, queues: Sequence[OfferedQueue], config: bytes) -> None:
        """Offer feature bits, queues and the configuration space to the other side.

        Features that the transport does not support, or that lack a prerequisite, are left out. The transport alone
        decides about packed queues: the ring format does not concern the device type (section 6).
        """
        self.table = table
        device_type = features & ~mask(RingFeature)
        ring = (features | mask((RingFeature.RING_PACKED,))) & self.ops.features
        self.device_features = table.prune(device_type | ring)
        for queue in self.queues:
            queue.close()
        self.queues = [DeviceQueue(self, index, queue) for index, queue in enumerate(queues)]
        for queue in self.queues:
            if queue.name in self._last:
                queue.follow(self._last[queue.name])
            self._last[queue.name] = queue
        self._config = bytes(config)
        self.ops.changed()
        self.ready.set()

    def name_queues(self, names: Sequence[str]) -> None:
        """Name the queues by index, if their use depends on the negotiated features."""
        for queue, name in zip(self.queues, names, strict=True):
            queue.name = name

    def withdraw(self) -> None:
        """Offer nothing, because the device type's driver is unbound. Requests a reset from a live driver."""
        for queue in self.queues:
            queue.forget()
        self.ready = trio.Event()
        self._go = Signal()  # an old DRIVER_OK does not count for the next offer
        self.device_features, self._config, self.queues = 0, b"", []
        self.ops.changed()
        if self.status & Status.DRIVER_OK:
            self.fail("the device was withdrawn")
        else:
            self.reset()

    @property
    def config(self) -> bytes:
        return self._config

    def set_config(self, config: bytes, *, notify: bool = True) -> None:
        """Replace the configuration space and notify the driver (VIRTIO 1.4 section 2.5).

        Without ``notify``, for changes that the driver itself requested or that are for the next driver.
        """
        if config != self._config:
            self._config = bytes(config)
            if self._config_read:  # without a read since the last change, no reader can mix two generations
                self._config_read = False
                self.generation = self.generation + 1 & 0xFFFF_FFFF
            self.ops.changed()
            if notify and self.status & Status.DRIVER_OK:
                self.ops.config_changed()

    def fail(self, reason: str) -> None:
        """Set DEVICE_NEEDS_RESET and notify the driver (section 2.1.2)."""
        self.failures.append(reason)
        if not self.status & Status.NEEDS_RESET:
            self.status |= Status.NEEDS_RESET
            self.reporter.lifecycle(NeedsResetSet, reason)
            self.ops.changed()
            if self.status & Status.DRIVER_OK:
                self.ops.config_changed()

    @property
    def settle(self) -> Callable[[], Awaitable[None]] | None:
        """Function to await before an index is published; None if the link takes no time."""
        return self.ops.settle if self.ops.meter is not None else None

    def has(self, bit: int) -> bool:
        """Return whether a feature is negotiated."""
        return bool(self.features >> bit & 1)

    # Called by the transport

    @property
    def running(self) -> bool:
        """Whether rings may be accessed: between DRIVER_OK and reset."""
        return bool(self.status & Status.DRIVER_OK) and self._scope is not None

    def read_config(self, offset: int, size: int) -> bytes:
        """Return bytes of the configuration space, with zeroes beyond its end."""
        self._config_read = True
        return self._config[offset : offset + size].ljust(size, b"\0") if offset >= 0 else bytes(size)

    def write_config(self, offset: int, data: bytes) -> None:
        if self.bound is not None and 0 <= offset and offset + len(data) <= len(self._config):
            self.bound.config_written(offset, data)

    def write_driver_features(self, select: int, value: int) -> None:
        """Set 32 bits of the driver's features; ignored once FEATURES_OK is set (section 3.1.1)."""
        if not self.status & Status.FEATURES_OK and select < 4:
            keep = self.driver_features & ~(0xFFFF_FFFF << 32 * select)
            self.driver_features = keep | (value & 0xFFFF_FFFF) << 32 * select

    def acceptable(self, features: int) -> bool:
        """Return whether these features are offered, include VERSION_1, and meet all prerequisites."""
        return (
            not features & ~self.device_features
            and bool(features >> RingFeature.VERSION_1 & 1)
            and not self.table.unmet(features)
        )

    def write_status(self, value: int) -> None:
        """Handle a driver's write to the status field: 0 resets, an illegal transition is ignored."""
        if not value:
            self.reset()
            return
        old, new = self.status, st.next_status(self.status, value)
        if new & ~old & Status.FEATURES_OK:
            if self.acceptable(self.driver_features):
                self.features = self.driver_features
                names = self.table.describe(self.features)
                self.reporter.lifecycle(FeaturesNegotiated, self.device_features, self.features, names)
                if self.bound is not None:
                    self.bound.features_ok(self.features)
            else:
                new = old | new & ~(Status.FEATURES_OK | Status.DRIVER_OK)
        self.status = new
        if new != old:
            self.reporter.lifecycle(StatusChanged, new)
            self.ops.status_changed(new)
        if new & ~old & Status.DRIVER_OK:
            self._go.set()

    def queue(self, index: int) -> DeviceQueue | None:
        """Return the queue with this index, or None."""
        return self.queues[index] if 0 <= index < len(self.queues) else None

    def queue_registers(self) -> dict[str, int]:
        """Return the configuration of all queues by register name."""
        return {
            f"queue{queue.index}.{name}": value
            for queue in self.queues
            for name, value in (
                ("size", queue.num),
                ("enable", int(queue.enabled)),
                ("desc", queue.addrs.desc),
                ("driver", queue.addrs.driver),
                ("device", queue.addrs.device),
            )
        }

    def idle_queue(self, index: int) -> DeviceQueue | None:
        """Return the queue with this index if it may be configured, else None.

        It is not enabled, and either the device does not run yet, or the driver has reset the queue.
        """
        queue = self.queue(index)
        if queue is None or queue.enabled or (self.status & Status.DRIVER_OK and not queue.was_reset):
            return None
        return queue

    def reset_queue(self, index: int) -> None:
        """Reset one queue of a running device, if that is negotiated (section 2.6.1).

        Its ring and buffers are not accessed any more, and its configuration is the initial one.
        """
        queue = self.queue(index)
        if queue is not None and queue.enabled and self.has(RingFeature.RING_RESET):
            queue.forget()
            queue.was_reset = True

    def disable_queue(self, index: int) -> None:
        """Stop access to a queue's ring and buffers, keeping its configuration. Harmless if it is not enabled."""
        queue = self.queue(index)
        if queue is not None:
            queue.close()
            queue.enabled = False

    def enable_queue(
        self,
        index: int,
        base: int | None = None,
        wrap: Callable[[Vringh], Vringh] | None = None,
        batches: bool = True,
    ) -> bool:
        """Build a queue's ring from its configuration. Returns False, and fails the device, if that is invalid.

        ``base`` is the position at which a used ring resumes; None: a new ring. ``wrap`` adds observers to the ring,
        and may raise BadRing. If buffers are used in order, ``batches`` lets one used element stand for several chains.
        """
        queue = self.queues[index]
        if queue.enabled or not self.status & Status.FEATURES_OK:
            return queue.enabled
        ring: Vringh | None = None
        try:
            ring = ring_format(self.features).vringh(
                self.ops.memory(),
                queue.num,
                queue.addrs,
                self.features,
                base=base,
                meter=self.ops.meter,
                table_max=queue.table_max,
            )
            if wrap is not None:
                ring = wrap(ring)
            if self.has(RingFeature.IN_ORDER):
                ring = InOrderVringh(ring, batches=batches)
        except (RemoteRingError, MemoryFault) as exc:
            if ring is not None:
                ring.close()
            queue.fail(exc)
            return False
        queue.begin(ring)
        return True

    def kick(self, index: int) -> None:
        """Handle an available buffer notification; ignored for a queue that is not running (section 2.9)."""
        if 0 <= index < len(self.queues):
            queue = self.queues[index]
            if (emit := self.reporter.events.rings) is not None:
                emit(Notified(trio.current_time(), queue.reporter.source, "kick", "arrived", None))
            if queue.live and self._scope is not None:  # as `running`: there is no scope before DRIVER_OK
                queue.kicks += 1
                queue.signal.set()
            else:
                queue.spurious += 1

    def reset(self) -> None:
        """Stop memory accesses now; the status reads 0 once the device's tasks have ended (section 2.4.1)."""
        self.resets += 1
        self.reporter.lifecycle(DeviceReset)
        for queue in self.queues:
            queue.close()
        if self._scope is not None:
            self._scope.cancel()
        else:
            self._finish_reset()

    def _finish_reset(self) -> None:
        self._clear()
        self.reporter.lifecycle(StatusChanged, self.status)
        if self.bound is not None:
            self.bound.reset()
        self.ops.status_changed(self.status)

    # Called by the bus

    async def serve(self, bound: VhostBound[object]) -> None:
        """Run ``bound`` from every DRIVER_OK to the next reset."""
        self.bound = bound
        try:
            while True:
                await self._go.wait()
                if not self.status & Status.DRIVER_OK:
                    continue
                self._idle = trio.Event()
                try:
                    with trio.CancelScope() as self._scope:
                        self.liveness.set(True)
                        await bound.run()
                        await trio.sleep_forever()
                finally:
                    self.liveness.set(False)
                    self._idle.set()
                self._scope = None
                self._finish_reset()
        finally:
            unfinished = self._scope is not None and self._scope.cancel_called
            self.bound = self._scope = None
            if unfinished:  # the driver waits for a reset that was requested before the device type was unbound
                self._finish_reset()

    async def wait_idle(self) -> None:
        """Wait until no task of the device runs, after a reset or after its driver was unbound."""
        await self._idle.wait()


class VhostBus(Bus[VhostDevice, VhostDriver]):
    """The devices that a host implements, and their device types."""

    prefix = "vhost"

    def reporter(self, device: VhostDevice) -> Reporter:
        return device.reporter

    async def attach(
        self, binding: Binding[VhostDevice, VhostDriver], device: VhostDevice, driver: VhostDriver
    ) -> None:
        """Bring the device up: offer features, then show it; rings exist from DRIVER_OK to reset."""
        bound = driver.bind(device)
        bound.offer()
        try:
            binding.bound()
            await device.serve(bound)
        finally:
            device.withdraw()
            with trio.CancelScope(shield=True):
                await bound.close()
