"""Devices on packed queues: the same drivers over the same transports, another format in shared memory."""

from __future__ import annotations

from typing import Any

import pytest

from rings.features import RingFeature
from rings.formats import RING_FEATURES
from rings.observers.meter import MeterObserver
from rings.observers.observed import ObservedVringh
from rings.packed.virtqueue import PackedVirtqueue
from rings.packed.vringh import PackedVringh
from vnet.spec import LinkSpec
from vnet.testing import Options, open_pair, over, until
from vnet.transports import TRANSPORTS

TIMED = LinkSpec(root="rc", endpoint="ep", generation=3, lanes=4)
PACKED = 1 << RingFeature.RING_PACKED


@pytest.mark.virtio("RFB-DRV-5")
@pytest.mark.hostile("S11")
@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize(
    "options",
    [
        Options(queue_size=64),
        Options(queue_size=64, rx_buffer=256),
        Options(queue_size=8, features_off=("EVENT_IDX", "INDIRECT_DESC", "MRG_RXBUF")),
    ],
    ids=["plain", "merged", "nothing"],
)
async def test_frames_cross_packed_queues_also_after_resets(transport: str, options: Options) -> None:
    with over(transport, "packed"):
        async with open_pair(options) as pair:
            assert pair.virtio.features & PACKED
            assert all(isinstance(queue.ring, PackedVirtqueue) for queue in pair.virtio.queues)
            assert all(isinstance(queue.ring, PackedVringh) for queue in pair.vhost.queues)
            await pair.transfer(1 << 18)
            before = pair.footprint()
            for _ in range(3):
                await pair.reset()
                await pair.transfer(1 << 16)
            assert pair.footprint().within(before)


@pytest.mark.hostile("S11")
async def test_the_format_may_change_with_every_reset() -> None:
    async with open_pair(Options(queue_size=32)) as pair:
        before = None
        for turn in range(24):
            pair.back.features = RING_FEATURES if turn % 2 else RING_FEATURES & ~PACKED
            bus = pair.ep.vhost
            driver = bus.match(pair.vhost)
            assert driver is not None
            await bus.unregister_driver(driver)
            pair.plug.queue_size = (4, 8, 64)[turn % 3]
            bus.register_driver(driver)
            await until(pair.vhost.ready.is_set)
            await pair.reset()
            assert bool(pair.virtio.features & PACKED) == bool(turn % 2)
            assert {queue.ring.num for queue in pair.virtio.queues} == {(4, 8, 64)[turn % 3]}
            await pair.transfer(1 << 12)
            if turn == 5:
                before = pair.footprint()
        assert before is not None
        assert pair.footprint().within(before)


async def test_a_link_that_takes_time_bills_the_fields_of_a_packed_ring() -> None:
    with over("pci", "packed"):
        async with open_pair(Options(link=TIMED)) as pair:
            await pair.transfer(1 << 16)
            queue = pair.vhost.queues[1]
            assert isinstance(queue.ring, ObservedVringh)
            assert isinstance(queue.ring.observer, MeterObserver)
            timing = pair.link.statistics().timing
            assert timing is not None
            assert timing.slept > 0


@pytest.mark.hostile("P02")
async def test_a_driver_that_breaks_a_packed_queue_stops_that_and_a_reset_recovers() -> None:
    with over("pci", "packed"):
        async with open_pair(Options(queue_size=64)) as pair:
            queue = pair.virtio.queues[1]
            assert isinstance(queue.ring, PackedVirtqueue)
            slot = queue.ring._slot
            queue.ring._desc[2 * slot] = 0x1000
            queue.ring._desc[2 * slot + 1] = 0xFFFF << 32 | (1 << 55 if queue.ring._lap else 1 << 63)
            restarts = pair.virtio.restarts
            queue.kick()
            await until(lambda: pair.virtio.restarts > restarts and pair.device.up)
            assert "names buffer 65535" in pair.vhost.failures[-1]
            await pair.transfer(1 << 16)


async def test_a_device_that_breaks_a_packed_queue_is_reset() -> None:
    with over("pci", "packed"):
        async with open_pair(Options(queue_size=64)) as pair:
            ring = pair.vhost.queues[0].ring
            assert isinstance(ring, PackedVringh)
            ring._desc[1] = 64 | 0xFFFF << 32 | (1 << 55 | 1 << 63)
            restarts = pair.virtio.restarts
            pair.vhost.ops.call(pair.vhost.queues[0])
            await until(lambda: pair.virtio.restarts > restarts and pair.device.up)
            assert "names buffer 65535" in pair.virtio.failures[-1]
            await pair.transfer(1 << 16)


async def test_a_driver_without_packed_queues_gets_split_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    with over("pci", "packed"):
        async with open_pair(Options(queue_size=16)) as pair:
            ops: Any = pair.virtio.ops
            monkeypatch.setattr(ops, "features", RING_FEATURES & ~PACKED)
            await pair.reset()
            assert not pair.virtio.features & PACKED
            await pair.transfer(1 << 14)
