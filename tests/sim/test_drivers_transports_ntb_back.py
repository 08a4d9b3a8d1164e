"""virtio over an NTB: the defects of the RFC that it does not have."""

from __future__ import annotations

from itertools import pairwise

import pytest
import trio

from drivers.errors import ProbeError
from drivers.transports.ntb.end import BEAT
from drivers.transports.ntb.registers import (
    BUFFER_OFFSET,
    RingArea,
    Spad,
)
from support.rigs.ntb import TABLE, WIDE, open_hosts


async def test_the_configuration_is_read_from_the_vhost_sides_bank() -> None:
    """The RFC's driver read its own scratchpads."""
    async with open_hosts() as hosts:
        hosts.start()
        await hosts.wait_up()
        for spad in range(Spad.CONFIG, Spad.CONFIG + 8):
            hosts.ntb.secondary.spads[spad] = 0xBAD_BAD
        assert await hosts.front.read_config(0, 30) == hosts.vhost.config


@pytest.mark.parametrize("offset", range(8))
@pytest.mark.parametrize("size", [1, 2, 3, 4, 6, 8])
async def test_any_bytes_of_the_configuration_are_read_and_written(offset: int, size: int) -> None:
    """The RFC's code could do multiples of 4 only, and its write ignored the offset."""
    async with open_hosts() as hosts:
        hosts.start()
        await hosts.wait_up()
        assert await hosts.front.read_config(offset, size) == hosts.vhost.config[offset : offset + size]
        data = bytes(range(100, 100 + size))
        await hosts.front.write_config(offset, data)
        written = bytearray(30)
        for at, part in hosts.vhost.written:
            written[at : at + len(part)] = part
        assert bytes(written) == bytes(offset) + data + bytes(30 - offset - size)


async def test_the_configuration_ends_where_it_ends() -> None:
    async with open_hosts() as hosts:
        hosts.start()
        await hosts.wait_up()
        assert await hosts.front.read_config(29, 1) == bytes([30])
        for offset, size in ((30, 1), (27, 4), (1000, 4), (-1, 2)):
            with pytest.raises(ProbeError, match="no device configuration"):
                await hosts.front.read_config(offset, size)
            with pytest.raises(ProbeError, match="no device configuration"):
                await hosts.front.write_config(offset, bytes(size))


@pytest.mark.parametrize("queue", range(8))
async def test_a_doorbell_is_a_mask_and_rings_its_own_queue_only(queue: int) -> None:
    """The RFC's code passed the queue's index where the interface takes a mask."""
    async with open_hosts() as hosts:
        hosts.start()
        await hosts.wait_up()
        device = hosts.device
        assert device is not None
        before = [q.kicks for q in hosts.back.device.queues]
        device.queues[queue].kick()
        after = [q.kicks for q in hosts.back.device.queues]
        assert [b - a for a, b in zip(before, after, strict=True)] == [int(i == queue) for i in range(8)]
        hosts.back.call(hosts.back.device.queues[queue])
        assert [q.calls for q in device.queues] == [int(i == queue) for i in range(8)]


@pytest.mark.parametrize("align", [64, 256, 4096, 65536])
async def test_both_sides_agree_on_the_alignment(align: int) -> None:
    """The RFC's two sides each took their own, which worked only if both were equal."""
    async with open_hosts(align=align) as hosts:
        hosts.start()
        await hosts.wait_up()
        assert hosts.peek()[Spad.VIRTIO_ALIGN] == max(align, 64)
        base, area = hosts.front.dma.base, RingArea((64,) * 8, align)
        for index, queue in enumerate(hosts.back.device.queues):
            addrs = area.addrs(base, index, 64)
            assert queue.addrs == addrs
            assert queue.addrs.device % align == 0


async def test_queues_of_different_sizes_do_not_overlap() -> None:
    async with open_hosts() as hosts:
        hosts.vhost.nums = (512, 1, 256, 2, 16)
        hosts.virtio.queues = 5
        hosts.start()
        await hosts.wait_up()
        assert [queue.num for queue in hosts.back.device.queues] == [512, 1, 256, 2, 16]
        starts = [queue.addrs.desc for queue in hosts.back.device.queues]
        assert len({b - a for a, b in pairwise(starts)}) == 1


async def test_a_driver_may_use_smaller_rings_and_fewer_of_them() -> None:
    async with open_hosts() as hosts:
        hosts.virtio.num, hosts.virtio.queues = 16, 3
        hosts.start()
        await hosts.wait_up()
        assert [queue.num for queue in hosts.back.device.queues][:3] == [16] * 3
        assert [queue.enabled for queue in hosts.back.device.queues] == [True] * 3 + [False] * 5


async def test_eight_queues_of_512_move_the_buffers() -> None:
    async with open_hosts() as hosts:
        hosts.vhost.nums = (512,) * 8
        hosts.start()
        await hosts.wait_up()
        assert hosts.peek()[Spad.BUFFER_OFFSET] == RingArea((512,) * 8, 4096).buffer_offset > BUFFER_OFFSET


async def test_status_0_is_written_and_resets_the_device() -> None:
    """In the RFC reset was a command that no device handled, and the status stayed."""
    async with open_hosts() as hosts:
        hosts.start()
        await hosts.wait_up()
        hosts.host2.virtio.binding(hosts.front._device).scope.cancel()  # type: ignore[arg-type, union-attr]
        await trio.sleep(0.1)
        await hosts.front.reset()
        assert await hosts.front.get_status() == hosts.back.device.status == 0
        assert (hosts.back.device.driver_features, hosts.back.device.features) == (0, 0)
        assert not any(queue.enabled for queue in hosts.back.device.queues)


async def test_features_beyond_64_are_negotiated() -> None:
    """The RFC had two words of them."""
    async with open_hosts() as hosts:
        hosts.virtio.refuse = 1 << WIDE[1]
        hosts.start()
        await hosts.wait_up()
        assert hosts.back.device.features == hosts.vhost.features & ~(1 << WIDE[1])
        assert TABLE.describe(hosts.back.device.features)[-1] == "WIDE_70"


async def test_a_side_that_does_nothing_is_not_looked_at_more_often_than_it_beats() -> None:
    """The RFC polled its command word every millisecond."""
    async with open_hosts() as hosts:
        hosts.start()
        await hosts.wait_up()
        await trio.sleep(BEAT)
        before = [link.statistics().downstream for link in hosts.links]
        await trio.sleep(10)
        for link, first in zip(hosts.links, before, strict=True):
            now = link.statistics().downstream
            assert (now.reads + now.writes - first.reads - first.writes) / (10 / BEAT) < 16
        assert hosts.back.rescues == hosts.front.rescues == 0


async def test_commands_are_announced_by_doorbell_and_take_no_time() -> None:
    async with open_hosts() as hosts:
        hosts.start()
        await hosts.wait_up()
        began = trio.current_time()
        for _ in range(100):
            await hosts.front.write_config(0, b"x")
        assert trio.current_time() == began
