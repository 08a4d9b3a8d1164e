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
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

import attrs
import trio

from drivers.bus.vhost import OfferedQueue, VhostBound
from drivers.bus.virtio import QueueSpec, VirtioBound
from drivers.contracts.liveness import Liveness
from drivers.errors import DriverError, TransportLost
from drivers.flow.figures import Traffic
from drivers.flow.pump import pump
from drivers.questions.answer import AnswerFlow
from drivers.questions.ask import QuestionFlow
from drivers.virtio_type import Side, VirtioType
from rings.chain import Chain, copy_in, total
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
REQUESTS = 4  # most requests that the driver has in flight


# The device


@attrs.define(eq=False)
class EntropyPlug:
    """The back end of one vhost_rng device: its settings and its source of random bytes."""

    features: int = RING_FEATURES  # the type has no feature bits of its own, and no configuration
    queue_size: int = 64
    limit: int = LIMIT
    source: Callable[[int], bytes] = os.urandom
    traffic: Traffic = attrs.field(factory=Traffic)


class BoundVhostRng(VhostBound[EntropyPlug]):
    """A vhost_rng device with its plug: fills the device-writable buffers of requestq."""

    def offer(self) -> None:
        self.device.offer(EMPTY_TABLE, self.plug.features, [OfferedQueue("requestq", self.plug.queue_size)], b"")

    async def run(self) -> None:
        [queue] = self.device.queues
        flow = AnswerFlow(queue, self.answer)
        await queue.serve_each_ring(partial(pump, flow, self.device.settle, in_place=True))

    def answer(self, chain: Chain) -> int:
        """Fill a buffer. Returns the bytes written."""
        _, readable, writable = chain
        size = min(total(writable), self.plug.limit)
        if readable or not size:  # forbidden by section 5.4.6.1: the driver gets 0 bytes
            self.plug.traffic.drop("not_writable")
            return 0
        self.plug.traffic.packets += 1
        self.plug.traffic.bytes += size
        return copy_in(writable, self.plug.source(size))


# The driver


class EntropyError(DriverError):
    """The device returned an empty buffer."""


class Entropy:
    """The source of random bytes for programs on the driver's host. Outlives device resets."""

    def __init__(self, features: int = RING_FEATURES) -> None:
        self.features = features
        self.received = Traffic()
        self.questions: QuestionFlow | None = None  # while a device runs
        self.liveness = Liveness()

    async def read(self, size: int) -> bytes:
        """Return ``size`` random bytes; wait while there is no device. Raises EntropyError."""
        data = bytearray()
        while len(data) < size:
            await self.liveness.wait()
            assert self.questions is not None
            try:
                part = await self.questions.ask(b"", min(size - len(data), LIMIT), least=1)
            except TransportLost:
                continue  # the device was reset: ask the next one
            if not part:
                raise EntropyError("the device returned an empty buffer")
            self.received.packets += 1
            self.received.bytes += len(part)
            data += part
        return bytes(data)


class BoundVirtioRng(VirtioBound[Entropy]):
    """A virtio_rng driver bound to a device, from its bring-up to its reset."""

    questions: QuestionFlow | None = None

    async def set_up(self) -> None:
        [queue] = await self.device.find_vqs([QueueSpec("requestq")])
        self.questions = QuestionFlow(queue, self.device.ops.dma, question=0, answer=LIMIT, limit=REQUESTS)

    async def run(self) -> None:
        assert self.questions is not None
        self.settings.questions = self.questions
        self.settings.liveness.set(True)
        await pump(self.questions, in_place=True)

    def close(self) -> None:
        if self.questions is not None:
            self.settings.questions = None
            self.settings.liveness.set(False)
            self.questions.close()


# The topology keys of the device type, and its two ends


@attrs.frozen
class EntropySpec(DeviceSpec):
    """An entropy device."""

    limit: int = attrs.field(default=LIMIT, validator=must(lambda v: 1 <= v <= LIMIT, f"between 1 and {LIMIT} (bytes)"))
    """Most bytes per request."""

    virtio = VirtioType(
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
    yield PlainEnd(entropy, [entropy.received], entropy.liveness), PlainEnd(plug, [plug.traffic])


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
