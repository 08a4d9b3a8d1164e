"""The block driver against a hostile device: each bad answer has its exact outcome."""

from __future__ import annotations

import struct

import pytest
import trio
import trio.testing

from drivers.bus.binding import BindState
from drivers.devices.blk import DiskError
from drivers.devices.blk.driver.driver import SLOT, STATUS_AT
from drivers.devices.blk.layout import SUPPORTED, TABLE, BlkConfigField
from drivers.transports.pci.registers import CfgType
from rings.features import RingFeature
from rings.status import Status
from rings.testing import Act
from support.rigs.blk import TWO, answer
from support.rigs.watched import watched_memory
from vnet.testing.blk import BlkOptions, open_blk_pair
from vnet.testing.checks import unharmed, until
from vnet.testing.hostile import hostile_device
from vnet.testing.tapped import tapped


@pytest.mark.hostile("D03", "D02")
@pytest.mark.parametrize(
    ("status", "size", "cause"),
    [
        (0, 512, "used_length"),
        (0, 0, "used_length"),
        (0, 514, "used_length"),
        (0xFF, 513, "no_status"),
        (3, 513, "no_status"),
    ],
)
async def test_no_byte_is_handed_up_that_the_device_did_not_say_it_wrote(status: int, size: int, cause: str) -> None:
    async with open_blk_pair(BlkOptions(queue_size=16)) as pair:
        store = pair.store
        store.at_once, store.gate = False, trio.Event()
        async with trio.open_nursery() as nursery:

            async def read() -> None:
                into = bytearray(512)
                with pytest.raises(DiskError, match="IOERR"):
                    await pair.disk.read_into(0, memoryview(into))
                assert into == bytes(512)

            nursery.start_soon(read)
            await until(lambda: store.inside == 1)
            answer(pair, status, size)
        assert pair.disk.figures[0].errors == {cause: 1}
        store.gate.set()
        store.at_once, store.gate = True, None
        await pair.reset()
        await pair.transfer()


@pytest.mark.hostile("D01", "D05")
async def test_a_ring_that_the_device_breaks_is_reset_and_its_requests_are_done() -> None:
    async with open_blk_pair(BlkOptions(queue_size=16)) as pair:
        store = pair.store
        store.data[:512] = b"d" * 512
        for breaks in ("index", "head"):
            store.at_once, store.gate = False, trio.Event()
            actual = b""

            async def read() -> None:
                nonlocal actual
                actual = await pair.disk.read(0, 512)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(read)
                await until(lambda: store.inside == 1)
                async with hostile_device(pair) as device:
                    if breaks == "index":
                        device.rings[0].used_idx += 9
                    else:
                        device.rings[0].give(99, 513)
                    device.call(0)
                    await trio.testing.wait_all_tasks_blocked()
                store.gate.set()
            assert actual == b"d" * 512
        store.gate = None
        assert pair.disk.figures[0].queued == 2


@pytest.mark.hostile("D07")
@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        (BlkConfigField.BLK_SIZE, 3, "blocks of 3 bytes"),
        (BlkConfigField.BLK_SIZE, 1 << 31, "blocks of 2147483648 bytes"),
        (BlkConfigField.SIZE_MAX, 1, "segments of 1 bytes"),
        (BlkConfigField.NUM_QUEUES, 0, "no queues"),
    ],
)
async def test_a_configuration_that_can_not_be_is_refused_in_one_sentence(
    field: BlkConfigField, value: int, why: str
) -> None:
    async with open_blk_pair(TWO) as pair, unharmed(pair), tapped(pair) as tap:
        config = tap.structures[CfgType.DEVICE]
        tap.lies[config.bar, config.offset + field.value[0]] = lambda _: value
        pair.rc.pci.register_device(tap)
        await until(
            lambda: pair.device.virtio is not None and pair.rc.virtio.binding(pair.virtio).state is BindState.FAILED
        )
        assert why in pair.rc.virtio.binding(pair.virtio).error
        assert pair.vhost.status == Status.FAILED
        tap.lies.clear()


@pytest.mark.hostile("D07")
async def test_segments_are_as_small_and_as_few_as_the_device_wants_them() -> None:
    async with open_blk_pair(TWO) as pair, tapped(pair) as tap:
        config = tap.structures[CfgType.DEVICE]
        for field, value in ((BlkConfigField.SIZE_MAX, 4096), (BlkConfigField.SEG_MAX, 0)):
            tap.lies[config.bar, config.offset + field.value[0]] = lambda _, value=value: value  # type: ignore[misc]
        pair.rc.pci.register_device(tap)
        await pair.world.wait_up()
        assert pair.disk.transfer_max == 4096
        await pair.transfer(64 << 10)
        tap.lies.clear()


@pytest.mark.hostile("D12")
async def test_nothing_reaches_the_device_but_the_request() -> None:
    async with open_blk_pair() as pair:
        with watched_memory(pair) as actual:
            await pair.reset()
            await pair.disk.write(0, b"x" * 512)
        reads = [access for memory in actual for access in memory.log if access.act is Act.READ]
        # The indirect table, the header, the data, each as long as it is: no slot, no piece as a whole.
        assert [access.size for access in reads] == [3 * 16, 16, 512]


def test_a_slot_has_room_for_all_its_parts() -> None:
    assert STATUS_AT < SLOT
    assert struct.calcsize("<16s16s20s4xB") <= SLOT
    assert TABLE.known() & SUPPORTED == SUPPORTED
    assert SUPPORTED >> RingFeature.VERSION_1 & 1
