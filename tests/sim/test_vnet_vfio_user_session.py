"""The session of a vfio-user client: its version, what it may ask, and commands in the wrong place."""

from __future__ import annotations

import errno
import json
import os
import struct

import pytest

from drivers.transports.pci.back import BAR, COMMON_AT, MSIX_BAR, NOTIFY_AT
from drivers.transports.pci.registers import Common
from support.rigs.vfio_user import COMMAND_BITS, C, open_bench, plug
from support.rigs.vfio_user_hostile import closes, refuses
from vnet.linux.ipc import FileHandle
from vnet.pcie.config_space import COMMAND
from vnet.vfio_user.accesses import RegionWrite, RegionWrites
from vnet.vfio_user.constants import DATA_MAX, FDS_MAX, DeviceFlag, IrqFlag, IrqType, Region
from vnet.vfio_user.messages import emit
from vnet.vfio_user.payloads import DeviceInfo, IrqInfo, RegionInfo, RegionIoFds, Version

SIZES = {0: 0x4000, 2: 128, Region.CONFIG: 4096}


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


async def test_several_writes_in_one_message() -> None:
    async with open_bench(plug()) as bench, bench.client() as client:
        await client.write(Region.CONFIG, COMMAND, COMMAND_BITS.to_bytes(2, "little"))
        writes = tuple(RegionWrite(COMMON_AT + Common.DEVICE_STATUS, BAR, bytes((status,))) for status in (1, 3))
        assert await client.do(C.REGION_WRITE_MULTI, RegionWrites(writes)) == (2).to_bytes(8, "little")
        assert await client.get(Common.DEVICE_STATUS) == 3


@pytest.mark.hostile("W03")
async def test_an_unknown_command_is_refused() -> None:
    async with open_bench(plug()) as bench, bench.client() as client:
        for command in (0, 11, 12, 14, 16, 17, 18, 999):
            answer = await client.ask(command, bytes(16))
            assert answer.error == errno.EOPNOTSUPP
        assert bench.troubles[0] == "command 0 is unknown"


@pytest.mark.hostile("W05")
@pytest.mark.parametrize("command", sorted(set(C) - {C.VERSION}))
async def test_a_command_before_the_version(command: C) -> None:
    await closes(lambda client: client.send(emit(1, command)), agree=False)


@pytest.mark.hostile("W05")
@pytest.mark.parametrize(
    "body", [b"", bytes(3), struct.pack("<HH", 1, 0), bytes(4) + b"x\0", bytes(4) + b"[" * 4000 + b"\0"]
)
async def test_a_version_that_can_not_be(body: bytes) -> None:
    head = struct.pack("<HHIII", 1, C.VERSION, 16 + len(body), 0, 0)
    await closes(lambda client: client.send(head + body), agree=False)


@pytest.mark.hostile("W05")
async def test_a_second_version_is_refused() -> None:
    async with open_bench(plug()) as bench, bench.client() as client:
        await refuses(client, errno.EINVAL, C.VERSION, Version(0, 0))


@pytest.mark.hostile("W12")
async def test_several_writes_stop_at_the_first_that_can_not_be() -> None:
    async with open_bench(plug()) as bench, bench.client() as client:
        for count in (1 << 32, (1 << 64) - 1):
            await refuses(client, errno.EINVAL, C.REGION_WRITE_MULTI, count.to_bytes(8, "little") + bytes(24))
        one = struct.pack("<QQIIQ", 1, 0x4000, BAR, 1, 0)
        await refuses(client, errno.EINVAL, C.REGION_WRITE_MULTI, one)
