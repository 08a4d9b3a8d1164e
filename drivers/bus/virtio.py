"""The driver side's bus: the bring-up sequence, and a device as its driver sees it.

A transport's front half implements `ConfigOps`; device types derive from `VirtioBound`. If a device requests a reset,
breaks a ring, or loses its link, the bus stops it, resets it, and brings it up again from step 1.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar, cast

import trio

from drivers.bus.binding import Binding
from drivers.bus.config import ConfigField
from drivers.bus.driver_queue import DriverQueue, QueueSpec
from drivers.bus.model import Bus, BusDriver
from drivers.contracts.events import (
    SILENT,
    SILENT_HOST,
    DeviceReset,
    FeaturesNegotiated,
    HostEvents,
    Reporter,
    StatusChanged,
)
from drivers.contracts.hw import DmaMemory
from drivers.errors import DriverError, FeatureMismatch, NothingOffered, ProbeError, TransportLost
from drivers.flow.pump import RECHECK, Signal
from rings.errors import LocalRingError
from rings.features import FeatureTable, RingFeature, mask
from rings.status import Status

__all__ = [
    "REQUESTED",
    "NO_ANSWER",
    "ConfigOps",
    "DriverQueue",
    "DriverSettings",
    "QueueSpec",
    "VirtioBound",
    "VirtioBus",
    "VirtioDevice",
    "VirtioDriver",
]

CONFIG_TRIES = 10
"""Maximum reads of a configuration whose generation keeps changing."""
RESTART_PAUSE = 0.01, 5.0
"""Minimum and maximum seconds between two bring-ups of a device that keeps failing. The pause doubles each time, and
starts over once the device was live for longer than the maximum."""
OFFER_PAUSE = 1.0
"""Maximum seconds between two probes of a device that offers nothing yet, which is not a failure."""
FAILURES_KEPT = 8
STATUS_RECHECK = 0.1
"""Re-check interval in seconds of the device status, if configuration-change interrupts can get lost."""
REQUESTED = "the device asked for a reset"
"""Reason of a reset after DEVICE_NEEDS_RESET (VIRTIO 1.4 section 2.1.2). The device does not say more to its driver."""
NO_ANSWER = 0xFF
"""Status read from a device that does not answer: all-ones, which no device can have."""


class ConfigOps(Protocol):
    """A transport's front half. Its async methods may wait for the other side.

    They raise TransportLost if the device does not answer or is removed.
    """

    @property
    def features(self) -> int:
        """Ring and transport feature bits that the transport supports."""

    @property
    def dma(self) -> DmaMemory:
        """Memory for buffers that the device accesses."""

    @property
    def online(self) -> bool:
        """Whether the device is reachable."""

    async def wait_online(self) -> None: ...

    async def get_status(self) -> int: ...

    async def set_status(self, status: int) -> None: ...

    async def reset(self) -> None:
        """Write 0 and wait until it reads 0, at most a second (section 2.4.2)."""

    async def get_features(self) -> int: ...

    async def finalize_features(self, features: int) -> None: ...

    async def generation(self) -> int: ...

    async def read_config(self, offset: int, size: int) -> bytes:
        """Read configuration bytes: a field of 1, 2 or 4 bytes in one access, larger ranges in several."""

    async def write_config(self, offset: int, data: bytes) -> None: ...

    async def find_vqs(self, device: VirtioDevice, specs: Sequence[QueueSpec]) -> list[DriverQueue]:
        """Set up and return the queues, all fields before enabling. Raises ProbeError if the device has too few."""

    def del_vqs(self) -> None:
        """Free ring memory and interrupts, after the device was reset."""


class QueueResetOps(Protocol):
    """The front half of a transport that supports RING_RESET."""

    async def reset_queue(self, queue: DriverQueue) -> None:
        """Reset one queue and wait until the device has done so. Raises TransportLost."""

    async def enable_queue(self, device: VirtioDevice, queue: DriverQueue, num: int | None) -> None:
        """Set up a queue that was reset as at first, with at most ``num`` descriptors. Raises ProbeError."""


class DriverSettings(Protocol):
    """A driver's needs for one device: its user's settings, and the end that takes its data."""

    @property
    def features(self) -> int:
        """Feature bits to accept if offered."""


S_co = TypeVar("S_co", bound=DriverSettings, covariant=True)


class VirtioBound(ABC, Generic[S_co]):
    """A device type's driver bound to one device, from its bring-up to its reset. The bus calls the methods."""

    def __init__(self, device: VirtioDevice, settings: S_co) -> None:
        self.device = device
        self.settings = settings

    def features(self) -> int:
        """Return the feature bits to accept if offered."""
        return self.settings.features

    @abstractmethod
    async def set_up(self) -> None:
        """Set up queues and buffers, after FEATURES_OK and before DRIVER_OK (VIRTIO 1.4 section 3.1.1, step 7).

        Buffers may be added, but not published: the device is notified of none before DRIVER_OK. Raises ProbeError,
        MemoryError.
        """

    @abstractmethod
    async def run(self) -> None:
        """Serve the device from DRIVER_OK until cancelled."""

    async def config_changed(self) -> None:
        """Handle a change of the device's configuration. Does nothing by default."""

    def close(self) -> None:
        """Take all buffers back from the device, which was reset, and release them. Does nothing by default.

        Also called if `set_up` failed or was never called.
        """


class VirtioDriver(BusDriver, Protocol):
    """A device type's driver, as `drivers.virtio_type.VirtioType.virtio_driver` makes it."""

    @property
    def table(self) -> FeatureTable: ...

    def bind(self, device: VirtioDevice) -> VirtioBound[DriverSettings]:
        """Return the driver bound to ``device``, before features are negotiated.

        Raises ProbeDeferred for a missing resource.
        """


class VirtioDevice:
    """A virtio device, as its driver sees it."""

    def __init__(
        self, device_id: int, vendor_id: int, ops: ConfigOps, location: str, reporter: Reporter = SILENT
    ) -> None:
        self.device_id = device_id
        self.vendor_id = vendor_id
        self.ops = ops
        self.name = ""
        self.location = location
        """Location of the device, such as the name of a PCI function."""
        self.reporter = reporter
        self.features = 0
        """Negotiated feature bits, fixed at FEATURES_OK."""
        self.status = Status(0)
        """Status last written or read by this side."""
        self.queues: list[DriverQueue] = []
        self.failures: deque[str] = deque(maxlen=FAILURES_KEPT)
        self.restarts = 0
        self.last_reset = ""
        """Reason of the last restart."""
        self.repeats = 0
        """Restarts in a row for that reason."""
        self.restarted = 0.0
        """Time of the last restart, see `trio.current_time`."""
        self.pause = 0.0
        """Seconds that the bus waits before the next bring-up; 0 while the device is live."""
        self.trouble = ""
        """Reason why the driver has to stop; empty after a bring-up."""
        self.unplugged = ""
        """Reason why the device was unplugged from its port; empty after a bring-up."""
        self.early_interrupts = 0
        self.changed = Signal()
        """Set when configuration, status, or reachability changed, for `_watch`."""
        self._recheck: float | None = None
        self._last: dict[str, DriverQueue] = {}
        """Last queue of each name, for its counters."""

    def stop(self, reason: str) -> None:
        """Have the driver stop because of ``reason``; the bus then resets the device and brings it up again."""
        self.trouble = reason
        self.changed.set()

    def unplug(self, reason: str) -> None:
        """Reset the device, whose port is gone, and do not use it until it is bound again."""
        self.unplugged = reason
        self.changed.set()

    def set_recheck(self, on: bool) -> None:
        """Re-check queues and status periodically, because interrupts can get lost, or no longer; and now, once."""
        self._recheck = RECHECK if on else None
        self.changed.set_recheck(STATUS_RECHECK if on else None)
        for queue in self.queues:
            queue.signal.set_recheck(self._recheck)

    def has(self, bit: int) -> bool:
        """Return whether a feature is negotiated."""
        return bool(self.features >> bit & 1)

    def note_restart(self, reason: str) -> None:
        """Count a restart, and consecutive restarts with the same reason."""
        self.failures.append(reason)
        self.restarts += 1
        self.repeats = self.repeats + 1 if reason == self.last_reset else 1
        self.last_reset = reason
        self.restarted = trio.current_time()
        self.reporter.lifecycle(DeviceReset, reason, self.repeats)

    def interrupt(self) -> None:
        """Handle a configuration-change interrupt; harmless before DRIVER_OK and after remove."""
        if not self.status & Status.DRIVER_OK:
            self.early_interrupts += 1
        self.changed.set()

    async def read_config(self, offset: int, size: int) -> bytes:
        """Return configuration bytes of one generation (section 2.5.3). Raises ProbeError if it keeps changing."""
        for _ in range(CONFIG_TRIES):
            before = await self.ops.generation()
            data = await self.ops.read_config(offset, size)
            if await self.ops.generation() == before:
                return data
        raise ProbeError(f"{self.name}: configuration changed during each of {CONFIG_TRIES} reads")

    async def read_field(self, field: ConfigField) -> int:
        """Return the number in a configuration field. Raises ProbeError as `read_config` does."""
        return int.from_bytes(await self.read_config(*field.value), "little")

    async def find_vqs(self, specs: Sequence[QueueSpec]) -> list[DriverQueue]:
        self.queues = await self.ops.find_vqs(self, specs)
        for queue in self.queues:
            queue.report_to(self.changed, self._recheck, self.reporter)
            if queue.name in self._last:
                queue.follow(self._last[queue.name])
            self._last[queue.name] = queue
        return self.queues

    async def reset_queue(self, queue: DriverQueue) -> None:
        """Take one queue away from the running device (section 2.6.1). Needs RING_RESET.

        No task may use the queue. Afterwards take back the used chains, then call `DriverQueue.halt`.
        """
        ops = self._reset_ops
        queue.live = False
        await ops.reset_queue(queue)

    async def enable_queue(self, queue: DriverQueue, num: int | None = None) -> None:
        """Enable a queue that was reset, with a new ring of at most ``num`` descriptors (section 2.6.1.2)."""
        await self._reset_ops.enable_queue(self, queue, num)

    @property
    def _reset_ops(self) -> QueueResetOps:
        if not self.has(RingFeature.RING_RESET):
            raise LocalRingError(f"{self.name}: queues can't be reset without RING_RESET")
        return cast("QueueResetOps", self.ops)  # the transport offers the feature

    def close_queues(self) -> None:
        """Release the rings; their counters stay."""
        for queue in self.queues:
            queue.close()


async def bring_up(device: VirtioDevice, driver: VirtioDriver) -> VirtioBound[DriverSettings]:
    """Perform steps 1 to 8 of VIRTIO 1.4 section 3.1.1. Returns the bound driver.

    Raises FeatureMismatch or ProbeError with FAILED set, ProbeDeferred (NothingOffered) with the device reset, or
    TransportLost. On any error, the device is reset before memory known to it is freed (section 3.3.1).
    """
    ops = device.ops
    device.status, device.features, device.trouble, device.unplugged = Status(0), 0, "", ""
    bound: VirtioBound[DriverSettings] | None = None
    try:
        await ops.reset()
        await _advance(device, Status.ACKNOWLEDGE)
        await _advance(device, Status.DRIVER)
        offered = await ops.get_features()
        if not offered:
            raise NothingOffered(f"{device.name}: nothing is offered: there is no driver at the device's own end")
        device_type = driver.table.known() & ~mask(RingFeature)
        # Accept packed queues if the device offers them: the ring format does not concern the driver (section 6.1).
        bound = driver.bind(device)
        supported = bound.features() | mask((RingFeature.RING_PACKED,))
        wanted = driver.table.prune(offered & supported & (device_type | ops.features))
        if not wanted >> RingFeature.VERSION_1 & 1:
            raise FeatureMismatch(
                f"{device.name}: the device does not offer VERSION_1, and no legacy driver exists here"
            )
        try:
            await _agree(device, driver, offered, wanted)
        except FeatureMismatch:
            if await ops.get_features() == offered:
                raise
            # A read that failed on a lossy link returned all-ones, which is no offer.
            raise TransportLost(f"{device.name}: a read of its features failed") from None
        await bound.set_up()
        await _advance(device, Status.DRIVER_OK)
        return bound
    except BaseException as exc:
        device.close_queues()
        with trio.CancelScope(shield=True):
            if isinstance(exc, TransportLost):  # the front half that raised it has cut off the device if possible
                ops.del_vqs()
            else:
                await _give_up(device, failed=isinstance(exc, ProbeError | MemoryError))
        if bound is not None:
            bound.close()
        if isinstance(exc, MemoryError):  # the device's queues need more memory than the host has
            raise ProbeError(f"{device.name}: {exc}") from None
        raise


async def _agree(device: VirtioDevice, driver: VirtioDriver, offered: int, features: int) -> None:
    """Accept ``features`` of those ``offered`` (steps 5 and 6). Raises FeatureMismatch if the device refuses them."""
    await device.ops.finalize_features(features)
    await _advance(device, Status.FEATURES_OK)
    status = await device.ops.get_status()
    if status == NO_ANSWER:
        raise TransportLost(f"{device.name}: the device does not answer")
    if not status & Status.FEATURES_OK:
        raise FeatureMismatch(f"{device.name}: refused {', '.join(driver.table.describe(features))}")
    device.features = features
    names = driver.table.describe(features)
    device.reporter.lifecycle(FeaturesNegotiated, offered, features, names)


async def _advance(device: VirtioDevice, bit: Status) -> None:
    device.status |= bit
    await device.ops.set_status(device.status)
    device.reporter.lifecycle(StatusChanged, device.status)


async def _give_up(device: VirtioDevice, *, failed: bool) -> None:
    """Reset the device so that it accesses no memory any more, then free the queues."""
    try:
        if device.ops.online:
            await device.ops.reset()
            device.status = Status(0)
            device.reporter.lifecycle(StatusChanged, device.status)
            if failed:  # after the reset, which would clear FAILED, and which has to come before memory is freed
                await _advance(device, Status.FAILED)
    except TransportLost:
        pass
    device.ops.del_vqs()


class VirtioBus(Bus[VirtioDevice, VirtioDriver]):
    """The virtio devices of a host, and their drivers."""

    prefix = "virtio"

    def __init__(self, events: HostEvents = SILENT_HOST) -> None:
        super().__init__()
        self.events = events
        """Events of the host."""
        self._at: dict[str, VirtioDevice] = {}
        """The last device registered at each location."""

    def register_device(self, device: VirtioDevice) -> None:
        super().register_device(device)
        self._at[device.location] = device

    def device_at(self, location: str) -> VirtioDevice | None:
        """Return the device on the bus at ``location``; None without one."""
        device = self._at.get(location)
        return device if device is not None and self.has(device) else None

    async def discard_device(self, device: VirtioDevice) -> None:
        await super().discard_device(device)
        if self._at.get(device.location) is device and not self.has(device):
            del self._at[device.location]

    def place(self, device: VirtioDevice) -> str:
        return device.location

    def reporter(self, device: VirtioDevice) -> Reporter:
        return device.reporter

    async def attach(
        self, binding: Binding[VirtioDevice, VirtioDriver], device: VirtioDevice, driver: VirtioDriver
    ) -> None:
        """Keep the device up: after a fault, a requested reset or a lost link, bring it up again from step 1."""
        shortest, longest = RESTART_PAUSE
        pause = shortest
        while True:
            most = longest
            await device.ops.wait_online()
            try:
                bound = await bring_up(device, driver)
            except NothingOffered as exc:
                # Poll, because no interrupt is set up yet that could report an offer.
                binding.note(str(exc))
                most = OFFER_PAUSE
            except TransportLost as exc:
                device.note_restart(str(exc))
            else:
                binding.bound()
                device.pause = 0.0
                began = trio.current_time()
                reason = await _live(device, bound)
                if device.unplugged:
                    raise ProbeError(reason)
                device.note_restart(reason)
                if trio.current_time() - began > longest:
                    pause = shortest
            binding.retry()
            if device.ops.online:
                device.pause = pause = min(pause, most)
                await trio.sleep(pause)
                pause *= 2


async def _live(device: VirtioDevice, bound: VirtioBound[DriverSettings]) -> str:
    """Serve a device from DRIVER_OK until it fails, is unplugged or reset. Returns the reason."""
    reason = "unbound"
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_run, device, bound)
            reason = await _watch(device, bound)
            nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True):
            # No task accesses the rings any more. Reset the device before buffers are taken back.
            device.close_queues()
            await _give_up(device, failed=False)
            bound.close()
    return reason


async def _run(device: VirtioDevice, bound: VirtioBound[DriverSettings]) -> None:
    try:
        await bound.run()
    except DriverError as exc:
        device.stop(str(exc))


async def _watch(device: VirtioDevice, bound: VirtioBound[DriverSettings]) -> str:
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
                device.reporter.lifecycle(StatusChanged, device.status)
                return REQUESTED
            if not status & Status.DRIVER_OK:
                return "the device was reset behind our back"
            await bound.config_changed()
        except DriverError as exc:
            return str(exc)
