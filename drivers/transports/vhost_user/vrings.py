"""The rings of one session: what the front end said of each, and when the device has them."""

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
from rings.observers.dirty import DirtyVringh, Range
from rings.packed.vringh import PackedVringh
from rings.queue import Vringh
from rings.split.vringh import SplitVringh
from rings.status import Status

__all__ = ["RingSettings", "Vrings"]

DRAIN = 30.0
"""Seconds that what a device has begun may take before its ring is stopped all the same."""
LAST_DRAIN = 0.5
"""The same where the front end is gone."""


@attrs.define(eq=False)
class RingSettings:
    """What a front end said of one ring. It keeps that over everything but the end of the session."""

    index: int
    num: int = 0
    addrs: VringAddr | None = None
    base: int = 0
    """Where to start, as SET_VRING_BASE says it."""
    held: Sequence[int] = ()
    """Heads of chains that the device had not given back when its ring was stopped all the same."""
    state: RingState = RingState.STOPPED
    enabled: bool = False
    polled: bool = False
    """Nobody kicks."""
    kick: Handle | None = None
    call: Notifier | None = None
    err: Notifier | None = None

    def close(self) -> None:
        for held in (self.kick, self.call, self.err):
            if held is not None:
                held.close()
        self.kick = self.call = self.err = None


class Vrings:
    """They run in the front end's memory, and stand still while that changes."""

    def __init__(self, device: VhostDevice, ipc: Ipc) -> None:
        self._device = device
        self._rings = [RingSettings(index) for index in range(len(device.queues))]
        self.memory = PeerMemory(ipc)
        self.inflight: InflightArea | None = None
        self.features = 0
        """What the driver chose; 0 before it did, since no device works without VERSION_1."""
        self.dirty = DirtyPages()

    def __len__(self) -> int:
        return len(self._rings)

    def __getitem__(self, index: int) -> RingSettings:
        return self._rings[index]

    @property
    def running(self) -> bool:
        return any(ring.state is RingState.STARTED for ring in self._rings)

    @property
    def reach(self) -> Memory:
        """What rings are made with: the driver's memory, where need be with somebody who takes down what is written."""
        return self.memory.recorder if self.dirty.on else self.memory.memory

    @property
    def live(self) -> bool:
        """Whether the device has a ring: one that is started, and enabled or discarded from."""
        return any(queue.live for queue in self._device.queues)

    # The device

    async def reset_device(self) -> None:
        """Return when the device has stopped. What was said of memory and rings stays."""
        self._device.reset()
        await self._device.wait_idle()

    def driver_ok(self) -> None:
        """The device may run from now on."""
        self._device.write_status(self._device.status | Status.DRIVER_OK)

    async def _bring_up(self) -> None:
        """Let the device have its features, as a driver would. Raises MessageRefused."""
        device = self._device
        if device.status:
            await self.reset_device()
        device.write_status(Status.ACKNOWLEDGE)
        device.write_status(Status.ACKNOWLEDGE | Status.DRIVER)
        for select in range(4):
            device.write_driver_features(select, self.features >> 32 * select & 0xFFFF_FFFF)
        device.write_status(Status.ACKNOWLEDGE | Status.DRIVER | Status.FEATURES_OK)
        if not device.status & Status.FEATURES_OK:
            raise MessageRefused(f"the device does not work with features {self.features:#x}")

    # Rings

    @property
    def formats(self) -> Sequence[RingFormat]:
        """What rings may turn out to be: the format that the driver chose, or all that it may choose."""
        if self.features:
            return (ring_format(self.features),)
        packed = self._device.device_features >> RingFeature.RING_PACKED & 1
        return tuple(FORMATS.values()) if packed else (FORMATS["split"],)

    def set_num(self, ring: RingSettings, num: int, most: int) -> None:
        """Raises MessageRefused for a size that no ring of the device can have."""
        if not any(form.has_num(num, most) for form in self.formats):
            names = " or ".join(form.name for form in self.formats)
            raise MessageRefused(f"ring {ring.index}: no {names} ring has {num} descriptors, at most {most}")
        ring.num = num

    def set_addrs(self, ring: RingSettings, given: VringAddr) -> None:
        """Raises MessageRefused for areas that are not in memory, as soon as there is any, or where no ring can be."""
        if any(self.memory):
            refusals = []
            for form in self.formats:
                try:
                    _areas(form, ring, given, self.memory)
                    break
                except MessageRefused as exc:
                    refusals.append(exc)
            else:
                raise refusals[0]
        ring.addrs = given

    def set_base(self, ring: RingSettings, base: int) -> None:
        """Raises MessageRefused. A front end that repeats what it was told goes on with what the device still held."""
        if base >> 16 and self.formats == (FORMATS["split"],):
            raise MessageRefused(f"ring {ring.index}: a split ring starts at {base:#x}: its index has 16 bits")
        if base != ring.base:
            ring.base, ring.held = base, ()

    async def start(self, ring: RingSettings) -> None:
        """Raises MessageRefused."""
        if not self.running:
            await self._bring_up()
        self._revive(ring)
        ring.state = RingState.STARTED

    async def stop(self, ring: RingSettings) -> None:
        """With the last of them the device stops."""
        if ring.state is RingState.STARTED:
            await self._quiesce(ring)
            ring.state = RingState.STOPPED
            if ring.kick is not None:
                ring.kick.close()
                ring.kick = None
            if not self.running:
                await self.reset_device()
                self.dirty.use(None)  # said anew for those that are started next: the front end may let go of it now

    async def stop_all(self) -> None:
        for ring in self._rings:
            await self.stop(ring)

    async def enable(self, ring: RingSettings, enabled: bool) -> None:
        if ring.enabled is not enabled:
            if ring.state is RingState.STARTED:
                await self._quiesce(ring)
            ring.enabled = enabled
            if ring.state is RingState.STARTED:
                self._revive(ring)

    async def enable_all(self, enabled: bool) -> None:
        for ring in self._rings:
            await self.enable(ring, enabled)

    @asynccontextmanager
    async def paused(self) -> AsyncIterator[None]:
        """All rings stand still, and go on afterwards from where they were."""
        started = [ring for ring in self._rings if ring.state is RingState.STARTED]
        for ring in started:
            await self._quiesce(ring)
        try:
            yield
        finally:
            for ring in started:
                self._revive(ring)

    def check(self, memory: PeerMemory) -> None:
        """Raise MessageRefused if ``memory`` lacks a started ring, or the dirty log is too small for ``memory``."""
        ranges = list(self._ranges(memory))
        if self.dirty.on:
            self.dirty.check(ranges)

    def check_region(self, region: MemRegion) -> None:
        """Raises MessageRefused where what is written to more memory could not be logged."""
        if self.dirty.on:
            self.dirty.check(((region.addr, region.size),))

    async def log(self, on: bool) -> None:
        """Switch dirty logging. Without a log area rings stay paused until SET_LOG_BASE. Raises MessageRefused."""
        if self.dirty.on is not on:
            if on:
                self.dirty.check(self._ranges(self.memory))
            async with self.paused():
                self.dirty.on = on

    async def log_to(self, area: DirtyArea) -> None:
        """Raises MessageRefused; then it is closed."""
        try:
            area.check(self._ranges(self.memory))
            async with self.paused() if self.dirty.on else nullcontext():
                self.dirty.use(area)
        except BaseException:
            if self.dirty.log is not area.log:
                area.close()
            raise

    async def relog(self, ring: RingSettings, addrs: VringAddr) -> None:
        """Of a started ring: what it says of logging is another. Raises MessageRefused."""
        before, ring.addrs = ring.addrs, addrs
        try:
            if self.dirty.on:
                self.dirty.check(self._written(ring, self._addrs(ring, self.memory)))
        except MessageRefused:
            ring.addrs = before
            raise
        if self.dirty.on and addrs != before:
            await self._quiesce(ring)
            self._revive(ring)

    async def close(self) -> None:
        """The front end is gone: end what was begun, stop everything, and give back what was passed."""
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

    def _revive(self, ring: RingSettings) -> None:
        """Give the device's queue its ring, from where it stands; none where it is disabled. Raises MessageRefused."""
        device = self._device
        queue = device.queues[ring.index]
        addrs = self._addrs(ring, self.memory)
        written = list(self._written(ring, addrs))
        if self.dirty.on:
            self.dirty.check(written)
        queue.muted = not ring.enabled
        if (queue.muted and not queue.discards) or (self.dirty.on and self.dirty.log is None):
            return
        queue.base, resumed = self._resumption(ring, addrs)
        queue.wrap_ring = partial(self._logged, resumed, written) if self.dirty.on else resumed
        queue.num, queue.desc, queue.driver, queue.used = ring.num, addrs.desc, addrs.driver, addrs.device
        queue.signal.recheck = RECHECK if ring.polled else None
        if not device.enable_queue(ring.index):
            raise MessageRefused(device.failures[-1])
        if ring.call is not None:
            ring.call.notify()  # whoever served it before may have ended before it told

    def _addrs(self, ring: RingSettings, memory: PeerMemory) -> RingAddrs:
        """Raises MessageRefused."""
        if ring.addrs is None or not ring.num:
            raise MessageRefused(f"ring {ring.index} has no addresses or no size yet")
        return _areas(ring_format(self.features), ring, ring.addrs, memory)

    def _ranges(self, memory: PeerMemory) -> Iterator[Range]:
        """All that may have to be logged. Raises MessageRefused where a started ring is not in ``memory``."""
        for region in memory:
            yield region.addr, region.size
        for ring in self._rings:
            if ring.state is RingState.STARTED:
                yield from self._written(ring, self._addrs(ring, memory))

    def _written(self, ring: RingSettings, addrs: RingAddrs) -> Iterator[Range]:
        """Where the device writes in a ring itself, if that is to be logged; the device area at an address for that."""
        assert ring.addrs is not None
        if ring.addrs.flags & VRING_F_LOG:
            form = ring_format(self.features)
            areas = zip((addrs.desc, addrs.driver, ring.addrs.log), form.sizes(ring.num), strict=True)
            yield from (area for area, written in zip(areas, form.written, strict=True) if written)

    def _logged(self, resumed: Callable[[Vringh], Vringh] | None, written: list[Range], ring: Vringh) -> Vringh:
        """Put the dirty log around a ring, outside of the inflight log."""
        assert self.dirty.log is not None
        ring = ring if resumed is None else resumed(ring)
        return DirtyVringh(ring, self.dirty.log, self.memory.recorder, written)

    def _resumption(self, ring: RingSettings, addrs: RingAddrs) -> tuple[int, Callable[[Vringh], Vringh] | None]:
        """The position that the device uses next, and what takes again the chains in flight. Raises MessageRefused."""
        form = ring_format(self.features)
        place = base_format(form).place(ring.base, ring.num, self.memory.memory, addrs)
        if self.inflight is not None:
            self.inflight.check(ring.index, ring.num, form)
            return place, partial(self.inflight.logged, ring.index, form)
        return place, partial(_resumed, place, ring.held)

    async def _quiesce(self, ring: RingSettings) -> None:
        """Take nothing more from a ring, wait for what was taken, and remember where it stands."""
        queue = self._device.queues[ring.index]
        with trio.move_on_after(DRAIN):
            await queue.drain()
        if queue.ring is not None:
            state = queue.ring.state()
            ring.base = base_format(ring_format(self.features)).emit(state.avail, state.used)
            ring.held = queue.ring.in_flight()
        self._device.disable_queue(ring.index)


def _areas(form: RingFormat, ring: RingSettings, given: VringAddr, memory: PeerMemory) -> RingAddrs:
    """Where the areas of a ring are by the driver's addresses. Raises MessageRefused where no such ring can be."""
    num = ring.num or 1
    desc, avail, used = form.sizes(num)
    addrs = RingAddrs(
        memory.translate(given.desc, desc), memory.translate(given.avail, avail), memory.translate(given.used, used)
    )
    try:
        form.check(num, addrs)
    except BadRing as exc:
        raise MessageRefused(f"ring {ring.index}: {exc}") from None
    return addrs


def _resumed(place: int, held: Sequence[int], ring: Vringh) -> Vringh:
    """Have a split ring take chains again; a packed one finds those that it still has behind ``place``."""
    if isinstance(ring, SplitVringh):
        ring.resume(held)
    elif isinstance(ring, PackedVringh):
        ring.resume(place, ())
    return ring
