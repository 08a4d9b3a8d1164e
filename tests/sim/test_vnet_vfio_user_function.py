"""The function that a vfio-user client sees: its own registers, accesses of any size, resets, and its link."""

from __future__ import annotations

import errno

import pytest

from drivers.transports.pci.back import BAR, COMMON_AT
from drivers.transports.pci.registers import Common
from support.rigs.vfio_user import COMMAND_BITS, C, open_bench, plug
from support.rigs.vfio_user_hostile import refuses
from vnet.pcie.config_space import BARS, CAP_PCI_EXPRESS, COMMAND, DEVICE_CONTROL
from vnet.vfio_user.accesses import RegionRead, RegionWrite
from vnet.vfio_user.constants import Region

BLK_ID = 0x1042_1AF4


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


@pytest.mark.parametrize("by_message", [True, False])
async def test_a_reset_restores_registers_and_keeps_interrupts(by_message: bool) -> None:
    async with open_bench(plug()) as bench, bench.client() as client:
        await client.share()
        await client.bring_up()
        await client.write(Region.CONFIG, BARS, (0xFE00_0000).to_bytes(8, "little"))
        if by_message:
            await client.do(C.DEVICE_RESET)
        else:
            assert bench.server.handle is not None
            at = bench.server.handle.capability(CAP_PCI_EXPRESS)
            assert at is not None
            await client.write(Region.CONFIG, at + DEVICE_CONTROL, b"\0\x80")
        assert await client.read(Region.CONFIG, BARS, 8) == b"\x04" + bytes(7)
        assert await client.read(Region.CONFIG, COMMAND, 2) == bytes(2)
        await client.write(Region.CONFIG, COMMAND, COMMAND_BITS.to_bytes(2, "little"))
        assert await client.get(Common.DEVICE_STATUS) == 0
        await client.bring_up()
        await client.works()
        assert client.called()


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


@pytest.mark.hostile("W10")
async def test_reads_of_any_size_and_place_give_the_bytes_there() -> None:
    async with open_bench(plug()) as bench, bench.client() as client:
        await client.write(Region.CONFIG, COMMAND, COMMAND_BITS.to_bytes(2, "little"))
        whole = await client.read(Region.CONFIG, 0, 4096)
        for size in (1, 2, 3, 5, 8, 100):
            for offset in (0, 1, 3, 0x3F, 4096 - size):
                assert await client.read(Region.CONFIG, offset, size) == whole[offset : offset + size]
                await client.read(BAR, offset, size)
        for region, offset, size in (
            *((Region.CONFIG, 4096, 1), (Region.CONFIG, 4095, 2), (Region.CONFIG, (1 << 64) - 1, 1)),
            *((BAR, 0x4000, 1), (BAR, 0x3FFF, 2), (1, 0, 1), (Region.ROM, 0, 1), (Region.VGA, 0, 1)),
            *((9, 0, 1), (0xFFFFFFFF, 0, 1)),
        ):
            await refuses(client, errno.EINVAL, C.REGION_READ, RegionRead(offset, region, size))
            await refuses(client, errno.EINVAL, C.REGION_WRITE, RegionWrite(offset, region, bytes(size)))
