"""The memory that a vfio-user client shares: mappings that come and go below rings, and those that can not be."""

from __future__ import annotations

import errno
import os
import socket as socket_module

import pytest
import trio
import trio.lowlevel
import trio.testing

from drivers.transports.pci.registers import Common
from rings.errors import MemoryFault
from rings.memory import Addr
from rings.status import Status
from support.rigs.vfio_user import MIB, C, open_bench, plug
from support.rigs.vfio_user_hostile import refuses
from vnet.vfio_user.constants import MAPS_MAX
from vnet.vfio_user.payloads import DmaMap, DmaUnmap
from vnet.vfio_user.server import MSI_AT

PAGE = 4096
RUNNING = Status.ACKNOWLEDGE | Status.DRIVER | Status.FEATURES_OK | Status.DRIVER_OK


@pytest.mark.hostile("W09")
async def test_rings_outlive_memory_that_is_mapped_again_in_other_parts() -> None:
    async with open_bench(plug()) as bench, bench.client() as client:
        await client.share()
        await client.bring_up()
        await client.works()
        half = MIB // 2
        for parts in [((0, half), (half, half)), ((0, MIB),)] * 12:
            for mapping in list(bench.server.memory.ranges):
                await client.unshare(mapping[0] - client.memory.base, mapping[1])
            for start, size in parts:
                await client.share(start, size)
            await client.ring_doorbell()
            assert await client.get(Common.DEVICE_STATUS) == RUNNING
            await client.works()
        assert await client.get(Common.DEVICE_STATUS) == RUNNING


@pytest.mark.hostile("W08")
async def test_memory_that_stays_unmapped_breaks_its_rings_until_a_reset() -> None:
    async with open_bench(plug()) as bench, bench.client() as client:
        await client.share()
        await client.bring_up()
        await client.unshare()
        await client.ring_doorbell()
        with trio.fail_after(5):
            while not await client.get(Common.DEVICE_STATUS) & Status.NEEDS_RESET:
                await client.ring_doorbell()
        await client.share()
        await client.bring_up()
        await client.works()


@pytest.mark.hostile("W06")
async def test_mappings_that_can_not_be_leave_the_others() -> None:
    async with open_bench(plug()) as bench, bench.client() as client:
        await client.share()
        base, fd = client.memory.base, [client.memory.fd]
        for start, size in ((base, PAGE), (base + PAGE, PAGE), (base - PAGE, 2 * PAGE), (0, 1 << 40)):
            await refuses(client, errno.EEXIST, C.DMA_MAP, DmaMap(32, 3, 0, start, size), fd)
        for offset, size in ((MIB, PAGE), (PAGE, MIB), (1 << 62, PAGE)):
            await refuses(client, errno.EINVAL, C.DMA_MAP, DmaMap(32, 3, offset, 0, size), fd)
        await refuses(client, errno.EINVAL, C.DMA_MAP, DmaMap(32, 3, 0, MSI_AT, PAGE), fd)
        await client.bring_up()
        await client.works()


@pytest.mark.hostile("W06")
async def test_more_mappings_than_there_may_be() -> None:
    async with open_bench(plug()) as bench, bench.client() as client:
        for i in range(MAPS_MAX):
            await client.do(C.DMA_MAP, DmaMap(32, 3, 0, i * PAGE, PAGE), [client.memory.fd] if i % 2 else [])
        await refuses(client, errno.ENOSPC, C.DMA_MAP, DmaMap(32, 3, 0, MAPS_MAX * PAGE, PAGE), [client.memory.fd])
        await client.do(C.DMA_UNMAP, DmaUnmap(24, 2, 0, 0))
        assert bench.server.memory.mappings == 0


@pytest.mark.hostile("W07")
async def test_memory_of_another_kind_is_refused() -> None:
    async with open_bench(plug()) as bench, bench.client() as client:
        ours, theirs = socket_module.socketpair()
        pipe, folder, event = os.pipe(), os.open("/tmp", os.O_RDONLY), os.eventfd(0)
        unsealed = os.memfd_create("unsealed")
        os.ftruncate(unsealed, MIB)
        for fd in (folder, ours.fileno(), pipe[0], event, unsealed):
            await refuses(client, errno.EINVAL, C.DMA_MAP, client.mapping(), [fd])
        assert "not sealed against shrinking" in bench.troubles[-1]
        for fd in (*pipe, folder, event, unsealed):
            os.close(fd)
        ours.close()
        theirs.close()
        await client.share()


async def test_read_only_memory_is_not_written() -> None:
    async with open_bench(plug()) as bench, bench.client() as client:
        await client.do(C.DMA_MAP, client.mapping(flags=1), [client.memory.fd])
        assert bench.server.memory.view(client.memory.base, PAGE).readonly
        await client.do(C.DMA_MAP, DmaMap(32, 1, 0, 0, PAGE))
        for start in (client.memory.base, Addr(0)):
            with pytest.raises(MemoryFault, match="did not share"):
                bench.server.memory.view(start, PAGE, True)


@pytest.mark.hostile("W08")
async def test_ends_of_mappings_that_do_not_exist() -> None:
    async with open_bench(plug()) as bench, bench.client() as client:
        await client.share()
        base = client.memory.base
        for start, size in ((0, PAGE), (base, PAGE), (base + PAGE, MIB - PAGE), (base, 2 * MIB)):
            await refuses(client, errno.ENOENT, C.DMA_UNMAP, DmaUnmap(24, 0, start, size))
        await client.bring_up()
        await client.works()
