"""The SCSI driver: configuration, and stores that wait or fail."""

from __future__ import annotations

import errno
import os

import pytest
import trio
import trio.testing

from drivers.devices.scsi import (
    Asc,
    Lun,
    Response,
    ScsiError,
    SenseKey,
)
from drivers.devices.scsi import cdb as commands
from drivers.devices.scsi.cdb import Op
from drivers.devices.scsi.device.request import VhostScsiRequest
from drivers.devices.scsi.layout import ScsiConfig, ScsiConfigField
from drivers.errors import ProbeError
from drivers.transports.pci.registers import CfgType
from rings.chain import Chain
from support.rigs.scsi_host import TWO, exercise, sense
from vnet.testing.scsi import ScsiOptions, open_scsi_pair
from vnet.testing.tapped import tapped

KIB, MIB = 1 << 10, 1 << 20

# Configuration


@pytest.mark.virtio("SCSI-DEV-2")
async def test_the_sizes_of_sense_and_cdb_are_the_drivers_until_a_reset() -> None:
    async with open_scsi_pair() as pair:
        ops, size = pair.virtio.ops, ScsiConfigField.SENSE_SIZE.value[0]
        before = pair.vhost.config
        for offset, data in ((0, 4), (size, 17), (size, 253), (size + 4, 15), (size + 4, 300), (size + 4, 1 << 31)):
            await ops.write_config(offset, data.to_bytes(4, "little"))
        await ops.write_config(size, b"\x20")
        assert pair.vhost.config == before
        await ops.write_config(size, (32).to_bytes(4, "little"))
        await ops.write_config(size + 4, (16).to_bytes(4, "little"))
        assert pair.vhost.config[size : size + 8] == bytes((32, 0, 0, 0, 16, 0, 0, 0))
        await pair.reset()
        assert pair.vhost.config == before
        await pair.transfer()


@pytest.mark.virtio("SCSI-DRV-3", "SCSI-DRV-7")
async def test_the_driver_writes_no_configuration_that_is_as_it_wants_it_and_fills_the_event_queue() -> None:
    async with open_scsi_pair() as pair, tapped(pair) as tap:
        pair.rc.pci.register_device(tap)
        await pair.world.wait_up()
        config = tap.structures[CfgType.DEVICE]
        inside = [
            access
            for access in tap.log
            if access.bar == config.bar and config.offset <= access.offset < config.offset + config.length
        ]
        assert inside
        assert not any(access.write for access in inside)
        assert pair.virtio.queues[1].ring.state().in_flight == 16
        await exercise(pair)


@pytest.mark.virtio("SCSI-DRV-8", "SCSI-DRV-9", "SCSI-DRV-10")
async def test_every_request_has_the_shape_that_the_specification_gives_it(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[bytes, bytes, int]] = []
    parse = VhostScsiRequest.parse

    def spy(chain: Chain, config: ScsiConfig) -> VhostScsiRequest:
        _, readable, writable = chain
        head = b"".join(readable)
        seen.append((head[:8], head[16:19], len(writable[0])))
        return parse(chain, config)

    monkeypatch.setattr(VhostScsiRequest, "parse", staticmethod(spy))
    async with open_scsi_pair(ScsiOptions(luns=TWO)) as pair:
        await exercise(pair)
        await pair.read(0, 1, lun=Lun(4, 300))
    assert {attributes for _, attributes, _ in seen} == {bytes(3)}
    assert {response for *_, response in seen} == {108}
    assert {lun for lun, *_ in seen} == {
        bytes.fromhex(lun) for lun in ("c101000000000000", "0100400000000000", "0104412c00000000")
    }


@pytest.mark.hostile("D07")
@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        (ScsiConfigField.NUM_QUEUES, 0, "reports no request queues"),
        (ScsiConfigField.EVENT_INFO_SIZE, 1 << 20, "events of 1048576 bytes"),
        (ScsiConfigField.SENSE_SIZE, 0, "insists on a sense_size of 0"),
        (ScsiConfigField.CDB_SIZE, 0xFFFF_FFFF, "insists on a cdb_size of 4294967295"),
    ],
)
async def test_a_configuration_that_can_not_be_is_refused_in_one_sentence(
    field: ScsiConfigField, value: int, why: str
) -> None:
    async with open_scsi_pair() as pair, tapped(pair) as tap:
        config = tap.structures[CfgType.DEVICE]
        tap.lies[config.bar, config.offset + field.value[0]] = lambda _: value
        pair.rc.pci.register_device(tap)
        with pytest.raises(ProbeError, match=why):
            await pair.world.wait_up()


@pytest.mark.virtio("SCSI-DRV-5")
async def test_a_unit_has_no_more_commands_than_a_queue_has_descriptors() -> None:
    async with open_scsi_pair(ScsiOptions(queues=2, queue_size=4, workers=16)) as pair, tapped(pair) as tap:
        config = tap.structures[CfgType.DEVICE]
        tap.lies[config.bar, config.offset + ScsiConfigField.CMD_PER_LUN.value[0]] = lambda _: 100
        pair.rc.pci.register_device(tap)
        await pair.world.wait_up()
        await pair.initiator.execute(commands.unit_ready())
        store = pair.store
        store.at_once, store.gate = False, trio.Event()
        async with trio.open_nursery() as nursery:
            for i in range(12):
                nursery.start_soon(pair.read, i, 1)
            await trio.testing.wait_all_tasks_blocked()
            waiting = sum(queue.ring.state().in_flight for queue in pair.virtio.queues[2:])
            store.gate.set()
        assert waiting == 4


@pytest.mark.hostile("D07")
@pytest.mark.virtio("SCSI-DRV-4")
@pytest.mark.parametrize(
    ("field", "value"),
    [
        (ScsiConfigField.CMD_PER_LUN, 0),
        (ScsiConfigField.CMD_PER_LUN, 3),
        (ScsiConfigField.SEG_MAX, 0),
        (ScsiConfigField.MAX_SECTORS, 0),
        (ScsiConfigField.MAX_TARGET, 0xFFFF),
        (ScsiConfigField.NUM_QUEUES, 0xFFFF_FFFF),
    ],
)
async def test_small_limits_of_a_device_are_kept(field: ScsiConfigField, value: int) -> None:
    async with open_scsi_pair() as pair, tapped(pair) as tap:
        config = tap.structures[CfgType.DEVICE]
        tap.lies[config.bar, config.offset + field.value[0]] = lambda _: value
        pair.rc.pci.register_device(tap)
        await pair.world.wait_up()
        await pair.initiator.execute(commands.unit_ready())

        async def one(i: int) -> None:
            assert (await pair.write(i, bytes([i]) * 512)).good

        pair.store.at_once, pair.store.gate = False, trio.Event()
        async with trio.open_nursery() as nursery:
            for i in range(12):
                nursery.start_soon(one, i)
            await trio.testing.wait_all_tasks_blocked()
            ring = pair.vhost.queues[2].ring
            assert ring is not None
            in_flight = ring.state().in_flight
            pair.store.gate.set()
        pair.store.gate = None
        if field is ScsiConfigField.CMD_PER_LUN:
            assert in_flight == max(1, value)
        for i in range(12):
            assert (await pair.read(i, 1)).data == bytes([i]) * 512


# A store that waits or fails


@pytest.mark.hostile("B06")
@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize(
    ("method", "number", "expected"),
    [
        ("read", errno.EIO, (SenseKey.MEDIUM_ERROR, Asc.UNRECOVERED_READ_ERROR)),
        ("write", errno.EIO, (SenseKey.MEDIUM_ERROR, Asc.WRITE_ERROR)),
        ("write", errno.ENOSPC, (SenseKey.DATA_PROTECT, Asc.SPACE_ALLOCATION_FAILED)),
        ("write", errno.EROFS, (SenseKey.DATA_PROTECT, Asc.WRITE_PROTECTED)),
    ],
)
async def test_an_operation_that_the_store_refuses_has_its_sense(
    method: str, number: int, expected: tuple[int, int], at_once: bool
) -> None:
    async with open_scsi_pair() as pair:
        pair.store.at_once = at_once
        now = {"read": "preadv", "write": "pwritev"}[method]
        pair.store.errors[now if at_once else method] = OSError(number, os.strerror(number))
        result = await (pair.read(0, 8) if method == "read" else pair.write(0, bytes(4096)))
        assert sense(result) == expected
        assert result.residual == 4096
        assert pair.plug.figures[0].errors == {os.strerror(number): 1}
        pair.store.errors.clear()
        await pair.transfer()


@pytest.mark.virtio("SCSI-DEV-14", "SCSI-DEV-15", "SCSI-DEV-16", "SCSI-DEV-17", "SCSI-DRV-11")
@pytest.mark.parametrize(
    ("number", "response"),
    [
        (errno.ENOLINK, Response.TRANSPORT_FAILURE),
        (errno.ENODEV, Response.TRANSPORT_FAILURE),
        (errno.EREMOTEIO, Response.TARGET_FAILURE),
        (errno.EBADE, Response.NEXUS_FAILURE),
        (errno.EBUSY, Response.BUSY),
    ],
)
async def test_an_unreachable_store_has_another_error_than_a_bad_medium(number: int, response: Response) -> None:
    async with open_scsi_pair() as pair:
        pair.store.at_once = False
        pair.store.errors["read"] = OSError(number, os.strerror(number))
        with pytest.raises(ScsiError) as caught:
            await pair.read(0, 1)
        assert caught.value.response is response
        assert pair.store.log.count("read") == 1  # no retry


@pytest.mark.parametrize("at_once", [True, False])
async def test_without_a_cache_every_change_is_home_when_it_is_answered(at_once: bool) -> None:
    async with open_scsi_pair() as pair:
        pair.store.at_once = at_once
        await pair.write(0, bytes(512))
        assert "flush" not in pair.store.log
        page = bytes(8) + bytes((0x08, 18)) + bytes(18)
        cdb = bytes((Op.MODE_SELECT_10, 0x10, 0, 0, 0, 0, 0, 0, len(page), 0))
        assert (await pair.initiator.execute(cdb, data_out=page)).good
        unmap, data = commands.unmap((0, 1))
        for change, out in (
            (commands.write(0, 1), bytes(512)),
            (unmap, data),
            (commands.write_same(0, 2), b"p" * 512),
            (commands.write_same(0, 2, zeroes=True), b""),
        ):
            del pair.store.log[:]
            assert (await pair.initiator.execute(change, data_out=out)).good
            assert pair.store.log[-1] == "flush"
        await pair.reset()  # the cache is back
        del pair.store.log[:]
        await pair.write(0, bytes(512))
        assert "flush" not in pair.store.log
        await pair.write(0, bytes(512), fua=True)
        assert pair.store.log[-1] == "flush"
        del pair.store.log[:]
        await pair.read(0, 1, fua=True)
        assert pair.store.log == ["flush", "read"]
