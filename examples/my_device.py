"""A device type of your own, in one file and one line: entropy, virtio device id 4 (VIRTIO 1.4 section 5.4).

python examples/my_device.py [TRANSPORT]
vnet --load examples/my_device.py up TOPOLOGY

A device type is two drivers that never meet. The vhost driver is the device: it takes chains from its rings and gives
them back. The virtio driver is its user: it adds buffers and gets them back used. Which transport lies between them,
neither of them knows; resets, lost links and broken rings end `run`, and what follows is a new `probe`.
"""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

import attrs
import trio

from drivers.bus.model import MatchId, require
from drivers.bus.vhost import DeviceQueue, VhostDevice
from drivers.bus.virtio import DriverQueue, QueueSpec, VirtioDevice
from drivers.errors import DriverError
from drivers.flow.figures import Traffic
from drivers.flow.pump import Need, QueueFlow, pump
from drivers.memory.buffers import BufferBlock
from drivers.registry import DeviceType
from rings.chain import copy_in, total
from rings.features import EMPTY_TABLE
from rings.formats import RING_FEATURES
from rings.ids import DeviceId
from vnet.ends.base import EndsType, OpenContext, PlainEnd
from vnet.spec import DeviceSpec, must
from vnet.system.world import open_world
from vnet.topology.extensions import add_device_type
from vnet.topology.samples import built_in

LIMIT = 64 << 10  # bytes that one request gets at most, whatever room it has: entropy is not for free
BUDGET = 16  # requests of one batch, after which others have their turn
BUFFERS = 4  # requests of the driver that are under way at the same time


# The device


@attrs.define(eq=False)
class EntropyPlug:
    """What one vhost_rng device is plugged into."""

    features: int = RING_FEATURES  # the type has no bits of its own, and no configuration
    queue_size: int = 64
    limit: int = LIMIT
    source: Callable[[int], bytes] = os.urandom
    given: Traffic = attrs.field(factory=Traffic)


class Give(QueueFlow):
    """requestq: fill what the driver made writable. A `drivers.flow.pump.Flow`."""

    def __init__(self, queue: DeviceQueue, plug: EntropyPlug) -> None:
        self.queue, self._plug = queue, plug

    def move(self) -> tuple[int, Need]:
        ring, plug, done = self.queue.ring, self._plug, []
        for head, readable, writable in ring.getdescs(BUDGET) if ring is not None else ():
            size = min(total(writable), plug.limit)
            if readable or not size:  # section 5.4.6.1: no driver may send such a thing, and it gets nothing for it
                plug.given.drop("not_writable")
                size = 0
            else:
                copy_in(writable, plug.source(size))
                plug.given.packets += 1
                plug.given.bytes += size
            done.append((head, size))
        if ring is not None and done:
            ring.complete_each(done)
        return len(done), Need.TURN if len(done) == BUDGET else Need.QUEUE


@attrs.frozen(eq=False)
class BoundVhostRng:
    """One device with its plug."""

    device: VhostDevice
    plug: EntropyPlug

    async def run(self) -> None:
        [queue] = self.device.queues
        await queue.serve_each_ring(partial(pump, Give(queue, self.plug), self.device.settle, in_place=True))

    def config_written(self, offset: int, data: bytes) -> None:
        """There is no configuration."""

    async def close(self) -> None:
        await trio.lowlevel.checkpoint()


class VhostRng:
    """The vhost driver; ``plug_for`` says what a device is plugged into, None while that is not there yet."""

    name, id_table, table = "vhost_rng", (MatchId(DeviceId.ENTROPY),), EMPTY_TABLE

    def __init__(self, plug_for: Callable[[VhostDevice], EntropyPlug | None]) -> None:
        self._plug_for = plug_for

    async def probe(self, device: VhostDevice) -> BoundVhostRng:
        plug = require(self._plug_for(device), device, "it has no source yet")
        device.offer(self.table, plug.features, [("requestq", plug.queue_size)], b"")
        return BoundVhostRng(device, plug)


# The driver


class EntropyError(DriverError):
    """The device gave a buffer back with nothing in it."""


@attrs.define(eq=False)
class Request:
    size: int
    data: bytes = b""
    answered: trio.Event = attrs.field(factory=trio.Event)


class Entropy:
    """What a program on the driver's host has in its hands, whatever happens to the device."""

    def __init__(self, features: int = RING_FEATURES) -> None:
        self.features = features
        self.received = Traffic()
        self.waiting = deque[Request]()
        self.wake: Callable[[], None] | None = None  # set while there is a device

    async def read(self, size: int) -> bytes:
        """That many random bytes, once a device has given them. Raises EntropyError."""
        data = bytearray()
        while len(data) < size:
            request = Request(size - len(data))
            self.waiting.append(request)
            if self.wake is not None:
                self.wake()
            try:
                await request.answered.wait()
            finally:
                if request in self.waiting:  # whoever asked was cancelled
                    self.waiting.remove(request)
            if not request.data:
                raise EntropyError("the device gave a buffer back with nothing in it")
            data += request.data
        return bytes(data)


class Ask(QueueFlow):
    """requestq from the other side: requests go out as buffers, and come back filled."""

    def __init__(self, queue: DriverQueue, entropy: Entropy, buffers: BufferBlock) -> None:
        self.queue, self._entropy, self._buffers = queue, entropy, buffers
        self._free = list(range(len(buffers.views)))
        self.under_way: dict[int, Request] = {}

    def move(self) -> tuple[int, Need]:
        ring, entropy, buffers = self.queue.ring, self._entropy, self._buffers
        done = ring.get_each(BUDGET)
        for index, written in done:
            request = self.under_way.pop(index)
            request.data = bytes(buffers.views[index][:written])
            request.answered.set()
            self._free.append(index)
            entropy.received.packets += 1
            entropy.received.bytes += written
        added = []
        while entropy.waiting and self._free:
            index, request = self._free.pop(), entropy.waiting.popleft()
            self.under_way[index] = request
            added.append((buffers.addrs[index], min(request.size, buffers.size), index))
        if added:
            ring.add_each(added, True)
        return len(done) + len(added), Need.TURN if len(done) == BUDGET else Need.QUEUE


class BoundVirtioRng:
    """One live device."""

    def __init__(self, queue: DriverQueue, entropy: Entropy, buffers: BufferBlock) -> None:
        self._flow, self._entropy, self._buffers = Ask(queue, entropy, buffers), entropy, buffers

    async def run(self) -> None:
        self._entropy.wake = self._flow.queue.signal.set
        await pump(self._flow, in_place=True)

    async def config_changed(self) -> None:
        """There is no configuration."""

    def close(self) -> None:
        """The device was reset: what it did not answer, the next one will."""
        self._entropy.wake = None
        self._entropy.waiting.extendleft(reversed(self._flow.under_way.values()))
        self._buffers.close()


class VirtioRng:
    """The virtio driver; ``entropy_for`` says whom a device serves, None while nobody wants it."""

    name, id_table, table = "virtio_rng", (MatchId(DeviceId.ENTROPY),), EMPTY_TABLE

    def __init__(self, entropy_for: Callable[[VirtioDevice], Entropy | None]) -> None:
        self._entropy_for = entropy_for

    def features(self, device: VirtioDevice) -> int:
        return require(self._entropy_for(device), device, "nobody wants it yet").features

    async def probe(self, device: VirtioDevice) -> BoundVirtioRng:
        entropy = require(self._entropy_for(device), device, "nobody wants it yet")
        [queue] = await device.find_vqs([QueueSpec("requestq")])
        return BoundVirtioRng(queue, entropy, BufferBlock(device.ops.dma, min(BUFFERS, queue.ring.num), LIMIT))


# What a topology may say of such a device, and what is at its two ends


@attrs.frozen
class EntropySpec(DeviceSpec):
    limit: int = attrs.field(default=LIMIT, validator=must(lambda v: 1 <= v <= LIMIT, f"bytes, 1 to {LIMIT}"))


@asynccontextmanager
async def open_entropy(context: OpenContext) -> AsyncIterator[tuple[PlainEnd, PlainEnd]]:
    spec = context.spec
    assert isinstance(spec, EntropySpec)
    entropy = Entropy(context.features)
    plug = EntropyPlug(context.features, spec.queue_size, spec.limit)
    yield PlainEnd(entropy, [entropy.received], lambda: entropy.wake is not None), PlainEnd(plug, [plug.given])


# The one line.
add_device_type(
    "entropy",
    DeviceType(DeviceId.ENTROPY, EMPTY_TABLE, RING_FEATURES, VirtioRng, VhostRng),
    EndsType(EntropySpec, open_entropy),
)


async def main(transport: str) -> None:
    async with open_world(built_in("entropy", transport)) as world:
        await world.wait_up()
        end = world.devices["entropy0"].driver_end
        assert isinstance(end.settings, Entropy)
        print((await end.settings.read(32)).hex())
        data = await end.settings.read(1 << 20)
        print(f"{len(data)} bytes more, of {len(set(data))} values, in all {end.figures(0).packets} requests")


if __name__ == "__main__":
    trio.run(main, sys.argv[1] if sys.argv[1:] else "pci")
