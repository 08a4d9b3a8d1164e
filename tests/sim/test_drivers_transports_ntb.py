"""virtio over an NTB: bring-up in every order of starts."""

from __future__ import annotations

import random
from itertools import permutations

import attrs
import pytest
import trio

from drivers.transports.ntb.registers import (
    BUFFER_OFFSET,
    VERSION,
    NtbSide,
    Spad,
)
from rings.status import Status
from support.rigs.ntb import DEVICE_ID, MIB, ThreeHosts, open_hosts

RUNNING = Status.ACKNOWLEDGE | Status.DRIVER | Status.FEATURES_OK | Status.DRIVER_OK
STEPS = ("start_device", "start_back", "start_front", "start_driver", "link 0", "link 1")


def step(hosts: ThreeHosts, name: str) -> None:
    if name.startswith("link"):
        hosts.start_link(int(name[-1]))
    else:
        getattr(hosts, name)()


@pytest.mark.parametrize("seed", range(100))
async def test_parts_that_start_in_any_order_come_to_the_same_end(seed: int) -> None:
    order = list(STEPS)
    dice = random.Random(seed)
    dice.shuffle(order)
    async with open_hosts() as hosts:
        for name in order:
            step(hosts, name)
            if dice.random() < 0.5:
                await trio.sleep(dice.random() / 10)
        await hosts.wait_up()
        device = hosts.device
        assert device is not None
        assert (device.device_id, device.vendor_id, device.status) == (DEVICE_ID, 0x1AF4, RUNNING)
        assert device.features == hosts.vhost.features == hosts.back.device.features
        assert [queue.num for queue in hosts.back.device.queues] == [64] * 8
        assert all(queue.live for queue in device.queues)
        assert all(queue.live for queue in hosts.back.device.queues)
        assert hosts.virtio.config == hosts.vhost.config
        assert (device.restarts, hosts.vhost.runs) == (0, 1)


def test_the_orders_are_all_there_are() -> None:
    assert len(list(permutations(STEPS))) == 720


async def test_the_scratchpads_read_as_the_table_says() -> None:
    async with open_hosts() as hosts:
        hosts.start()
        await hosts.wait_up()
        words, front = hosts.peek(), hosts.front
        features = hosts.vhost.features
        assert words == words | {
            Spad.TYPE: NtbSide.VIRTIO,
            Spad.VENDOR_ID: 0x1AF4,
            Spad.DEVICE_ID: DEVICE_ID,
            Spad.VHOST_FEATURES_LO: features & 0xFFFF_FFFF,
            Spad.VHOST_FEATURES_HI: features >> 32 & 0xFFFF_FFFF,
            Spad.VIRTIO_FEATURES_LO: features & 0xFFFF_FFFF,
            Spad.VIRTIO_FEATURES_HI: features >> 32 & 0xFFFF_FFFF,
            Spad.MW0_SIZE_LO: 4 * MIB,
            Spad.MW0_SIZE_HI: 0,
            Spad.MW0_ADDR_LO: front.dma.base & 0xFFFF_FFFF,
            Spad.MW0_ADDR_HI: front.dma.base >> 32,
            Spad.STATUS: RUNNING,
            Spad.NUM_BUFFERS: 64,
            Spad.VERSION: VERSION,
            Spad.SESSION: 1,
            Spad.READY: 1,
            Spad.VIRTIO_SESSION: 1,
            Spad.BUFFER_OFFSET: BUFFER_OFFSET,
        }
        assert hosts.ntb.secondary.spads[Spad.TYPE] == NtbSide.VHOST
        config = b"".join(hosts.spad(Spad.CONFIG + i).to_bytes(4, "little") for i in range(8))
        assert config[:30] == hosts.vhost.config


async def test_neither_end_is_ready_while_only_one_requested_the_link() -> None:
    async with open_hosts() as hosts:
        hosts.start_device()
        hosts.start_back()
        hosts.start_link(0)
        hosts.start_link(1)
        await trio.sleep(1)
        assert not hosts.ntb.link_is_up
        assert hosts.peek()[Spad.SESSION] == 0
        hosts.start_front()
        hosts.start_driver()
        await hosts.wait_up()
        assert hosts.ntb.link_is_up


async def test_no_ring_is_touched_before_driver_ok() -> None:
    async with open_hosts() as hosts:
        hosts.start()
        hosts.host2.virtio._drivers.clear()
        await trio.sleep(0.2)
        assert hosts.device is not None
        assert hosts.vhost.runs == 0
        assert not any(queue.live for queue in hosts.back.device.queues)
        hosts.start_driver()
        await hosts.wait_up()


async def test_everything_a_driver_allocates_lies_in_the_window_and_comes_back() -> None:
    async with open_hosts() as hosts:
        hosts.start()
        await hosts.wait_up()
        front = hosts.front
        memory = hosts.host2.memory.statistics()
        buffers = [front.dma.alloc(size) for size in (1, 64, 5000, MIB)]
        low, high = front.dma.base + BUFFER_OFFSET, front.dma.base + 4 * MIB
        assert all(low <= buffer.addr and buffer.addr + buffer.size <= high for buffer in buffers)
        assert hosts.host2.memory.statistics() == memory
        rings = [state for queue in hosts.back.device.queues for state in attrs.astuple(queue.addrs)]
        assert all(front.dma.base <= at < low for at in rings)
        with pytest.raises(MemoryError):
            front.dma.alloc(4 * MIB)
        for buffer in buffers:
            front.dma.free(buffer)
        assert front.dma.alloc(100).addr == buffers[0].addr


async def test_memory_handed_out_again_is_zeroed() -> None:
    async with open_hosts() as hosts:
        hosts.start()
        await hosts.wait_up()
        dma = hosts.front.dma
        buffer = dma.alloc(5000)
        dma.view(buffer.addr, 5000, True)[:] = b"x" * 5000
        dma.free(buffer)
        assert not any(dma.view(dma.alloc(5000).addr, 5000))


async def test_a_driver_that_goes_resets_the_device_and_the_next_one_finds_it() -> None:
    async with open_hosts() as hosts:
        hosts.start()
        await hosts.wait_up()
        resets = hosts.back.device.resets
        await hosts.host2.virtio.unregister_driver(hosts.virtio)
        assert hosts.back.device.resets > resets
        assert hosts.peek()[Spad.STATUS] == 0
        assert hosts.front.dma.used == 0
        hosts.start_driver()
        await hosts.wait_up()
        assert (hosts.vhost.runs, hosts.back.session) == (2, 1)


async def test_a_device_that_is_withdrawn_ends_the_session_and_its_return_begins_another() -> None:
    async with open_hosts() as hosts:
        hosts.start()
        await hosts.wait_up()
        await hosts.host1.vhost.unregister_driver(hosts.vhost)
        await trio.sleep(0.1)
        assert not hosts.front.online
        assert hosts.back.session == 0
        hosts.host1.vhost.register_driver(hosts.vhost)
        await hosts.wait_up()
        assert hosts.back.session == hosts.front.session == 2


async def test_100_starts_and_ends_leave_nothing_behind() -> None:
    async with open_hosts() as hosts:
        hosts.start()
        await hosts.wait_up()
        before = None
        for at in range(100):
            link = hosts.links[at % 2]
            link.bring_down()
            await trio.sleep(0.01)
            link.bring_up()
            await hosts.wait_up()
            now = (
                hosts.host2.memory.statistics().used,
                hosts.front.dma.used,
                [link.statistics().windows for link in hosts.links],
                len(hosts.controllers[1]._pool.mapped),
                trio.lowlevel.current_statistics().tasks_living,
            )
            assert before in (None, now)
            before = now
