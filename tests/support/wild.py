"""A device type, loaded by `vnet --load`, whose driver gives its device an address outside all memory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import attrs
import trio

from drivers.bus.device_queue import OfferedQueue
from drivers.bus.vhost import VhostBound
from drivers.bus.virtio import QueueSpec, VirtioBound
from drivers.flow.figures import Traffic
from drivers.flow.pump import pump
from drivers.questions.answer import AnswerFlow
from drivers.virtio_type import Side, VirtioType
from rings.features import EMPTY_TABLE
from rings.formats import RING_FEATURES
from rings.memory import Addr
from vnet.ends import DeviceKind, OpenContext, PlainEnd
from vnet.spec import DeviceSpec
from vnet.topology.extensions import add_device_type


@attrs.define(eq=False)
class Settings:
    features: int = RING_FEATURES


class WildDevice(VhostBound[Settings]):
    def offer(self) -> None:
        self.device.offer(EMPTY_TABLE, RING_FEATURES, [OfferedQueue("requestq", 64)], b"")

    async def run(self) -> None:
        [queue] = self.device.queues
        await queue.serve_each_ring(partial(pump, AnswerFlow(queue, lambda chain: 0)))


class WildDriver(VirtioBound[Settings]):
    async def set_up(self) -> None:
        [self.queue] = await self.device.find_vqs([QueueSpec("requestq")])

    async def run(self) -> None:
        self.queue.ring.add((), ((Addr(0xDEAD_BEEF_0000), 64),), 0)
        self.queue.flush()
        await trio.sleep_forever()


@attrs.frozen
class WildSpec(DeviceSpec):
    virtio = VirtioType(
        4, EMPTY_TABLE, RING_FEATURES, driver=Side("wild", WildDriver), device=Side("vhost_wild", WildDevice)
    )


@asynccontextmanager
async def open_wild(context: OpenContext[WildSpec]) -> AsyncIterator[tuple[PlainEnd[Settings], PlainEnd[Settings]]]:
    yield PlainEnd(Settings(), [Traffic()]), PlainEnd(Settings(), [Traffic()])


add_device_type("wild", DeviceKind(WildSpec, open_wild))
