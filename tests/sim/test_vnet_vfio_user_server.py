"""A PCI function served to a vfio-user client: its driver, its memory, its interrupts, and links in between."""

from __future__ import annotations

import errno
import json
import os
import random
import struct

import pytest
import trio

from drivers.devices.blk import BlkPlug
from drivers.errors import TransportLost
from drivers.transports.pci.back import BAR, COMMON_AT, MSIX_BAR, NOTIFY_AT
from drivers.transports.pci.registers import Common
from rings.status import Status
from support.rigs.vfio_user import COMMAND_BITS, MIB, C, open_bench
from vnet.link.base import Link
from vnet.link.faulty import FaultyLink
from vnet.link.timed import TimedLink
from vnet.link.traced import TracedLink
from vnet.linux.ipc import FileHandle
from vnet.pcie.config_space import BARS, CAP_PCI_EXPRESS, COMMAND, DEVICE_CONTROL
from vnet.testing.blk import StubbornStore
from vnet.vfio_user.constants import DATA_MAX, FDS_MAX, DeviceFlag, HeaderFlag, IrqFlag, IrqSet, IrqType, Region
from vnet.vfio_user.messages import emit
from vnet.vfio_user.payloads import DeviceInfo, DmaUnmap, IrqInfo, RegionInfo, RegionIoFds, RegionWrite, RegionWrites

BLK_ID = 0x1042_1AF4
SIZES = {0: 0x4000, 2: 128, Region.CONFIG: 4096}


def plug() -> BlkPlug:
    return BlkPlug(StubbornStore(MIB))


async def test_version_and_information() -> None:
    async with open_bench(plug()) as bench, bench.client(agree=False) as client:
        body = await client.do(C.VERSION, struct.pack("<HH", 0, 5) + b'{"capabilities":{"write_multiple":true}}\0')
        assert body[:4] == bytes(4)
        assert body[-1] == 0
        capabilities = json.loads(body[4:-1])["capabilities"]
        assert capabilities["write_multiple"] is True
        assert (capabilities["max_msg_fds"], capabilities["max_data_xfer_size"]) == (FDS_MAX, DATA_MAX)
        info = DeviceInfo.parse(await client.do(C.DEVICE_GET_INFO, DeviceInfo(16, 0, 0, 0)))
        assert (info.flags, info.regions, info.irqs) == (DeviceFlag.RESET | DeviceFlag.PCI, 9, 5)
        for index in range(9):
            question = RegionInfo(32, 0, index, 0, 0, 0)
            region = RegionInfo.parse(await client.do(C.DEVICE_GET_REGION_INFO, question))
            assert (region.index, region.size) == (index, SIZES.get(index, 0))
            assert region.flags == (3 if index in SIZES else 0)
        irqs = [IrqInfo.parse(await client.do(C.DEVICE_GET_IRQ_INFO, IrqInfo(16, 0, i, 0))) for i in range(5)]
        assert [irq.count for irq in irqs] == [1, 0, 2, 0, 0]
        assert irqs[IrqType.INTX].flags == IrqFlag.EVENTFD | IrqFlag.MASKABLE | IrqFlag.AUTOMASKED


async def test_the_client_has_its_own_bars_and_command_register() -> None:
    async with open_bench(plug()) as bench, bench.client() as client:
        assert await client.read(Region.CONFIG, 0, 4) == BLK_ID.to_bytes(4, "little")
        assert await client.read(Region.CONFIG, BARS, 8) == b"\x04" + bytes(7)
        await client.write(Region.CONFIG, BARS, b"\xff" * 8)
        assert await client.read(Region.CONFIG, BARS, 8) == b"\x04\xc0" + b"\xff" * 6
        await client.write(Region.CONFIG, BARS, (0xFE00_0000).to_bytes(8, "little"))
        assert await client.read(Region.CONFIG, BARS, 8) == (0xFE00_0004).to_bytes(8, "little")
        assert await client.read(Region.CONFIG, COMMAND, 2) == bytes(2)
        assert await client.read(BAR, COMMON_AT, 4) == b"\xff" * 4  # memory space is off
        await client.write(Region.CONFIG, COMMAND, COMMAND_BITS.to_bytes(2, "little"))
        assert await client.get(Common.NUM_QUEUES) == 1
        whole = await client.read(Region.CONFIG, 0, 4096)
        assert whole[: BARS + 8] == await client.read(Region.CONFIG, 0, BARS + 8)


@pytest.mark.parametrize("msix", [True, False])
async def test_a_disk_works_and_interrupts_by_eventfd(msix: bool) -> None:
    async with open_bench(plug()) as bench, bench.client() as client:
        await client.share()
        await client.bring_up(msix=msix)
        await client.works()
        if msix:
            assert client.called() >= 2
            return
        assert client.called() == 1  # it masks itself until the client unmasks it
        await client.works()
        assert client.called() == 0
        unmask = IrqSet.NONE | IrqSet.UNMASK
        assert not (await client.set_irqs(unmask, IrqType.INTX, 0, 1)).error
        assert client.called() == 1
        await client.read(BAR, 0x1000, 1)  # the ISR: the line falls
        assert not (await client.set_irqs(unmask, IrqType.INTX, 0, 1)).error
        assert client.called() == 0


async def test_interrupts_are_triggered_taken_away_and_turned_off_by_the_client() -> None:
    trigger = IrqSet.TRIGGER
    async with open_bench(plug()) as bench, bench.client() as client:
        await client.share()
        await client.bring_up()
        assert not (await client.set_irqs(IrqSet.NONE | trigger, IrqType.MSIX, 1, 1)).error
        assert client.called() == 1
        for flags, start, count in ((IrqSet.EVENTFD | trigger, 1, 1), (IrqSet.NONE | trigger, 0, 0)):
            assert not (await client.set_irqs(flags, IrqType.MSIX, start, count)).error
            await client.works()
            assert client.called() == 0
            if count:
                assert not (await client.set_irqs(flags, IrqType.MSIX, 1, 1, [client.call_fd])).error
                await client.works()
                assert client.called()


async def test_a_doorbell_by_eventfd_needs_no_message() -> None:
    async with open_bench(plug()) as bench, bench.client() as client:
        await client.share()
        await client.bring_up()
        answer = await client.ask(C.DEVICE_GET_REGION_IO_FDS, RegionIoFds(4096, 0, BAR))
        assert struct.unpack_from("<IIIIQQI", answer.body) == (56, 0, BAR, 1, NOTIFY_AT, 2, 0)
        [bell] = answer.handles
        assert isinstance(bell, FileHandle)
        before = bench.server.statistics.messages
        data = os.urandom(4096)
        assert await client.request(data, lambda: os.eventfd_write(bell.fileno(), 1)) == data + b"\0"
        assert bench.server.statistics.messages == before
        bell.close()
        answer = await client.ask(C.DEVICE_GET_REGION_IO_FDS, RegionIoFds(16, 0, BAR))
        assert struct.unpack("<IIII", answer.body) == (56, 0, BAR, 0)
        assert answer.handles == []
        answer = await client.ask(C.DEVICE_GET_REGION_IO_FDS, RegionIoFds(4096, 0, MSIX_BAR))
        assert answer.body == struct.pack("<IIII", 16, 0, MSIX_BAR, 0)


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
            await client.works()
        assert await client.get(Common.DEVICE_STATUS) & Status.DRIVER_OK
        assert not await client.get(Common.DEVICE_STATUS) & Status.NEEDS_RESET


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


async def test_unmapped_memory_counts_after_a_silence_too() -> None:
    async with open_bench(plug()) as bench, bench.client() as client:
        await client.share()
        await client.bring_up()
        await client.do(C.DMA_UNMAP, DmaUnmap(24, 2, 0, 0))
        assert bench.server.memory.unsettled
        with trio.fail_after(30):
            while bench.server.memory.unsettled:  # noqa: ASYNC110  there is nothing else to wait for
                await trio.sleep(0.1)


@pytest.mark.parametrize("by_message", [True, False])
async def test_a_reset_restores_registers_and_keeps_interrupts(by_message: bool) -> None:
    async with open_bench(plug()) as bench, bench.client() as client:
        await client.share()
        await client.bring_up()
        await client.write(Region.CONFIG, BARS, (0xFE00_0000).to_bytes(8, "little"))
        if by_message:
            await client.do(C.DEVICE_RESET)
        else:
            at = bench.server.rc.functions[0].capability(CAP_PCI_EXPRESS)
            assert at is not None
            await client.write(Region.CONFIG, at + DEVICE_CONTROL, b"\0\x80")
        assert await client.read(Region.CONFIG, BARS, 8) == b"\x04" + bytes(7)
        assert await client.read(Region.CONFIG, COMMAND, 2) == bytes(2)
        await client.write(Region.CONFIG, COMMAND, COMMAND_BITS.to_bytes(2, "little"))
        assert await client.get(Common.DEVICE_STATUS) == 0
        await client.bring_up()
        await client.works()
        assert client.called()


async def test_several_writes_in_one_message() -> None:
    async with open_bench(plug()) as bench, bench.client() as client:
        await client.write(Region.CONFIG, COMMAND, COMMAND_BITS.to_bytes(2, "little"))
        writes = tuple(RegionWrite(COMMON_AT + Common.DEVICE_STATUS, BAR, bytes((status,))) for status in (1, 3))
        assert await client.do(C.REGION_WRITE_MULTI, RegionWrites(writes)) == (2).to_bytes(8, "little")
        assert await client.get(Common.DEVICE_STATUS) == 3


async def test_accesses_travel_timed_faulty_and_traced_links() -> None:
    lines: list[str] = []

    def wrap(link: Link) -> Link:
        return TracedLink(FaultyLink(TimedLink(link), random.Random(1), ()), lines.append)

    async with open_bench(plug(), wrap) as bench, bench.client() as client:
        await client.share()
        await client.bring_up()
        await client.works()
        lines.clear()
        await client.read(Region.CONFIG, 0, 4)
        assert any("cfg" in line.lower() or "config" in line.lower() for line in lines), lines
        timing = bench.link.statistics().timing
        assert timing is not None
        assert timing.upstream.payload > 64 << 10


async def test_a_client_outlives_a_link_that_goes_down_and_up() -> None:
    async with open_bench(plug()) as bench, bench.client() as client:
        await client.share()
        await client.bring_up()
        await client.works()
        bench.link.bring_down()
        assert await client.read(Region.CONFIG, 0, 4) == b"\xff" * 4
        bench.link.bring_up()
        assert await client.get(Common.DEVICE_STATUS) == 0
        await client.bring_up()
        await client.works()


async def test_a_second_client_is_refused_and_the_next_one_served() -> None:
    async with open_bench(plug()) as bench:
        async with bench.client() as client:
            await client.share()
            await client.bring_up()
            async with bench.another() as other:
                with pytest.raises((EOFError, TransportLost)):
                    await other.agree()
            await client.works()
        assert bench.server.statistics.refused == 1
        assert bench.server.memory.mappings == 0
        await bench.serves_another()


async def test_commands_without_a_reply() -> None:
    async with open_bench(plug()) as bench, bench.client() as client:
        await client.send(emit(7, C.DMA_MAP, client.mapping(), HeaderFlag.NO_REPLY), [client.memory.fd])
        answer = await client.ask(C.DMA_MAP, client.mapping(), [client.memory.fd])
        assert answer.error == errno.EEXIST
        await client.bring_up()
        await client.works()
