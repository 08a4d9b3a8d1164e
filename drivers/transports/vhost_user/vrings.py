"""The rings of a session: the front end's settings of each, and their start and stop in the device."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, nullcontext
from functools import partial

import attrs
import trio

from drivers.bus.vhost import VhostDevice
from drivers.contracts.ipc import Handle, Ipc, Notifier
from drivers.flow.pump import RECHECK
from drivers.transports.vhost_user.bases import base_format
from drivers.transports.vhost_user.constants import VRING_F_LOG
from drivers.transports.vhost_user.dirty import DirtyArea, DirtyPages
from drivers.transports.vhost_user.inflight import InflightArea
from drivers.transports.vhost_user.memory import PeerMemory
from drivers.transports.vhost_user.payloads import MemRegion, MessageRefused, VringAddr
from drivers.transports.vhost_user.states import RingState
from rings.errors import BadRing
from rings.features import RingFeature
from rings.formats import FORMATS, RingFormat, ring_format
from rings.layout import RingAddrs
from rings.memory import Memory
from rings.observers.dirty import DirtyObserver, Range
from rings.observers.observed import ObservedVringh
from rings.queue import Vringh
from rings.status import Status

__all__ = ["RingSettings", "Vrings"]

DRAIN = 30.0
"""Seconds that chains in flight may take before their ring stops without them."""
LAST_DRAIN = 0.5
"""The same after the front end disconnected."""


@attrs.define(eq=False)
class RingSettings:
    """The front end's settings of one ring, kept until the session ends."""

    index: int
    num: int = 0
    addrs: VringAddr | None = None
    base: int = 0
    """Start position, in the format of SET_VRING_BASE."""
    in_flight: Sequence[int] = ()
    """Heads of chains in flight when the ring stopped."""
    state: RingState = RingState.STOPPED
    enabled: bool = False
    polled: bool = False
    """Whether the device polls the ring, because the front end does not kick."""
    kick: Handle | None = None
    call: Notifier | None = None
    err: Notifier | None = None

    def close(self) -> None:
        for handle in (self.kick, self.call, self.err):
            if handle is not None:
                handle.close()
        self.kick = self.call = self.err = None


class Vrings:
    """All rings of a session. They are in the front end's memory, and pause while it changes."""

    def __init__(self, device: VhostDevice, ipc: Ipc) -> None:
        self._device = device
        self._rings = [RingSettings(index) for index in range(len(device.queues))]
        self.memory = PeerMemory(ipc)
        self.inflight: InflightArea | None = None
        self.features = 0
        """Driver features; 0 before SET_FEATURES, because VERSION_1 is mandatory."""
        self.dirty = DirtyPages()

    def __len__(self) -> int:
        return len(self._rings)

    def __getitem__(self, index: int) -> RingSettings:
        return self._rings[index]

    @property
    def running(self) -> bool:
        return any(ring.state is RingState.STARTED for ring in self._rings)

    @property
    def ring_memory(self) -> Memory:
        """The memory to build rings on; records writes while dirty logging is on."""
        return self.memory.recorder if self.dirty.enabled else self.memory.memory

    @property
    def any_live(self) -> bool:
        """Whether the device has a live ring: started, and enabled or discarding."""
        return any(queue.live for queue in self._device.queues)

    # The device

    async def reset_device(self) -> None:
        """Reset the device and wait until it has stopped. Keeps the settings of memory and rings."""
        self._device.reset()
        await self._device.wait_idle()

    def driver_ok(self) -> None:
        """Start the device: set DRIVER_OK."""
        self._device.write_status(self._device.status | Status.DRIVER_OK)

    async def _bring_up(self) -> None:
        """Negotiate the features with the device, as a driver would. Raises MessageRefused."""
        device = self._device
        if device.status:
            await self.reset_device()
        device.write_status(Status.ACKNOWLEDGE)
        device.write_status(Status.ACKNOWLEDGE | Status.DRIVER)
        for select in range(4):
            device.write_driver_features(select, self.features >> 32 * select & 0xFFFF_FFFF)
        device.write_status(Status.ACKNOWLEDGE | Status.DRIVER | Status.FEATURES_OK)
        if not device.status & Status.FEATURES_OK:
            raise MessageRefused(f"the device does not support features {self.features:#x}")

    # Rings

    @property
    def formats(self) -> Sequence[RingFormat]:
        """Possible ring formats: the negotiated one, or all that the device offers."""
        if self.features:
            return (ring_format(self.features),)
        packed = self._device.device_features >> RingFeature.RING_PACKED & 1
        return tuple(FORMATS.values()) if packed else (FORMATS["split"],)

    def set_num(self, ring: RingSettings, num: int, num_max: int) -> None:
        """Set a ring's size. Raises MessageRefused if no possible format allows it."""
        if not any(form.has_num(num, num_max) for form in self.formats):
            names = " or ".join(form.name for form in self.formats)
            raise MessageRefused(f"ring {ring.index}: no {names} ring has {num} descriptors; at most {num_max}")
        ring.num = num

    def set_addrs(self, ring: RingSettings, user_addrs: VringAddr) -> None:
        """Set a ring's addresses. Raises MessageRefused for misaligned areas, or areas outside the memory table."""
        if any(self.memory):
            refusals = []
            for form in self.formats:
                try:
                    _areas(form, ring, user_addrs, self.memory)
                    break
                except MessageRefused as exc:
                    refusals.append(exc)
            else:
                raise refusals[0]
        ring.addrs = user_addrs

    def set_base(self, ring: RingSettings, base: int) -> None:
        """Set a ring's base. A repeated base keeps the chains in flight. Raises MessageRefused."""
        if base >> 16 and self.formats == (FORMATS["split"],):
            raise MessageRefused(f"ring {ring.index}: a split ring's base {base:#x}: must have 16 bits")
        if base != ring.base:
            ring.base, ring.in_flight = base, ()

    async def start(self, ring: RingSettings) -> None:
        """Start a ring, and bring up the device with the first. Raises MessageRefused."""
        if not self.running:
            await self._bring_up()
        self._enable_queue(ring)
        ring.state = RingState.STARTED

    async def stop(self, ring: RingSettings) -> None:
        """Stop a ring, and reset the device with the last."""
        if ring.state is RingState.STARTED:
            await self._quiesce(ring)
            ring.state = RingState.STOPPED
            if ring.kick is not None:
                ring.kick.close()
                ring.kick = None
            if not self.running:
                await self.reset_device()
                self.dirty.set_area(None)  # the front end may free the log now, and sets one again for the next start

    async def stop_all(self) -> None:
        for ring in self._rings:
            await self.stop(ring)

    async def enable(self, ring: RingSettings, enabled: bool) -> None:
        if ring.enabled is not enabled:
            if ring.state is RingState.STARTED:
                await self._quiesce(ring)
            ring.enabled = enabled
            if ring.state is RingState.STARTED:
                self._enable_queue(ring)

    async def enable_all(self, enabled: bool) -> None:
        for ring in self._rings:
            await self.enable(ring, enabled)

    @asynccontextmanager
    async def paused(self) -> AsyncIterator[None]:
        """Pause all started rings; afterwards they resume at their positions."""
        started = [ring for ring in self._rings if ring.state is RingState.STARTED]
        for ring in started:
            await self._quiesce(ring)
        try:
            yield
        finally:
            for ring in started:
                self._enable_queue(ring)

    def check(self, memory: PeerMemory) -> None:
        """Raise MessageRefused if ``memory`` lacks a started ring, or the dirty log is too small for ``memory``."""
        ranges = list(self._ranges(memory))
        if self.dirty.enabled:
            self.dirty.check(ranges)

    def check_region(self, region: MemRegion) -> None:
        """Raise MessageRefused if the dirty log is too small for a new region."""
        if self.dirty.enabled:
            self.dirty.check(((region.addr, region.size),))

    async def set_logging(self, on: bool) -> None:
        """Switch dirty logging. Without a log area rings stay paused until SET_LOG_BASE. Raises MessageRefused."""
        if self.dirty.enabled is not on:
            if on:
                self.dirty.check(self._ranges(self.memory))
            async with self.paused():
                self.dirty.enabled = on

    async def set_log_area(self, area: DirtyArea) -> None:
        """Log to ``area`` from now on. On MessageRefused the area is closed."""
        try:
            area.check(self._ranges(self.memory))
            async with self.paused() if self.dirty.enabled else nullcontext():
                self.dirty.set_area(area)
        except BaseException:
            if self.dirty.log is not area.log:
                area.close()
            raise

    async def set_ring_log(self, ring: RingSettings, addrs: VringAddr) -> None:
        """Change the log flag and the log address of a started ring. Raises MessageRefused."""
        former, ring.addrs = ring.addrs, addrs
        try:
            if self.dirty.enabled:
                self.dirty.check(self._logged_areas(ring, self._addrs(ring, self.memory)))
        except MessageRefused:
            ring.addrs = former
            raise
        if self.dirty.enabled and addrs != former:
            await self._quiesce(ring)
            self._enable_queue(ring)

    async def close(self) -> None:
        """Stop everything after the front end disconnected: drain, reset the device, release handles and memory."""
        with trio.CancelScope(shield=True):
            with trio.move_on_after(LAST_DRAIN):
                for queue in self._device.queues:
                    await queue.drain()
            for ring in self._rings:
                ring.state = RingState.STOPPED
                ring.close()
            await self.reset_device()
        if self.inflight is not None:
            self.inflight.close()
        self.dirty.close()
        self.memory.close()

    def _enable_queue(self, ring: RingSettings) -> None:
        """Enable the device's queue at the ring's position, unless the ring is disabled. Raises MessageRefused."""
        device = self._device
        queue = device.queues[ring.index]
        addrs = self._addrs(ring, self.memory)
        ranges = list(self._logged_areas(ring, addrs))
        if self.dirty.enabled:
            self.dirty.check(ranges)
        queue.muted = not ring.enabled
        if (queue.muted and not queue.discards) or (self.dirty.enabled and self.dirty.log is None):
            return
        base, resume = self._resumption(ring, addrs)
        wrap = partial(self._with_dirty_log, resume, ranges) if self.dirty.enabled else resume
        queue.num, queue.addrs = ring.num, addrs
        queue.signal.recheck = RECHECK if ring.polled else None
        # A back end derives its position in a packed ring from all used descriptors, of which a batch has only one.
        batches = ring_format(self.features).name == "split"
        if not device.enable_queue(ring.index, base, wrap, batches):
            raise MessageRefused(device.failures[-1])
        if ring.call is not None:
            ring.call.notify()  # a former back end may have ended before its last call

    def _addrs(self, ring: RingSettings, memory: PeerMemory) -> RingAddrs:
        """Return the driver's addresses of the ring's areas. Raises MessageRefused."""
        if ring.addrs is None or not ring.num:
            raise MessageRefused(f"ring {ring.index} has no addresses or no size yet")
        return _areas(ring_format(self.features), ring, ring.addrs, memory)

    def _ranges(self, memory: PeerMemory) -> Iterator[Range]:
        """Yield all ranges that may need logging. Raises MessageRefused if a started ring is not in ``memory``."""
        for region in memory:
            yield region.addr, region.size
        for ring in self._rings:
            if ring.state is RingState.STARTED:
                yield from self._logged_areas(ring, self._addrs(ring, memory))

    def _logged_areas(self, ring: RingSettings, addrs: RingAddrs) -> Iterator[Range]:
        """Yield the areas of a ring to log: those that the device writes, the device area at its log address."""
        assert ring.addrs is not None
        if ring.addrs.flags & VRING_F_LOG:
            form = ring_format(self.features)
            areas = zip((addrs.desc, addrs.driver, ring.addrs.log), form.sizes(ring.num), strict=True)
            yield from (area for area, written in zip(areas, form.written, strict=True) if written)

    def _with_dirty_log(self, resume: Callable[[Vringh], Vringh] | None, ranges: list[Range], ring: Vringh) -> Vringh:
        """Wrap a ring with dirty logging, outermost."""
        assert self.dirty.log is not None
        ring = ring if resume is None else resume(ring)
        return ObservedVringh(ring, DirtyObserver(self.dirty.log, self.memory.recorder, ranges))

    def _resumption(self, ring: RingSettings, addrs: RingAddrs) -> tuple[int, Callable[[Vringh], Vringh] | None]:
        """Return the used position to resume at and the wrapper that resumes chains. Raises MessageRefused."""
        form = ring_format(self.features)
        place = base_format(form).place(ring.base, ring.num, self.memory.memory, addrs)
        if self.inflight is not None:
            self.inflight.check(ring.index, ring.num, form)
            return place, partial(self.inflight.logged, ring.index, form)
        return place, partial(_take_again, form, place, ring.in_flight)

    async def _quiesce(self, ring: RingSettings) -> None:
        """Drain a ring's chains in flight, save its position, and disable its queue."""
        queue = self._device.queues[ring.index]
        with trio.move_on_after(DRAIN):
            await queue.drain()
        if queue.ring is not None:
            state = queue.ring.state()
            ring.base = base_format(ring_format(self.features)).emit(state.avail, state.used)
            ring.in_flight = queue.ring.in_flight()
        self._device.disable_queue(ring.index)


def _areas(form: RingFormat, ring: RingSettings, user_addrs: VringAddr, memory: PeerMemory) -> RingAddrs:
    """Return the driver's addresses of a ring's areas. Raises MessageRefused if the ring is invalid."""
    num = ring.num or 1
    desc, avail, used = form.sizes(num)
    addrs = RingAddrs(
        memory.translate(user_addrs.desc, desc),
        memory.translate(user_addrs.avail, avail),
        memory.translate(user_addrs.used, used),
    )
    try:
        form.check(num, addrs)
    except BadRing as exc:
        raise MessageRefused(f"ring {ring.index}: {exc}") from None
    return addrs


def _take_again(form: RingFormat, place: int, in_flight: Sequence[int], ring: Vringh) -> Vringh:
    """Return ``ring``, set to take the chains in flight again."""
    form.resume(ring, place, in_flight)
    return ring
