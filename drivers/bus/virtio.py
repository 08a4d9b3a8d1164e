"""The driver side's bus: the one bring-up order, and a device as its driver sees it.

A transport's front half implements `ConfigOps`; device types implement `VirtioDriver`. Whatever happens to
the device later (it asks for a reset, breaks a ring, or the link goes), the answer is the same: stop, reset,
and bring it up again from step 1.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import attrs
import trio

from drivers.bus.model import Binding, BindState, Bus, BusDriver
from drivers.contracts.hw import DmaMemory
from drivers.errors import DriverError, FeatureMismatch, NothingOffered, ProbeError, TransportLost
from drivers.flow.pump import BATCH_BUCKETS, RECHECK, Signal
from rings.errors import MemoryFault, RemoteRingError
from rings.features import FeatureTable, RingFeature, mask
from rings.queue import QueueStatistics, Virtqueue
from rings.status import Status

__all__ = [
    "NO_ANSWER",
    "ConfigOps",
    "DriverQueue",
    "QueueSpec",
    "VirtioBound",
    "VirtioBus",
    "VirtioDevice",
    "VirtioDriver",
    "set_up_or_close",
]

CONFIG_TRIES = 10
"""Reads of the configuration before a generation that never stands still is refused."""
RESTART_PAUSE = 0.01, 5.0
"""Seconds between two bring-ups of a device that keeps failing: at first, and at most. The pause doubles each time, and
is short again once the device has lived longer than the longest."""
OFFER_PAUSE = 1.0
"""Most seconds between two looks at a device that offers nothing yet, which is no failure."""
FAILURES_KEPT = 8
STATUS_RECHECK = 0.1
"""Seconds between two looks at the status where a configuration-change interrupt can get lost."""
NO_ANSWER = 0xFF
"""A status that no device can show: all-ones is what reads back where nobody answers."""


@attrs.frozen
class QueueSpec:
    """What a driver wants of one queue."""

    name: str
    num: int | None = None
    """Largest size to use, in descriptors; None leaves it to the device."""
    segments: int = 1
    """Descriptors of the longest chain it will add: sizes indirect tables."""
    delayed: bool = False
    """Call only when most of what is in flight was used (transmit queues)."""


class DriverQueue:
    """One live queue of a device: its ring, and the way to tell the device."""

    def __init__(self, index: int, spec: QueueSpec, ring: Virtqueue[Any], kick: Callable[[], None]) -> None:
        self.index = index
        self.name = spec.name
        self.ring = ring
        self.kick = kick
        """Tell the device: posted, never waited for."""
        self.signal = Signal()
        self.batches = [0] * BATCH_BUCKETS
        self.calls = 0
        self.live = True
        self.fault: str = ""
        self._past = QueueStatistics(0, 0, 0, 0)
        self._delayed = spec.delayed
        self._on_fault: Signal | None = None

    def follow(self, former: DriverQueue) -> None:
        """Count on from the queue of the same name that the device had before its last reset."""
        self._past = former.statistics()
        self.calls, self.batches, self.signal.rescues = former.calls, former.batches, former.signal.rescues

    def statistics(self) -> QueueStatistics:
        """The ring's figures since the device exists, over all resets."""
        return self._past + self.ring.statistics()

    def on_call(self) -> None:
        """The device says it used buffers; ignored once the ring is down (section 2.7.8)."""
        self.calls += 1
        if self.live:
            self.signal.set()

    def reachable(self) -> bool:
        return self.ring.reachable()

    def begin_turn(self) -> None:
        """Nothing: used buffers are few, and each costs the same."""

    def quiet(self) -> None:
        self.ring.disable_cb()

    def rearm(self) -> bool:
        return self.ring.enable_cb_delayed() if self._delayed else self.ring.enable_cb()

    def flush(self) -> None:
        if self.ring.publish():
            self.kick()

    def fail(self, error: RemoteRingError | MemoryFault) -> None:
        self.live = False
        self.fault = f"queue {self.index}: {error}"
        if self._on_fault is not None:
            self._on_fault.set()

    def close(self) -> None:
        self.live = False
        self.ring.close()
        self.signal.set()


class ConfigOps(Protocol):
    """A transport's front half. Everything may have to wait for the other side.

    Whatever waits raises TransportLost when the device does not answer or is gone.
    """

    @property
    def features(self) -> int:
        """The ring and transport feature bits it can carry."""

    @property
    def dma(self) -> DmaMemory:
        """Where buffers for the device come from."""

    @property
    def online(self) -> bool:
        """Whether the device can be reached."""

    async def wait_online(self) -> None: ...

    async def get_status(self) -> int: ...

    async def set_status(self, status: int) -> None: ...

    async def reset(self) -> None:
        """Write 0 and wait until it reads 0, at most a second (section 2.4.2)."""

    async def get_features(self) -> int: ...

    async def finalize_features(self, features: int) -> None: ...

    async def generation(self) -> int: ...

    async def read_config(self, offset: int, size: int) -> bytes:
        """A field of 1, 2 or 4 bytes in one access, anything else in several."""

    async def write_config(self, offset: int, data: bytes) -> None: ...

    async def find_vqs(self, device: VirtioDevice, specs: Sequence[QueueSpec]) -> list[DriverQueue]:
        """Set the queues up, all fields before enabling. Raises ProbeError where there are too few."""

    def del_vqs(self) -> None:
        """Free ring memory and interrupts, after the device was reset."""


class VirtioBound(Protocol):
    """A device type's hold on one device that is live, made by its driver's probe."""

    async def run(self) -> None:
        """Serve, from DRIVER_OK until cancelled."""

    async def config_changed(self) -> None:
        """The device's configuration changed."""

    def close(self) -> None:
        """The device was reset: take back every buffer it held, release what probe acquired."""


class Preparable(VirtioBound, Protocol):
    """One that has to wait for its queues."""

    async def set_up(self) -> None:
        """Acquire what it needs; `VirtioBound.close` releases what that came to have."""


P = TypeVar("P", bound=Preparable)


async def set_up_or_close(bound: P) -> P:
    """``bound`` once it is set up. Raises what that raises, and then holds nothing."""
    try:
        await bound.set_up()
    except BaseException:
        bound.close()
        raise
    return bound


class VirtioDriver(BusDriver, Protocol):
    """A device type, seen from the driver's side."""

    @property
    def table(self) -> FeatureTable: ...

    def features(self, device: VirtioDevice) -> int:
        """The bits it understands and wants now. Raises ProbeDeferred while something it needs is missing."""

    async def probe(self, device: VirtioDevice) -> VirtioBound:
        """Set up queues and buffers, after FEATURES_OK and before DRIVER_OK (step 7)."""


class VirtioDevice:
    """A virtio device as its driver holds it."""

    def __init__(self, device_id: int, vendor_id: int, ops: ConfigOps, location: str) -> None:
        self.device_id = device_id
        self.vendor_id = vendor_id
        self.ops = ops
        self.name = ""
        self.location = location
        """Where it was found, such as the name of a PCI function."""
        self.features = 0
        """What was agreed on, frozen at FEATURES_OK."""
        self.status = Status(0)
        """The last status this side wrote or read."""
        self.queues: list[DriverQueue] = []
        self.failures: deque[str] = deque(maxlen=FAILURES_KEPT)
        self.restarts = 0
        self.last_reset = ""
        """Reason of the last restart."""
        self.repeats = 0
        """Restarts in a row for that reason."""
        self.pause = 0.0
        """Seconds that the bus waits before the next bring-up; 0 while the device is live."""
        self.trouble = ""
        """Why its driver can't go on, since the last bring-up."""
        self.unplugged = ""
        """Why nothing can use it any more, since the last bring-up: what it was plugged into is gone."""
        self.early_interrupts = 0
        self.changed = Signal()
        """Configuration, status, or reachability changed: the supervisor looks."""
        self._recheck: float | None = None
        self._last: dict[str, DriverQueue] = {}
        """By name: the last queue that the device had, which keeps its figures."""

    def unplug(self, why: str) -> None:
        """Reset it, and leave it alone until it is bound again: what it was plugged into is gone."""
        self.unplugged = why
        self.changed.set()

    def enable_recheck(self) -> None:
        """Its interrupts can get lost on the way: from now on, look at queues and status without being told."""
        self._recheck, self.changed.recheck = RECHECK, STATUS_RECHECK

    def has(self, bit: int) -> bool:
        """Whether a feature was agreed on."""
        return bool(self.features >> bit & 1)

    def note_restart(self, reason: str) -> None:
        """Count a restart, and how many in a row had that reason."""
        self.failures.append(reason)
        self.restarts += 1
        self.repeats = self.repeats + 1 if reason == self.last_reset else 1
        self.last_reset = reason

    def interrupt(self) -> None:
        """A configuration-change interrupt; harmless before DRIVER_OK and after remove."""
        if not self.status & Status.DRIVER_OK:
            self.early_interrupts += 1
        self.changed.set()

    async def read_config(self, offset: int, size: int) -> bytes:
        """Bytes of one generation of the configuration (section 2.5.3). Raises ProbeError if it never settles."""
        for _ in range(CONFIG_TRIES):
            before = await self.ops.generation()
            data = await self.ops.read_config(offset, size)
            if await self.ops.generation() == before:
                return data
        raise ProbeError(f"{self.name}: configuration changed during each of {CONFIG_TRIES} reads")

    async def find_vqs(self, specs: Sequence[QueueSpec]) -> list[DriverQueue]:
        self.queues = await self.ops.find_vqs(self, specs)
        for queue in self.queues:
            queue._on_fault = self.changed
            if queue.name in self._last:
                queue.follow(self._last[queue.name])
            self._last[queue.name] = queue
            queue.signal.recheck = self._recheck
        return self.queues

    def statistics(self, queue: DriverQueue) -> QueueStatistics:
        """Figures of one queue since the device exists, over all resets."""
        return queue.statistics()

    def close_queues(self) -> None:
        """Let go of the rings; figures are kept."""
        for queue in self.queues:
            queue.close()


async def bring_up(device: VirtioDevice, driver: VirtioDriver) -> VirtioBound:
    """Steps 1 to 8 of VIRTIO 1.4 section 3.1.1, the one place where they are.

    Raises FeatureMismatch or ProbeError with FAILED set, ProbeDeferred (NothingOffered) with the device reset, or
    TransportLost.
    Whatever it raises, the device was reset before any memory was freed that it knew of (section 3.3.1).
    """
    ops = device.ops
    device.status, device.features, device.trouble, device.unplugged = Status(0), 0, "", ""
    bound: VirtioBound | None = None
    try:
        await ops.reset()
        await _advance(device, Status.ACKNOWLEDGE)
        await _advance(device, Status.DRIVER)
        offered = await ops.get_features()
        if not offered:
            raise NothingOffered(f"{device.name}: nothing is offered: there is no driver at the device's own end")
        device_type = driver.table.known() & ~mask(RingFeature)
        # Of the format of its queues a driver needs not know: what is offered is taken (section 6.1).
        understood = driver.features(device) | mask((RingFeature.RING_PACKED,))
        wanted = driver.table.prune(offered & understood & (device_type | ops.features))
        if not wanted >> RingFeature.VERSION_1 & 1:
            raise FeatureMismatch(
                f"{device.name}: the device does not offer VERSION_1, and no legacy driver exists here"
            )
        await ops.finalize_features(wanted)
        await _advance(device, Status.FEATURES_OK)
        status = await ops.get_status()
        if status == NO_ANSWER:
            raise TransportLost(f"{device.name}: the device does not answer")
        if not status & Status.FEATURES_OK:
            raise FeatureMismatch(f"{device.name}: refused {', '.join(driver.table.describe(wanted))}")
        device.features = wanted
        bound = await driver.probe(device)
        await _advance(device, Status.DRIVER_OK)
        return bound
    except BaseException as exc:
        device.close_queues()
        with trio.CancelScope(shield=True):
            if isinstance(exc, TransportLost):  # whoever raised it saw to that, as far as anybody can
                ops.del_vqs()
            else:
                await _give_up(device, failed=isinstance(exc, ProbeError | MemoryError))
        if bound is not None:
            bound.close()
        if isinstance(exc, MemoryError):  # the device asked for more than there is
            raise ProbeError(f"{device.name}: {exc}") from None
        raise


async def _advance(device: VirtioDevice, bit: Status) -> None:
    device.status |= bit
    await device.ops.set_status(device.status)


async def _give_up(device: VirtioDevice, *, failed: bool) -> None:
    """Make sure the device touches nothing more, then let go of the queues."""
    try:
        if device.ops.online:
            await device.ops.reset()
            device.status = Status(0)
            if failed:  # after the reset, which would clear it: nothing the device could still touch is freed
                await _advance(device, Status.FAILED)
    except TransportLost:
        pass
    device.ops.del_vqs()


class VirtioBus(Bus[VirtioDevice, VirtioDriver]):
    """Devices this host found and the drivers for them."""

    prefix = "virtio"

    async def attach(
        self, binding: Binding[VirtioDevice, VirtioDriver], device: VirtioDevice, driver: VirtioDriver
    ) -> None:
        """Keep the device up: after a fault, a requested reset or a lost link, start again at step 1."""
        shortest, longest = RESTART_PAUSE
        pause = shortest
        while True:
            most = longest
            await device.ops.wait_online()
            try:
                bound = await bring_up(device, driver)
            except NothingOffered as exc:
                # No interrupt is set up that could tell when this changes: it is looked at again.
                binding.error, most = str(exc), OFFER_PAUSE
            except TransportLost as exc:
                device.note_restart(str(exc))
            else:
                binding.state, binding.error, device.pause = BindState.BOUND, "", 0.0
                began = trio.current_time()
                reason = await _live(device, bound)
                if device.unplugged:
                    raise ProbeError(reason)
                device.note_restart(reason)
                if trio.current_time() - began > longest:
                    pause = shortest
            binding.state = BindState.PROBING
            if device.ops.online:
                device.pause = pause = min(pause, most)
                await trio.sleep(pause)
                pause *= 2


async def _live(device: VirtioDevice, bound: VirtioBound) -> str:
    """Serve a device from DRIVER_OK until something ends it; the reason."""
    reason = "unbound"
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_run, device, bound)
            reason = await _watch(device, bound)
            nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True):
            # No task touches the rings any more; the device must not either before buffers are taken back.
            device.close_queues()
            await _give_up(device, failed=False)
            bound.close()
    return reason


async def _run(device: VirtioDevice, bound: VirtioBound) -> None:
    try:
        await bound.run()
    except DriverError as exc:
        device.trouble = str(exc)
        device.changed.set()


async def _watch(device: VirtioDevice, bound: VirtioBound) -> str:
    while True:
        await device.changed.wait()
        try:
            if not device.ops.online:
                return "the device can't be reached"
            status = await device.ops.get_status()
            if status == NO_ANSWER:
                return "the device does not answer"
            for fault in (device.unplugged, device.trouble, *(queue.fault for queue in device.queues)):
                if fault:
                    return fault
            if status & Status.NEEDS_RESET:
                device.status |= Status.NEEDS_RESET
                return "the device asked for a reset"
            if not status & Status.DRIVER_OK:
                return "the device was reset behind our back"
            await bound.config_changed()
        except DriverError as exc:
            return str(exc)
