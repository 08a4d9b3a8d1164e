"""One queue of a running device is reset and enabled again (VIRTIO_F_RING_RESET), by either side's driver."""

from __future__ import annotations

from typing import Literal

import attrs
import pytest
import trio
import trio.testing

from drivers.errors import FeatureMismatch, TransportLost
from drivers.transports.pci.registers import Common
from rings.errors import LocalRingError
from rings.features import RingFeature
from rings.status import Status
from rings.testing import Desc
from support.rigs.mediated import Mediated
from vnet.testing import FRAME, NetPair, Options, bounded, hostile_driver, open_pair, over, tapped, unharmed, until
from vnet.testing.hostile import HostileDriver

RESET = 1 << RingFeature.RING_RESET
RINGS = pytest.mark.parametrize("ring", ["split", "packed"])
Ring = Literal["split", "packed"]


def send(driver: HostileDriver[NetPair], head: int = 0) -> None:
    driver.send(Desc(driver.put(bytes(12) + FRAME), 12 + len(FRAME)), head=head)


async def arrives(pair: NetPair) -> None:
    with bounded():
        assert (await pair.device_port.receive())[1] == FRAME


# The device


@pytest.mark.virtio("QRST-DEV-1", "QRST-DEV-2", "QRST-DEV-3", "PCI-DEV-17", "PCI-DEV-19", "PCI-DEV-21")
async def test_a_queue_that_was_reset_has_its_initial_state_and_does_nothing() -> None:
    async with open_pair(Options(queue_size=16)) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await driver.start(num=4)
        driver.write(Common.QUEUE_SELECT, 1)
        assert driver.read(Common.QUEUE_RESET) == 0
        send(driver)
        await arrives(pair)
        await trio.testing.wait_all_tasks_blocked()
        driver.calls.clear()
        raw = driver.rings[1]
        driver.write(Common.QUEUE_RESET, 1)
        state = [driver.read(field) for field in (Common.QUEUE_RESET, Common.QUEUE_ENABLE, Common.QUEUE_SIZE)]
        assert state == [0, 0, 16]
        assert [driver.read(field) for field in (Common.QUEUE_DESC, Common.QUEUE_DRIVER, Common.QUEUE_DEVICE)] == [
            0
        ] * 3
        send(driver, head=1)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.WouldBlock):
            pair.device_port.receive_nowait()
        assert raw.used_idx == 1
        assert driver.calls == []
        assert driver.status & Status.DRIVER_OK
        assert not driver.status & Status.NEEDS_RESET


@pytest.mark.virtio("QRST-DEV-4", "PCI-DEV-18")
async def test_a_queue_is_enabled_again_with_other_parameters_while_its_neighbour_runs() -> None:
    async with open_pair(Options(queue_size=16)) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await driver.start(num=4)
        for num in (8, 2, 16):
            send(driver)
            await arrives(pair)
            driver.write(Common.QUEUE_RESET, 1)
            driver.rings[1] = driver.set_up(1, num)
            driver.point(2)
            driver.write(Common.QUEUE_SELECT, 1)
            assert (driver.read(Common.QUEUE_ENABLE), driver.read(Common.QUEUE_RESET)) == (1, 0)
            ring = pair.vhost.queues[1].ring
            assert ring is not None
            assert (ring.num, ring.state().avail) == (num, 0)
        send(driver)
        await arrives(pair)
        driver.write(Common.QUEUE_SELECT, 0)
        assert driver.read(Common.QUEUE_ENABLE) == 1


async def test_without_the_feature_a_queue_can_not_be_reset() -> None:
    async with open_pair(Options(queue_size=16)) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await driver.start(driver.device_features & ~RESET & ~(1 << 17))
        driver.write(Common.QUEUE_SELECT, 1)
        driver.write(Common.QUEUE_RESET, 1)
        assert driver.read(Common.QUEUE_ENABLE) == 1
        send(driver)
        await arrives(pair)


async def test_other_values_reset_nothing_nor_does_a_queue_that_is_not_there() -> None:
    async with open_pair(Options(queue_size=16)) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await driver.start()
        for queue, value in ((1, 0), (1, 2), (1, 0xFFFF), (2, 1), (0xFFFF, 1)):
            driver.write(Common.QUEUE_SELECT, queue)
            driver.write(Common.QUEUE_RESET, value)
        send(driver)
        await arrives(pair)


# The driver


@RINGS
@pytest.mark.parametrize("transport", ["pci", "mmio"], indirect=True)
@pytest.mark.virtio("QRST-DRV-2")
async def test_a_driver_resizes_its_queues_while_the_device_runs(transport: str, ring: Ring) -> None:
    with over(transport, ring):
        async with open_pair(Options(queue_size=64)) as pair:
            assert pair.virtio.features & RESET
            await pair.transfer(1 << 16)
            before = None
            for num in (16, 64, 2, 32):
                await pair.settings.resize(num)
                assert {queue.ring.num for queue in pair.virtio.queues} == {num}
                assert {queue.num for queue in pair.vhost.queues} == {num}
                await pair.transfer(1 << 16)
                if num == 32 and before is None:
                    before = pair.footprint()
            for num in (8, 32):
                await pair.settings.resize(num)
            assert before is not None
            assert pair.footprint().within(before)
            assert pair.virtio.restarts == 0
            await pair.reset()
            assert {queue.ring.num for queue in pair.virtio.queues} == {32}, "also after a reset of the device"
            await pair.transfer(1 << 16)


@RINGS
async def test_frames_cross_while_queues_are_resized_and_each_is_accounted_for(ring: Ring) -> None:
    with over("pci", ring):
        async with open_pair(Options(queue_size=64)) as pair:
            figures = pair.settings.figures.pairs[0]
            for turn in range(12):
                for _ in range(5):
                    pair.driver_port.inject(FRAME)
                    pair.device_port.inject(FRAME)
                await pair.settings.resize((8, 32)[turn % 2])
            await trio.testing.wait_all_tasks_blocked()
            lost = figures.sent.drops["queue_reset"]
            arrived = sum(1 for _ in received(pair))
            assert arrived + lost == 60
            assert figures.received.packets == 60


def received(pair: NetPair) -> list[bytes]:
    frames = []
    while True:
        try:
            frames.append(pair.device_port.receive_nowait()[1])
        except trio.WouldBlock:
            return frames


@pytest.mark.virtio("QRST-DRV-1", "PCI-DRV-18")
async def test_the_driver_waits_until_the_device_has_reset_the_queue() -> None:
    async with open_pair(Options(queue_size=16)) as pair, tapped(pair) as tap:
        pair.rc.pci.register_device(tap)
        await pair.world.wait_up()
        left = 5

        def busy(value: int) -> int:
            nonlocal left
            left -= left > 0
            return int(left > 0)

        tap.lies[tap.at(Common.QUEUE_RESET)] = busy
        before = len(tap.common())
        await pair.settings.resize(8)
        log = tap.common()[before:]
        reads = [value for field, value, write in log if field is Common.QUEUE_RESET and not write]
        assert reads[:5] == [1, 1, 1, 1, 0]
        fields = [field for field, _, write in log if write]
        assert fields.index(Common.QUEUE_DESC) > fields.index(Common.QUEUE_RESET)
        last = max(at for at, (field, value, write) in enumerate(log[:20]) if field is Common.QUEUE_RESET and value)
        assert Common.QUEUE_SIZE not in [field for field, _, _ in log[:last]], "nothing is set up before"


async def test_a_device_that_never_finishes_is_reset() -> None:
    async with open_pair(Options(queue_size=16)) as pair, tapped(pair) as tap:
        pair.rc.pci.register_device(tap)
        await pair.world.wait_up()
        tap.lies[tap.at(Common.QUEUE_RESET)] = lambda _: 1
        with pytest.raises(TransportLost, match="did not finish its reset within 1 s"):
            await pair.settings.resize(8)
        await until(lambda: pair.virtio.restarts == 1 and pair.device.up)
        await pair.transfer(1 << 14)


async def test_a_caller_that_gives_up_leaves_no_queue_without_its_task() -> None:
    async with open_pair(Options(queue_size=16)) as pair, tapped(pair) as tap:
        pair.rc.pci.register_device(tap)
        await pair.world.wait_up()
        done = trio.current_time() + 0.5
        tap.lies[tap.at(Common.QUEUE_RESET)] = lambda _: int(trio.current_time() < done)
        with trio.move_on_after(0.1):
            await pair.settings.resize(8)
        assert {queue.ring.num for queue in pair.virtio.queues} == {8}
        await pair.transfer(1 << 14)
        assert pair.virtio.restarts == 0


async def test_a_reset_of_the_device_ends_that_of_a_queue_and_happens_once() -> None:
    async with open_pair(Options(queue_size=16)) as pair, tapped(pair) as tap, trio.open_nursery() as nursery:
        pair.rc.pci.register_device(tap)
        await pair.world.wait_up()
        tap.lies[tap.at(Common.QUEUE_RESET)] = lambda _: 1

        async def resize() -> None:
            with pytest.raises(TransportLost):
                await pair.settings.resize(8)

        nursery.start_soon(resize)
        await trio.sleep(0.1)
        pair.virtio.stop("a test")
        await until(lambda: pair.virtio.restarts == 1 and pair.device.up)
        del tap.lies[tap.at(Common.QUEUE_RESET)]
        await trio.sleep(2)
        await pair.transfer(1 << 14)
        assert pair.virtio.restarts == 1


async def test_without_the_feature_the_driver_refuses() -> None:
    async with open_pair(Options(queue_size=16, features_off=("RING_RESET",))) as pair:
        with pytest.raises(FeatureMismatch, match="RING_RESET was not negotiated"):
            await pair.settings.resize(8)
        with pytest.raises(LocalRingError, match="without RING_RESET"):
            await pair.virtio.reset_queue(pair.virtio.queues[0])
        await pair.transfer(1 << 14)


@RINGS
async def test_a_mediator_goes_on_with_the_new_rings(ring: Ring) -> None:
    async with open_pair(attrs.evolve(Mediated(), rings=(ring, ring))) as pair:
        await pair.transfer(1 << 15)
        for num in (8, 32):
            await pair.settings.resize(num)
            await pair.transfer(1 << 15)
        assert pair.virtio.restarts == 0


async def test_over_vhost_user_it_is_not_offered() -> None:
    """QEMU 7.2 would offer it to its guest, and not pass a reset on."""
    with over("vhost_user"):
        async with open_pair(Options(queue_size=16)) as pair:
            assert not pair.vhost.device_features & RESET
