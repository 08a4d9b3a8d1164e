"""A custom device type in one file: an entropy device, virtio device id 4 (VIRTIO 1.4 section 5.4).

python examples/my_device.py [TRANSPORT]
vnet --load examples/my_device.py up TOPOLOGY

A device type is two classes and one record. The bound device takes chains from its rings and completes them. The bound
driver uses the device: it adds buffers and gets them back used. Neither knows the transport. A reset, a lost link or a
broken ring ends `run`; the device runs again at the next DRIVER_OK, and the driver is bound anew.
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

from drivers.bus.vhost import DeviceQueue, VhostBound
from drivers.bus.virtio import DriverQueue, QueueSpec, VirtioBound
from drivers.device_type import DeviceType, Side
from drivers.errors import DriverError
from drivers.flow.figures import Traffic
from drivers.flow.pump import AGAIN, QUEUE, Wait, pump
from drivers.memory.buffers import BufferBlock
from rings.chain import copy_in, total
from rings.features import EMPTY_TABLE
from rings.formats import RING_FEATURES
from rings.ids import DeviceId
from vnet.ends import (
    EXERCISE_SIZE,
    VALUE,
    DeviceKind,
    Exercise,
    OpenContext,
    PlainEnd,
    QemuDevice,
    RunningDevice,
    Serve,
    ServeOption,
)
from vnet.spec import DeviceSpec, must
from vnet.system.world import open_world
from vnet.topology.extensions import add_device_type
from vnet.topology.samples import built_in

LIMIT = 64 << 10  # most bytes returned per request, because reading entropy costs time
BUDGET = 16  # requests per batch, before other tasks run
BUFFERS = 4  # most requests that the driver has in flight


# The device


@attrs.define(eq=False)
class EntropyPlug:
    """The back end of one vhost_rng device: its settings and its source of random bytes."""

    features: int = RING_FEATURES  # the type has no feature bits of its own, and no configuration
    queue_size: int = 64
    limit: int = LIMIT
    source: Callable[[int], bytes] = os.urandom
    traffic: Traffic = attrs.field(factory=Traffic)


class EntropyFill:
    """Fills the device-writable buffers of requestq. A `drivers.flow.pump.Flow`."""

    def __init__(self, queue: DeviceQueue, plug: EntropyPlug) -> None:
        self.queue, self._plug = queue, plug

    def move(self) -> tuple[int, Wait]:
        ring, plug, done = self.queue.ring, self._plug, []
        for head, readable, writable in ring.getdescs(BUDGET) if ring is not None else ():
            size = min(total(writable), plug.limit)
            if readable or not size:  # forbidden by section 5.4.6.1: complete it with 0 bytes
                plug.traffic.drop("not_writable")
                size = 0
            else:
                copy_in(writable, plug.source(size))
                plug.traffic.packets += 1
                plug.traffic.bytes += size
            done.append((head, size))
        if ring is not None and done:
            ring.complete_each(done)
        return len(done), AGAIN if len(done) == BUDGET else QUEUE


class BoundVhostRng(VhostBound[EntropyPlug]):
    """A vhost_rng device bound to its plug."""

    def offer(self) -> None:
        self.device.offer(EMPTY_TABLE, self.plug.features, [("requestq", self.plug.queue_size)], b"")

    async def run(self) -> None:
        [queue] = self.device.queues
        flow = EntropyFill(queue, self.plug)
        await queue.serve_each_ring(partial(pump, flow, self.device.settle, in_place=True))


# The driver


class EntropyError(DriverError):
    """The device returned an empty buffer."""


@attrs.define(eq=False)
class EntropyRequest:
    size: int
    data: bytes = b""
    answered: trio.Event = attrs.field(factory=trio.Event)


class Entropy:
    """The source of random bytes for programs on the driver's host. Outlives device resets."""

    def __init__(self, features: int = RING_FEATURES) -> None:
        self.features = features
        self.received = Traffic()
        self.waiting = deque[EntropyRequest]()
        self.wake: Callable[[], None] | None = None  # set while a device is bound

    async def read(self, size: int) -> bytes:
        """Return ``size`` random bytes; wait while there is no device. Raises EntropyError."""
        data = bytearray()
        while len(data) < size:
            request = EntropyRequest(size - len(data))
            self.waiting.append(request)
            if self.wake is not None:
                self.wake()
            try:
                await request.answered.wait()
            finally:
                if request in self.waiting:  # the caller was cancelled
                    self.waiting.remove(request)
            if not request.data:
                raise EntropyError("the device returned an empty buffer")
            data += request.data
        return bytes(data)


class EntropyFlow:
    """The driver's side of requestq: adds a buffer per request and takes used buffers back."""

    def __init__(self, queue: DriverQueue, entropy: Entropy, buffers: BufferBlock) -> None:
        self.queue, self._entropy, self._buffers = queue, entropy, buffers
        self._free = list(range(len(buffers.views)))
        self.in_flight: dict[int, EntropyRequest] = {}

    def move(self) -> tuple[int, Wait]:
        ring, entropy, buffers = self.queue.ring, self._entropy, self._buffers
        done = ring.get_each(BUDGET)
        for index, length in done:
            request = self.in_flight.pop(index)
            request.data = bytes(buffers.views[index][:length])
            request.answered.set()
            self._free.append(index)
            entropy.received.packets += 1
            entropy.received.bytes += length
        added = []
        while entropy.waiting and self._free:
            index, request = self._free.pop(), entropy.waiting.popleft()
            self.in_flight[index] = request
            added.append((buffers.addrs[index], min(request.size, buffers.size), index))
        if added:
            ring.add_each(added, True)
        return len(done) + len(added), AGAIN if len(done) == BUDGET else QUEUE


class BoundVirtioRng(VirtioBound[Entropy]):
    """A virtio_rng driver bound to a device."""

    _flow: EntropyFlow | None = None

    async def set_up(self) -> None:
        [queue] = await self.device.find_vqs([QueueSpec("requestq")])
        self._buffers = BufferBlock(self.device.ops.dma, min(BUFFERS, queue.ring.num), LIMIT)
        self._flow = EntropyFlow(queue, self.settings, self._buffers)

    async def run(self) -> None:
        assert self._flow is not None
        self.settings.wake = self._flow.queue.signal.set
        await pump(self._flow, in_place=True)

    def close(self) -> None:
        """Queue unanswered requests for the next device: this one was reset."""
        self.settings.wake = None
        if self._flow is not None:
            self.settings.waiting.extendleft(reversed(self._flow.in_flight.values()))
            self._buffers.close()


# The topology keys of the device type, and its two ends


@attrs.frozen
class EntropySpec(DeviceSpec):
    """An entropy device."""

    limit: int = attrs.field(default=LIMIT, validator=must(lambda v: 1 <= v <= LIMIT, f"between 1 and {LIMIT} (bytes)"))
    """Most bytes per request."""

    virtio = DeviceType(
        DeviceId.ENTROPY,
        EMPTY_TABLE,
        RING_FEATURES,
        driver=Side("virtio_rng", BoundVirtioRng),
        device=Side("vhost_rng", BoundVhostRng),
    )


Ends = tuple[PlainEnd[Entropy], PlainEnd[EntropyPlug]]


@asynccontextmanager
async def open_entropy(context: OpenContext[EntropySpec]) -> AsyncIterator[Ends]:
    spec = context.spec
    entropy = Entropy(context.features)
    plug = EntropyPlug(context.features, spec.queue_size, spec.limit)
    yield PlainEnd(entropy, [entropy.received], lambda: entropy.wake is not None), PlainEnd(plug, [plug.traffic])


async def exercise(device: RunningDevice[EntropySpec, Ends]) -> None:
    """Read bytes, as tests do over each transport: each value occurs."""
    assert len({*await device.ends[0].settings.read(EXERCISE_SIZE)}) == 256


# The device type as one record: `vnet serve entropy` and tests use it as they use a built-in type.
ENTROPY = DeviceKind(
    EntropySpec,
    open_entropy,
    serve=Serve(
        [ServeOption("--limit", {"limit": VALUE}, "Most bytes per request.", int)],
        qemu=QemuDevice("vhost-user-rng-pci,chardev=c0"),
    ),
    exercise=Exercise(exercise, kept=True),
)
add_device_type("entropy", ENTROPY)


async def main(transport: str) -> None:
    async with open_world(built_in("entropy", transport)) as world:
        await world.wait_up()
        end = world.devices["entropy0"].driver_end
        assert isinstance(end.settings, Entropy)
        print((await end.settings.read(32)).hex())
        data = await end.settings.read(1 << 20)
        print(
            f"{len(data)} more bytes with {len(set(data))} distinct values, {end.figures(0).packets} requests in total"
        )


if __name__ == "__main__":
    trio.run(main, sys.argv[1] if sys.argv[1:] else "pci")
