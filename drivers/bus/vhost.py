"""The device side's bus: a device's status, features, queues and configuration, whatever carries them.

A transport's back half translates register accesses or messages into calls on `VhostDevice`; a device
type's driver is bound to it here. Neither knows the other.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import trio

from drivers.bus.device_queue import NO_VECTOR, DeviceQueue
from drivers.bus.model import Binding, BindState, Bus, BusDriver
from drivers.flow.pump import Signal
from rings import status as st
from rings.errors import MemoryFault, RemoteRingError
from rings.features import EMPTY_TABLE, FeatureTable, RingFeature, mask
from rings.formats import ring_format
from rings.layout import RingAddrs
from rings.memory import Addr, Memory
from rings.queue import Meter, Vringh
from rings.status import Status

__all__ = [
    "NO_VECTOR",
    "DeviceQueue",
    "Joinable",
    "VhostBack",
    "VhostBound",
    "VhostBus",
    "VhostDevice",
    "VhostDriver",
    "VhostOps",
]

FAILURES_KEPT = 8


class VhostOps(Protocol):
    """What a transport's back half does for a device."""

    @property
    def features(self) -> int:
        """The ring and transport feature bits it can carry."""

    def memory(self) -> Memory:
        """The driver's memory as it can be reached now. Raises MemoryFault when it can't."""

    def call(self, queue: DeviceQueue) -> None:
        """Tell the driver that buffers were used."""

    def config_changed(self) -> None:
        """Tell the driver that configuration or status changed."""

    async def settle(self) -> None:
        """Sleep out the time the link is owed for accesses so far."""


class VhostBack(Protocol):
    """A transport's back half around one device."""

    @property
    def device(self) -> VhostDevice: ...

    def bind(self) -> None:
        """Show the device to the other side; once a driver offered features, not before."""

    def unbind(self) -> None:
        """Take it away again."""

    async def serve(self) -> None:
        """What it has to do of its own accord, until cancelled; returns at once where that is nothing."""

    def registers(self) -> dict[str, int]:
        """What the other side finds in registers or scratchpads now, by name; nothing where only traps answer."""


class VhostBound(Protocol):
    """A device type's hold on one device, made by its driver's probe."""

    async def run(self) -> None:
        """Serve from DRIVER_OK on, until cancelled by a reset; called again for the next DRIVER_OK."""

    def config_written(self, offset: int, data: bytes) -> None:
        """The driver wrote configuration; the bytes are not stored unless this does it."""

    async def close(self) -> None:
        """Release what probe acquired."""


class Joinable(Protocol):
    """What a device of some type can be plugged into: what it is for, or a mediator with another driver behind it."""

    def join(self, device: VhostDevice) -> VhostBound:
        """Offer what ``device`` is to its driver. Raises ProbeDeferred, ProbeError."""


class VhostDriver(BusDriver, Protocol):
    """A device type."""

    @property
    def table(self) -> FeatureTable: ...

    async def probe(self, device: VhostDevice) -> VhostBound:
        """Offer features, queues and configuration through `VhostDevice.offer`.

        Raises ProbeDeferred or ProbeError.
        """


class VhostDevice:
    """A virtio device as its own side holds it.

    All methods a transport calls are synchronous and accept whatever the other side may write.
    """

    def __init__(self, device_id: int, vendor_id: int, ops: VhostOps, name: str = "") -> None:
        self.device_id = device_id
        self.vendor_id = vendor_id
        self.ops = ops
        self.name = name
        self.table = EMPTY_TABLE
        self.ready = trio.Event()
        """Set once a driver offered features: only then may the other side see the device."""
        self.meter: Meter | None = None
        """Who counts what it moves through the driver's memory: set by a transport whose link takes time."""
        self.lossy = False
        """Whether kicks can get lost on the way: set by the transport."""
        self.packed = False
        """Whether its queues may be packed ones too, where the transport can carry them."""
        self.device_features = 0
        self.failures: deque[str] = deque(maxlen=FAILURES_KEPT)
        self.resets = 0
        self.queues: list[DeviceQueue] = []
        self._last: dict[str, DeviceQueue] = {}
        """By name: the last queue that was offered, which keeps its figures."""
        self.generation = 0
        self._config = b""
        self._config_read = False
        self._scope: trio.CancelScope | None = None
        self._idle = trio.Event()
        self._idle.set()
        self._go = Signal()
        self._written: Callable[[int, bytes], None] | None = None
        self.on_status: Callable[[Status], None] | None = None
        self.on_features: Callable[[int], None] | None = None
        """Called at FEATURES_OK with what was agreed on: the configuration may depend on it."""
        self.rarp: Callable[[bytes], None] | None = None
        """Tell the network that a station with this address is here, on behalf of a driver. Set by a device type that
        has a network."""
        self.take_mtu: Callable[[int | None], None] | None = None
        """Agree on the MTU that a front end shows to its driver, or, with None, on the device's own again. Raises
        ValueError with the reason if frames of that size cannot pass. Set by a device type that offers an MTU."""
        self.on_reset: Callable[[], None] = lambda: None
        """Called when a reset is complete: for what the driver changed in the configuration."""
        self.on_broken: Callable[[DeviceQueue, Exception], None] = lambda queue, error: None
        """Called with a queue that a driver's violation broke, before the driver is told."""
        self.on_change: Callable[[], None] = lambda: None
        """What is offered, the configuration, or NEEDS_RESET changed: for who shows a copy. Before anybody is told."""
        self._clear()

    def _clear(self) -> None:
        self.status = Status(0)
        self.driver_features = 0
        self.features = 0
        for queue in self.queues:
            queue.forget()

    # What the device type says.

    def offer(self, table: FeatureTable, features: int, queues: Sequence[tuple[str, int]], config: bytes) -> None:
        """Show the other side a device: feature bits, queues as (name, largest size), configuration space.

        What the transport can't carry, or what lacks a prerequisite, is not offered.
        """
        self.table = table
        device_type = features & ~mask(RingFeature)
        packed = mask((RingFeature.RING_PACKED,))
        features = features | packed if self.packed else features & ~packed
        self.device_features = table.prune(device_type | features & self.ops.features)
        for queue in self.queues:
            queue.close()
        self.queues = [DeviceQueue(self, i, name, num) for i, (name, num) in enumerate(queues)]
        for queue in self.queues:
            if queue.name in self._last:
                queue.follow(self._last[queue.name])
            self._last[queue.name] = queue
        self._config = bytes(config)
        self.on_change()
        self.ready.set()

    def withdraw(self) -> None:
        """No driver any more: nothing is offered. A live other side is told to reset, and then finds nothing."""
        for queue in self.queues:
            queue.forget()
        self.ready = trio.Event()
        self._go = Signal()  # a DRIVER_OK of before is none of what is offered next
        self.device_features, self._config, self.queues = 0, b"", []
        self.on_change()
        if self.status & Status.DRIVER_OK:
            self.fail("the device was withdrawn")
        else:
            self.reset()

    @property
    def config(self) -> bytes:
        return self._config

    def set_config(self, config: bytes, *, tell: bool = True) -> None:
        """Change the configuration space as a whole and tell the driver (VIRTIO 1.4 section 2.5).

        Without ``tell`` it is not told: of what it asked for itself, or what the next one finds.
        """
        if config != self._config:
            self._config = bytes(config)
            if self._config_read:  # a reader can only have mixed two values if it read since the last change
                self._config_read = False
                self.generation = self.generation + 1 & 0xFFFF_FFFF
            self.on_change()
            if tell and self.status & Status.DRIVER_OK:
                self.ops.config_changed()

    def fail(self, reason: str) -> None:
        """Only a reset helps: set DEVICE_NEEDS_RESET and say so (section 2.1.2)."""
        self.failures.append(reason)
        if not self.status & Status.NEEDS_RESET:
            self.status |= Status.NEEDS_RESET
            self.on_change()
            if self.status & Status.DRIVER_OK:
                self.ops.config_changed()

    @property
    def settle(self) -> Callable[[], Awaitable[None]] | None:
        """What to await before an index is published; None where the link takes no time."""
        return self.ops.settle if self.meter is not None else None

    # What the transport says.

    @property
    def running(self) -> bool:
        """Whether rings may be touched: between DRIVER_OK and reset."""
        return bool(self.status & Status.DRIVER_OK) and self._scope is not None

    def read_config(self, offset: int, size: int) -> bytes:
        """Bytes of the configuration space; zeroes beyond its end."""
        self._config_read = True
        return self._config[offset : offset + size].ljust(size, b"\0") if offset >= 0 else bytes(size)

    def write_config(self, offset: int, data: bytes) -> None:
        if self._written is not None and 0 <= offset and offset + len(data) <= len(self._config):
            self._written(offset, data)

    def write_driver_features(self, select: int, value: int) -> None:
        """32 bits of the driver's features; ignored once FEATURES_OK stands (section 3.1.1)."""
        if not self.status & Status.FEATURES_OK and select < 4:
            keep = self.driver_features & ~(0xFFFF_FFFF << 32 * select)
            self.driver_features = keep | (value & 0xFFFF_FFFF) << 32 * select

    def acceptable(self, features: int) -> bool:
        """Whether the device works with this selection: offered, VERSION_1, prerequisites met."""
        return (
            not features & ~self.device_features
            and bool(features >> RingFeature.VERSION_1 & 1)
            and not self.table.unmet(features)
        )

    def write_status(self, value: int) -> None:
        """The driver writes the status field; 0 resets, an illegal move changes nothing."""
        if not value:
            self.reset()
            return
        old, new = self.status, st.next_status(self.status, value)
        if new & ~old & Status.FEATURES_OK:
            if self.acceptable(self.driver_features):
                self.features = self.driver_features
                if self.on_features is not None:
                    self.on_features(self.features)
            else:
                new = old | new & ~(Status.FEATURES_OK | Status.DRIVER_OK)
        self.status = new
        if self.on_status is not None and new != old:
            self.on_status(new)
        if new & ~old & Status.DRIVER_OK:
            self._go.set()

    def queue(self, index: int) -> DeviceQueue | None:
        """The queue with that index; None where there is none."""
        return self.queues[index] if 0 <= index < len(self.queues) else None

    def queue_registers(self) -> dict[str, int]:
        """What was configured of every queue, by the names of registers."""
        return {
            f"queue{queue.index}.{name}": value
            for queue in self.queues
            for name, value in (
                ("size", queue.num),
                ("enable", int(queue.enabled)),
                ("desc", queue.desc),
                ("driver", queue.driver),
                ("device", queue.used),
            )
        }

    def idle_queue(self, index: int) -> DeviceQueue | None:
        """The same while it may be set up: not once it, or the device, runs."""
        queue = self.queue(index)
        return queue if queue is not None and not queue.enabled and not self.status & Status.DRIVER_OK else None

    def disable_queue(self, index: int) -> None:
        """Touch its ring and buffers no more; what was configured stays. Harmless where it is not enabled."""
        queue = self.queue(index)
        if queue is not None:
            queue.close()
            queue.enabled = False

    def enable_queue(self, index: int) -> bool:
        """Build the ring from what was configured; False where no ring can be, which breaks the device."""
        queue = self.queues[index]
        if queue.enabled or not self.status & Status.FEATURES_OK:
            return queue.enabled
        ring: Vringh | None = None
        addrs = RingAddrs(Addr(queue.desc), Addr(queue.driver), Addr(queue.used))
        try:
            ring = ring_format(self.features).vringh(
                self.ops.memory(),
                queue.num,
                addrs,
                self.features,
                base=queue.base,
                meter=self.meter,
                table_max=queue.table_max,
            )
            if queue.wrap_ring is not None:
                ring = queue.wrap_ring(ring)
        except (RemoteRingError, MemoryFault) as exc:
            if ring is not None:
                ring.close()
            self.fail(f"queue {index}: {exc}")
            return False
        queue.begin(ring)
        return True

    def kick(self, index: int) -> None:
        """The driver says buffers are available; ignored for a queue that does not run (section 2.9)."""
        if 0 <= index < len(self.queues):
            queue = self.queues[index]
            if queue.live and self._scope is not None:  # as `running`, since only DRIVER_OK begins it
                queue.kicks += 1
                queue.signal.set()
            else:
                queue.spurious += 1

    def reset(self) -> None:
        """Stop touching memory now; the status reads 0 once the device's tasks have ended (section 2.4.1)."""
        self.resets += 1
        for queue in self.queues:
            queue.close()
        if self._scope is not None:
            self._scope.cancel()
        else:
            self._finish_reset()

    def _finish_reset(self) -> None:
        self._clear()
        self.on_reset()
        if self.on_status is not None:
            self.on_status(self.status)

    # What the bus says.

    async def serve(self, bound: VhostBound) -> None:
        """Run ``bound`` from every DRIVER_OK to the next reset."""
        self._written = bound.config_written
        try:
            while True:
                await self._go.wait()
                if not self.status & Status.DRIVER_OK:
                    continue
                self._idle = trio.Event()
                try:
                    with trio.CancelScope() as self._scope:
                        await bound.run()
                        await trio.sleep_forever()
                finally:
                    self._idle.set()
                self._scope = None
                self._finish_reset()
        finally:
            unfinished = self._scope is not None and self._scope.cancel_called
            self._written = self._scope = None
            if unfinished:  # somebody waits for a reset that came together with the end of all this
                self._finish_reset()

    async def wait_idle(self) -> None:
        """Return when no task of the device runs: it was reset, or lost its driver."""
        await self._idle.wait()


class VhostBus(Bus[VhostDevice, VhostDriver]):
    """Devices of this host and the device types that can be them."""

    prefix = "vhost"

    async def attach(
        self, binding: Binding[VhostDevice, VhostDriver], device: VhostDevice, driver: VhostDriver
    ) -> None:
        """The device side's bring-up: features first, then visible; rings only from DRIVER_OK to reset."""
        bound = await driver.probe(device)
        try:
            binding.state = BindState.BOUND
            await device.serve(bound)
        finally:
            device.withdraw()
            with trio.CancelScope(shield=True):
                await bound.close()
