"""The rings of one session: what the front end said of each, and when the device has them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, nullcontext
from functools import partial

import attrs
import trio

from drivers.ipc import Handle, Ipc, Notifier
from drivers.pump import RECHECK
from drivers.transports.vhost_user.constants import VRING_F_LOG
from drivers.transports.vhost_user.dirty import DirtyArea, DirtyPages
from drivers.transports.vhost_user.inflight import InflightArea
from drivers.transports.vhost_user.memory import PeerMemory
from drivers.transports.vhost_user.payloads import MemRegion, Refused, VringAddr
from drivers.transports.vhost_user.states import RingState
from drivers.vhost import VhostDevice
from rings.dirty import DirtyVringh, Range
from rings.errors import BadRing
from rings.formats import ring_format
from rings.layout import RingAddrs
from rings.memory import Memory
from rings.queue import Vringh
from rings.split.inflight import InflightLog, LoggedVringh, Resumption
from rings.split.vringh import SplitVringh
from rings.status import Status

__all__ = ["Ring", "Vrings"]

DRAIN = 30.0
"""Seconds that what a device has begun may take before its ring is stopped all the same."""
LAST_DRAIN = 0.5
"""The same where the front end is gone."""


@attrs.define(eq=False)
class Ring:
    """What a front end said of one ring. It keeps that over everything but the end of the session."""

    index: int
    num: int = 0
    addrs: VringAddr | None = None
    base: int = 0
    """Where to start."""
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
        self._rings = [Ring(index) for index in range(len(device.queues))]
        self.memory = PeerMemory(ipc)
        self.inflight: InflightArea | None = None
        self.features = 0
        """What the driver chose."""
        self.dirty = DirtyPages()

    def __len__(self) -> int:
        return len(self._rings)

    def __getitem__(self, index: int) -> Ring:
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
        """Let the device have its features, as a driver would. Raises Refused."""
        device = self._device
        if device.status:
            await self.reset_device()
        device.write_status(Status.ACKNOWLEDGE)
        device.write_status(Status.ACKNOWLEDGE | Status.DRIVER)
        for select in range(4):
            device.write_driver_features(select, self.features >> 32 * select & 0xFFFF_FFFF)
        device.write_status(Status.ACKNOWLEDGE | Status.DRIVER | Status.FEATURES_OK)
        if not device.status & Status.FEATURES_OK:
            raise Refused(f"the device does not work with features {self.features:#x}")

    # Rings

    async def start(self, ring: Ring) -> None:
        """Raises Refused."""
        if not self.running:
            await self._bring_up()
        self._revive(ring)
        ring.state = RingState.STARTED

    async def stop(self, ring: Ring) -> None:
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

    async def enable(self, ring: Ring, enabled: bool) -> None:
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
        """Raises Refused where a started ring could not go on in ``memory``, or not all that is written be logged."""
        ranges = list(self._ranges(memory))
        if self.dirty.on:
            self.dirty.check(ranges)

    def check_region(self, region: MemRegion) -> None:
        """Raises Refused where what is written to more memory could not be logged."""
        if self.dirty.on:
            self.dirty.check(((region.addr, region.size),))

    async def log(self, on: bool) -> None:
        """Log what is written, or no longer. Where nobody said yet where to, rings stand still. Raises Refused."""
        if self.dirty.on is not on:
            if on:
                self.dirty.check(self._ranges(self.memory))
            async with self.paused():
                self.dirty.on = on

    async def log_to(self, area: DirtyArea) -> None:
        """Raises Refused; then it is closed."""
        try:
            area.check(self._ranges(self.memory))
            async with self.paused() if self.dirty.on else nullcontext():
                self.dirty.use(area)
        except BaseException:
            if self.dirty.log is not area.log:
                area.close()
            raise

    async def relog(self, ring: Ring, addrs: VringAddr) -> None:
        """Of a started ring: what it says of logging is another. Raises Refused."""
        before, ring.addrs = ring.addrs, addrs
        try:
            if self.dirty.on:
                self.dirty.check(self._written(ring, self._addrs(ring, self.memory)))
        except Refused:
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

    def _revive(self, ring: Ring) -> None:
        """Give the device's queue its ring, from where it stands; none where it is disabled. Raises Refused."""
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
        queue.around = partial(self._logged, resumed, written) if self.dirty.on else resumed
        queue.num, queue.desc, queue.driver, queue.used = ring.num, addrs.desc, addrs.driver, addrs.device
        queue.signal.every = RECHECK if ring.polled else None
        if not device.enable_queue(ring.index):
            raise Refused(device.failures[-1])
        if ring.call is not None:
            ring.call.notify()  # whoever served it before may have ended before it told

    def _addrs(self, ring: Ring, memory: PeerMemory) -> RingAddrs:
        """Raises Refused."""
        if ring.addrs is None or not ring.num:
            raise Refused(f"ring {ring.index} has no addresses or no size yet")
        form = ring_format(self.features)
        if not form.has_num(ring.num):
            raise Refused(f"ring {ring.index}: no {form.name} ring has {ring.num} descriptors")
        desc, avail, used = form.sizes(ring.num)
        addrs = RingAddrs(
            memory.translate(ring.addrs.desc, desc),
            memory.translate(ring.addrs.avail, avail),
            memory.translate(ring.addrs.used, used),
        )
        for start, align in zip(attrs.astuple(addrs), form.align, strict=True):
            if start % align:
                raise Refused(f"ring {ring.index}: an area at {start:#x} is not aligned to {align} bytes")
        return addrs

    def _ranges(self, memory: PeerMemory) -> Iterator[Range]:
        """All that may have to be logged. Raises Refused where a started ring is not in ``memory``."""
        for region in memory:
            yield region.addr, region.size
        for ring in self._rings:
            if ring.state is RingState.STARTED:
                yield from self._written(ring, self._addrs(ring, memory))

    def _written(self, ring: Ring, addrs: RingAddrs) -> Iterator[Range]:
        """Where the device writes in a ring itself, if that is to be logged; the device area at an address for that."""
        assert ring.addrs is not None
        if ring.addrs.flags & VRING_F_LOG:
            form = ring_format(self.features)
            areas = zip((addrs.desc, addrs.driver, ring.addrs.log), form.sizes(ring.num), strict=True)
            yield from (area for area, written in zip(areas, form.written, strict=True) if written)

    def _logged(self, resumed: Callable[[Vringh], Vringh] | None, written: list[Range], ring: Vringh) -> Vringh:
        """Around a ring, outside of what else is."""
        assert self.dirty.log is not None
        ring = ring if resumed is None else resumed(ring)
        return DirtyVringh(ring, self.dirty.log, self.memory.recorder, written)

    def _resumption(self, ring: Ring, addrs: RingAddrs) -> tuple[int, Callable[[Vringh], Vringh] | None]:
        """Where the ring is taken up, and what is put around it. Raises Refused."""
        if ring_format(self.features).name == "packed":
            if self.inflight is not None:
                raise Refused("an inflight area is only understood for split rings")
            if ring.base >> 16 not in (0, ring.base & 0xFFFF):
                raise Refused(f"ring {ring.index} starts at {ring.base:#x}, with buffers in flight")
            return ring.base & 0xFFFF, None
        used = int.from_bytes(self.memory.memory.view(addrs.device, 4)[2:], "little")
        if ring.base > 0xFFFF:
            raise Refused(f"ring {ring.index} starts at {ring.base:#x}")
        if self.inflight is not None:
            log = self.inflight.log(ring.index, ring.num)
            try:
                found = log.recover(used)
            except BadRing as exc:
                log.close()
                raise Refused(f"ring {ring.index}: {exc}") from None
            return used + len(found.again) & 0xFFFF, partial(_noted, log, found)
        if ring.base - used & 0xFFFF > ring.num:
            raise Refused(f"ring {ring.index} starts at {ring.base}, and {used} buffers of it are used")
        return ring.base, None if used == ring.base else partial(_resumed, used)

    async def _quiesce(self, ring: Ring) -> None:
        """Take nothing more from a ring, wait for what was taken, and remember where it stands."""
        queue = self._device.queues[ring.index]
        with trio.move_on_after(DRAIN):
            await queue.drain()
        if queue.ring is not None:
            base = queue.ring.state().avail
            # Of a packed ring both places are told, and after a drain they are the same.
            ring.base = base | base << 16 if ring_format(self.features).name == "packed" else base
        self._device.disable_queue(ring.index)


def _noted(log: InflightLog, found: Resumption, ring: Vringh) -> Vringh:
    assert isinstance(ring, SplitVringh)
    return LoggedVringh(ring, log, found)


def _resumed(used: int, ring: Vringh) -> Vringh:
    assert isinstance(ring, SplitVringh)
    ring.resume(used, ())
    return ring
