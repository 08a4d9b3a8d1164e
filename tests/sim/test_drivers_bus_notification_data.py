"""Kicks that carry the driver's position, or a value of the device's choice (NOTIFICATION_DATA, NOTIF_CONFIG_DATA)."""

from __future__ import annotations

from typing import Literal

import pytest
import trio
import trio.testing

from drivers.testing import TappedAccess
from drivers.transports.pci.registers import CfgType, Common
from rings.features import RingFeature
from support.rigs.virtio_pci import bind
from vnet.testing import FRAME, NetPair, Options, bounded, hostile_driver, open_pair, over, tapped, unharmed

DATA, CONFIG_DATA = "NOTIFICATION_DATA", "NOTIF_CONFIG_DATA"
SMALL = Options(queue_size=4)
RINGS = pytest.mark.parametrize("ring", ["split", "packed"])
Ring = Literal["split", "packed"]


async def send(pair: NetPair) -> None:
    pair.driver_port.inject(FRAME)
    with bounded():
        assert (await pair.device_port.receive())[1] == FRAME
    await trio.testing.wait_all_tasks_blocked()


def positions(ring: Ring) -> list[int]:
    """The positions of a driver after one frame, two, and so on, in a ring of 4: wrap or upper bit, and the offset."""
    if ring == "split":
        return list(range(1, 11))
    return [place % 4 | (1 << 15 if place // 4 % 2 == 0 else 0) for place in range(1, 11)]


@RINGS
@pytest.mark.virtio("NDATA-DRV-1", "NDATA-DRV-2", "PACKED-DRV-11", "PCI-DRV-29", "PCI-DRV-31")
async def test_a_kick_has_the_index_of_the_queue_and_the_position_behind_the_last_buffer(ring: Ring) -> None:
    with over("pci", ring, (DATA,)):
        async with open_pair(SMALL) as pair, unharmed(pair), tapped(pair) as tap:
            await bind(pair, tap)
            assert pair.virtio.has(RingFeature.NOTIFICATION_DATA)
            tap.log.clear()
            for _ in range(10):
                await send(pair)
            at = tap.structures[CfgType.NOTIFY]
            offset = at.offset + at.multiplier
            kicks = [access for access in tap.within(CfgType.NOTIFY) if access.offset == offset]
            assert kicks == [TappedAccess(at.bar, offset, 4, 1 | place << 16, True) for place in positions(ring)]


@pytest.mark.virtio("NDATA-DRV-3")
async def test_a_kick_without_new_buffers_has_the_same_position() -> None:
    with over("pci", "split", (DATA,)):
        async with open_pair(SMALL) as pair, unharmed(pair), tapped(pair) as tap:
            await bind(pair, tap)
            await send(pair)
            tap.log.clear()
            for _ in range(3):
                pair.virtio.queues[1].kick()
            assert [access.value for access in tap.within(CfgType.NOTIFY)] == [1 | 1 << 16] * 3


@RINGS
@pytest.mark.virtio("RFB-DRV-10", "PCI-DRV-32", "PCI-DRV-33")
@pytest.mark.parametrize("features", [(CONFIG_DATA,), (DATA, CONFIG_DATA)], ids=["alone", "with data"])
async def test_a_kick_has_the_value_that_the_device_chose_for_the_queue(ring: Ring, features: tuple[str, ...]) -> None:
    with over("pci", ring, features):
        async with open_pair(SMALL) as pair, unharmed(pair), tapped(pair) as tap:
            tap.lies[tap.at(Common.QUEUE_NOTIF_CONFIG_DATA)] = lambda value: 0x2A00 + value % 0x100
            await bind(pair, tap)
            assert pair.virtio.has(RingFeature.NOTIF_CONFIG_DATA)
            tap.log.clear()
            await send(pair)
            [kick] = [access for access in tap.within(CfgType.NOTIFY) if access.value & 0xFF == 1]
            data = positions(ring)[0] << 16 if DATA in features else 0
            assert (kick.size, kick.value) == (4 if DATA in features else 2, 0x2A01 | data)


@RINGS
@pytest.mark.parametrize("transport", ["pci", "mmio"], indirect=True)
async def test_frames_cross_with_all_data_in_kicks(transport: str, ring: Ring) -> None:
    with over(transport, ring, (DATA, CONFIG_DATA) if transport == "pci" else (DATA,)):
        async with open_pair(Options(queue_size=16)) as pair:
            assert pair.virtio.has(RingFeature.NOTIFICATION_DATA)
            await pair.transfer(1 << 17)
            await pair.settings.resize(8)
            await pair.transfer(1 << 16)
            assert all(queue.spurious == 0 for queue in pair.vhost.queues)


@pytest.mark.virtio("PCI-DEV-31", "PCI-DEV-32", "PCI-DEV-33", "PCI-DEV-34")
async def test_the_notification_structure_has_room_for_32_bits_for_each_queue() -> None:
    with over("pci", "split", (DATA,)):
        async with (
            open_pair(Options(queue_size=4, control=True)) as pair,
            unharmed(pair),
            hostile_driver(pair) as driver,
        ):
            at = driver.structures[CfgType.NOTIFY]
            assert at.multiplier == 0 or (at.multiplier % 4 == 0 and not at.multiplier & at.multiplier - 1)
            assert at.offset % 4 == 0
            for queue in range(3):
                driver.write(Common.QUEUE_SELECT, queue)
                assert at.length >= driver.read(Common.QUEUE_NOTIFY_OFF) * at.multiplier + 4


async def test_a_device_takes_32_bits_only_if_that_was_negotiated() -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await driver.start()
        at = driver.structures[CfgType.NOTIFY]
        driver.function.bar_write(at.bar, at.offset + at.multiplier, 4, 1)
        assert pair.epf.spurious_notifies == 1
        assert pair.vhost.queues[1].kicks == 0
