"""A SCSI host between two hosts: every command through the stack, over resets, link flaps, and a store that fails."""

from __future__ import annotations

import errno
import os
from collections.abc import Awaitable, Callable
from functools import partial

import attrs
import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from drivers.devices.scsi import (
    Asc,
    Initiator,
    Key,
    Lun,
    Response,
    ScsiError,
    ScsiFeature,
    ScsiRequest,
    ScsiResult,
    Sense,
    Status,
    Tmf,
)
from drivers.devices.scsi import cdb as commands
from drivers.devices.scsi.cdb import Op
from drivers.devices.scsi.device.request import VhostScsiRequest
from drivers.devices.scsi.layout import ScsiConfig, ScsiConfigField
from drivers.errors import ProbeError
from drivers.storage.submit import PATIENCE
from drivers.transports.pci.registers import CfgType
from rings.chain import Chain
from vnet.spec import LinkSpec
from vnet.system.snapshot import describe
from vnet.testing.checks import until
from vnet.testing.hostile import tapped
from vnet.testing.pair import ENDPOINT, ROOT, over
from vnet.testing.scsi import DISK, ScsiOptions, ScsiPair, open_scsi_pair

KIB, MIB = 1 << 10, 1 << 20
F = ScsiFeature
TWO = (Lun(0, 0), Lun(0, 1), Lun(4, 300))


def sense(result: ScsiResult) -> tuple[int, int]:
    assert (result.response, result.status) == (Response.OK, Status.CHECK_CONDITION)
    found = result.sense
    assert found is not None
    return found.key, found.asc


async def exercise(pair: ScsiPair) -> None:
    """What a disk is asked for, once."""
    initiator, block = pair.initiator, pair.unit().block_size
    assert await initiator.scan() == sorted(pair.domain.units)
    found = await initiator.execute(commands.inquiry(255, 0x80), data_in=255)
    assert found.data[4:] == b"scsi0-0-0"
    assert found.residual == 255 - len(found.data)
    capacity = await initiator.execute(commands.read_capacity(), data_in=32)
    assert int.from_bytes(capacity.data[:8], "big") == pair.unit().capacity - 1
    data = os.urandom(256 * KIB)
    assert (await pair.write(3, data, fua=True)).good
    assert (await pair.read(3, len(data) // block)).data == data
    for cdb, out in (
        (commands.synchronize_cache(), b""),
        (commands.write_same(8, 4), b"pattern!" * (block // 8)),
        (commands.write_same(12, 4, zeroes=True), b""),
        (bytes((Op.VERIFY_16, 2)) + (8).to_bytes(8, "big") + b"\0\0\0\4\0\0", b"pattern!" * (block // 2)),
        commands.unmap((16, 8)),
    ):
        assert (await initiator.execute(cdb, data_out=out)).good
    wanted = data[: 5 * block] + b"pattern!" * (block // 2) + bytes(12 * block) + data[21 * block :]
    assert (await pair.read(3, len(data) // block)).data == wanted
    assert sense(await initiator.execute(b"\x5e" + bytes(9))) == (
        Key.ILLEGAL_REQUEST,
        Asc.INVALID_COMMAND_OPERATION_CODE,
    )
    assert await initiator.manage(Tmf.QUERY_TASK_SET, DISK) is Response.OK
    assert await initiator.manage(Tmf.LOGICAL_UNIT_RESET, DISK) is Response.OK
    after = await initiator.execute(commands.unit_ready(), attention=True)
    assert sense(after) == (Key.UNIT_ATTENTION, Asc.BUS_DEVICE_RESET)


# What it is


@pytest.mark.every_transport
@pytest.mark.virtio("SCSI-DEV-1", "SCSI-DEV-6", "SCSI-DEV-7", "SCSI-DEV-8", "SCSI-DEV-9")
async def test_every_command_works_on_every_transport() -> None:
    async with open_scsi_pair(ScsiOptions(luns=TWO)) as pair:
        await exercise(pair)
        await pair.transfer()
        [driver], [device] = pair.initiator.figures, pair.scsi.figures
        assert (driver.taken, driver.done, driver.errors) == (device.taken, device.done, device.errors)
        assert driver.taken == driver.done
        assert driver.bytes == device.bytes
        assert pair.initiator.control_figures.done == pair.scsi.control.done == 2


@pytest.mark.parametrize("off", [(), ("INDIRECT_DESC",), ("EVENT_IDX",)])
async def test_packed_queues_make_no_difference(off: tuple[str, ...]) -> None:
    with over("pci", "packed"):
        async with open_scsi_pair(ScsiOptions(features_off=off, queues=2, queue_size=16)) as pair:
            await exercise(pair)
            await pair.reset()
            await pair.transfer()


@pytest.mark.parametrize(
    "link",
    [
        LinkSpec(root=ROOT, endpoint=ENDPOINT, generation=1, lanes=1, read_latency_ns=1000),
        LinkSpec(root=ROOT, endpoint=ENDPOINT, generation=3, lanes=4),
    ],
)
async def test_on_a_link_that_takes_time_data_take_the_time_of_their_bytes(link: LinkSpec) -> None:
    async with open_scsi_pair(ScsiOptions(link=link)) as pair:
        began = trio.current_time()
        await pair.transfer(4 * MIB)
        taken = trio.current_time() - began
        rate = {1: 0.25e9, 3: 3.94e9}[link.generation or 0]
        assert 2 * 4 * MIB / rate < taken < 4 * 4 * MIB / rate
        await exercise(pair)


@pytest.mark.parametrize("bit", [f.name for f in ScsiFeature if f is not F.T10_PI] + ["INDIRECT_DESC", "EVENT_IDX"])
async def test_each_feature_can_be_switched_off(bit: str) -> None:
    async with open_scsi_pair(ScsiOptions(features_off=(bit,), queues=2)) as pair:
        assert bit not in pair.vhost.table.describe(pair.vhost.features)
        await exercise(pair)
        await pair.transfer()


@pytest.mark.parametrize("num", [4, 8])
@pytest.mark.parametrize("off", [(), ("INDIRECT_DESC",)])
@pytest.mark.virtio("SCSI-DRV-5")
async def test_the_smallest_rings_do_with_many_commands_at_once(num: int, off: tuple[str, ...]) -> None:
    async with open_scsi_pair(ScsiOptions(queue_size=num, features_off=off)) as pair:
        await exercise(pair)
        async with trio.open_nursery() as nursery:
            for i in range(20):
                nursery.start_soon(pair.write, i * 128, bytes([i]) * 64 * KIB)
        for i in range(20):
            assert (await pair.read(i * 128, 128)).data == bytes([i]) * 64 * KIB


async def test_a_ring_that_no_request_fits_is_refused() -> None:
    with pytest.raises(ProbeError, match="no request fits a queue of 2 descriptors"):
        async with open_scsi_pair(ScsiOptions(queue_size=2)):
            pass


async def test_several_queues_share_the_work_and_answer_where_they_were_asked() -> None:
    async with open_scsi_pair(ScsiOptions(queues=3)) as pair:
        await pair.initiator.execute(commands.unit_ready())
        async with trio.open_nursery() as nursery:
            for i in range(30):
                nursery.start_soon(pair.write, i, bytes([i]) * 512)
        assert sorted(figures.done for figures in pair.initiator.figures) == [10, 10, 12]
        assert [f.done for f in pair.initiator.figures] == [f.done for f in pair.scsi.figures]


async def test_the_system_describes_it() -> None:
    async with open_scsi_pair(ScsiOptions(luns=TWO)) as pair:
        await pair.write(0, bytes(4096))
        found = describe(pair.world)["devices"]["scsi0"]  # type: ignore[index]
        assert found["driver"]["port"]["config"]["num_queues"] == 1
        assert found["driver"]["queues"][2]["bytes"] == found["device"]["queues"][2]["bytes"] == 4096
        assert [unit["lun"] for unit in found["device"]["port"]["luns"]] == ["0:0", "0:1", "4:300"]
        assert found["device"]["port"]["checks"] == {"unit attention, power on or reset": 1}
        assert describe(pair.world)["drops"] == {}


LINUX = {
    "INQUIRY": ("12 00 00 00 24 00", 36, 36),
    "INQUIRY of all there is": ("12 00 00 00 60 00", 96, 96),
    "VPD 00": ("12 01 00 00 ff 00", 255, 10),
    "VPD 80": ("12 01 80 00 ff 00", 255, 13),
    "VPD 83": ("12 01 83 00 ff 00", 255, 53),
    "VPD B0": ("12 01 b0 00 40 00", 64, 64),
    "VPD B1": ("12 01 b1 00 40 00", 64, 64),
    "VPD B2": ("12 01 b2 00 24 00", 36, 8),
    "REPORT LUNS": ("a0 00 00 00 00 00 00 00 10 00 00 00", 4096, 24),
    "TEST UNIT READY": ("00 00 00 00 00 00", 0, 0),
    "READ CAPACITY (16)": ("9e 10 00 00 00 00 00 00 00 00 00 00 00 20 00 00", 32, 32),
    "READ CAPACITY (10)": ("25 00 00 00 00 00 00 00 00 00", 8, 8),
    "MODE SENSE for write protection": ("1a 00 3f 00 04 00", 4, 4),
    "likewise, more": ("1a 00 3f 00 c0 00", 192, 44),
    "MODE SENSE of the cache's header": ("1a 08 08 00 04 00", 4, 4),
    "the cache": ("1a 08 08 00 18 00", 24, 24),
    "the cache, long": ("5a 08 08 00 00 00 00 00 1c 00", 28, 28),
    "is there WRITE SAME (16)": ("a3 0c 01 93 00 00 00 00 02 00 00 00", 512, 20),
    "is there SYNCHRONIZE CACHE": ("a3 0c 01 35 00 00 00 00 02 00 00 00", 512, 14),
}
"""What is asked for: the CDB, the room for the answer, and its bytes."""


async def test_what_linux_asks_a_disk_for_when_it_finds_one_is_answered() -> None:
    """By virtio_scsi's midlayer and sd: each with the buffer that it has for it."""
    async with open_scsi_pair(ScsiOptions(luns=TWO)) as pair:
        for what, (cdb, room, size) in LINUX.items():
            result = await pair.initiator.execute(bytes.fromhex(cdb), data_in=room)
            assert result.good, what
            assert (len(result.data), result.residual) == (size, room - size), what


async def test_a_scan_finds_what_there_is_even_where_only_targets_report() -> None:
    async with open_scsi_pair(ScsiOptions(luns=TWO)) as pair:
        assert await pair.initiator.scan() == list(TWO)
        find = pair.domain.find
        pair.domain.find = lambda lun: None if lun.target < 0 else find(lun)  # type: ignore[method-assign]
        assert await pair.initiator.scan() == list(TWO)


async def test_a_scan_asks_again_where_there_are_more_units_than_room() -> None:
    many = [Lun(i // 300, i % 300) for i in range(900)]
    async with open_scsi_pair() as pair:
        for lun in many[1:]:
            pair.domain._units[lun] = pair.unit()
        assert await pair.initiator.scan() == many


# Against a model

OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["write", "read", "fill", "zeroes", "unmap", "verify", "reset", "flush"]),
        st.integers(0, 63),
        st.sampled_from([1, 1, 2, 3, 8, 9]),
        st.integers(1, 255),
    ),
    max_size=20,
)


@settings(max_examples=20)
@given(OPERATIONS, st.booleans(), st.sampled_from([512, 4096]))
def test_it_is_what_a_bytearray_would_be(
    operations: list[tuple[str, int, int, int]], at_once: bool, block: int
) -> None:
    async def run() -> None:
        async with open_scsi_pair(ScsiOptions(block_size=block, size=1, buffers=1)) as pair:
            pair.store.at_once = at_once
            model, do = bytearray(MIB), pair.initiator.execute
            for what, start, count, value in operations:
                offset, size = start * block, count * block
                result = None
                if what == "write":
                    result = await pair.write(start, bytes([value]) * size, fua=value % 2 == 0)
                    model[offset : offset + size] = bytes([value]) * size
                elif what == "read":
                    result = await pair.read(start, count, fua=value % 2 == 0)
                    assert result.data == model[offset : offset + size]
                elif what == "fill":
                    result = await do(commands.write_same(start, count), data_out=bytes([value]) * block)
                    model[offset : offset + size] = bytes([value]) * size
                elif what == "zeroes":
                    result = await do(commands.write_same(start, count, unmap=value % 2 == 0, zeroes=True))
                    model[offset : offset + size] = bytes(size)
                elif what == "unmap":
                    cdb, data = commands.unmap((start, count))
                    result = await do(cdb, data_out=data)
                    model[offset : offset + size] = bytes(size)
                elif what == "verify":
                    cdb = bytes((Op.VERIFY_10, 2, 0, 0, 0, start, 0, 0, count, 0))
                    result = await do(cdb, data_out=bytes([value]) * size)
                    equal = model[offset : offset + size] == bytes([value]) * size
                    assert result.good == equal
                    result = None
                elif what == "flush":
                    result = await do(commands.synchronize_cache())
                else:
                    await pair.reset()
                assert result is None or result.good
            assert pair.store.data == model

    trio.run(run, clock=trio.testing.MockClock(autojump_threshold=0))


async def test_many_commands_are_under_way_and_each_gets_its_own_answer() -> None:
    async with open_scsi_pair() as pair:
        pair.store.at_once = False
        wanted = {i: bytes([i]) * 4096 for i in range(100)}

        async def both(i: int) -> None:
            assert (await pair.write(i * 8, wanted[i])).good
            assert (await pair.read(i * 8, 8)).data == wanted[i]

        async with trio.open_nursery() as nursery:
            for i in wanted:
                nursery.start_soon(both, i)
        assert pair.initiator.figures[0].done == 200 + 1
        assert pair.initiator.resets == 1


async def test_verify_says_where_the_first_difference_is() -> None:
    async with open_scsi_pair() as pair:
        data = os.urandom(3 * MIB)
        pair.store.data[: len(data)] = data
        pair.store.data[2 * MIB + 7] ^= 1
        for at, size in ((0, MIB), (2 * MIB, 4096)):
            cdb = bytes((Op.VERIFY_10, 2)) + (at // 512).to_bytes(4, "big") + b"\0" + (size // 512).to_bytes(2, "big")
            result = await pair.initiator.execute(cdb + b"\0", data_out=data[at : at + size])
            if not at:
                assert result.good
            else:
                assert sense(result) == (Key.MISCOMPARE, Asc.MISCOMPARE_DURING_VERIFY)
                assert result.sense is not None
                assert result.sense.information == 7
        same = await pair.initiator.execute(bytes((Op.VERIFY_10, 6, 0, 0, 0, 0, 0, 0, 2, 0)), data_out=data[:512])
        assert same.sense is not None
        assert same.sense.key == Key.MISCOMPARE


async def test_programs_that_want_speed_submit_several_and_tell_the_device_once() -> None:
    async with open_scsi_pair() as pair:
        initiator = pair.initiator
        await initiator.execute(commands.unit_ready())
        ended: list[ScsiRequest] = []
        for i in range(32):
            buffer = initiator.take(4096)
            assert buffer is not None
            buffer.views[0][:] = bytes([i]) * 4096
            initiator.submit(ScsiRequest(DISK, commands.write(i * 8, 8), ended.append, buffer, 4096, tag=i))
        before = pair.virtio.statistics(pair.virtio.queues[2])
        initiator.kick()
        await until(lambda: len(ended) == 32)
        after = pair.virtio.statistics(pair.virtio.queues[2])
        assert after.notifications - before.notifications == 1
        for request in ended:
            assert request.result is not None
            assert request.result.good
            assert request.buffer is not None
            request.buffer.free()


async def test_our_own_mistakes_are_told_before_anything_is_sent() -> None:
    async with open_scsi_pair() as pair:
        initiator = pair.initiator
        for bad in (bytes(5), bytes(33)):
            with pytest.raises(ValueError, match="CDB of"):
                await initiator.execute(bad)
        with pytest.raises(ValueError, match="bytes of data"):
            await initiator.execute(bytes(6), data_in=initiator.transfer_max + 1)
        assert pair.scsi.figures[0].taken == 0


async def test_whoever_is_cancelled_gives_its_buffer_back_when_the_device_does() -> None:
    async with open_scsi_pair() as pair:
        pair.store.at_once = False
        await pair.read(0, 1)
        free = len(pair.initiator._buffers._small)  # type: ignore[union-attr]
        with trio.CancelScope() as scope:
            scope.cancel()
            await pair.read(0, 8)
        assert scope.cancelled_caught
        await trio.sleep(1)
        assert len(pair.initiator._buffers._small) == free  # type: ignore[union-attr]


# Data in both directions


@pytest.mark.virtio("SCSI-DEV-18")
async def test_both_directions_at_once_need_the_feature() -> None:
    async with open_scsi_pair() as pair:
        pair.store.data[:512] = b"r" * 512
        result = await pair.initiator.execute(commands.read(0, 1), data_out=b"o" * 100, data_in=600)
        assert (result.data, result.residual) == (b"r" * 512, 88)
        result = await pair.initiator.execute(commands.write(0, 1), data_out=b"o" * 600, data_in=100)
        assert (result.good, result.data, result.residual) == (True, b"", 188)
        assert pair.store.data[:600] == b"o" * 512 + bytes(88)
    async with open_scsi_pair(ScsiOptions(features_off=("INOUT",))) as pair:
        with pytest.raises(ScsiError) as caught:
            await pair.initiator.execute(commands.read(0, 1), data_out=b"o" * 100, data_in=600)
        assert caught.value.response is Response.FAILURE
        assert "preadv" not in pair.store.log


@pytest.mark.virtio("SCSI-DEV-7", "SCSI-DEV-10", "SCSI-DEV-12")
async def test_responses_say_why_a_command_never_got_there() -> None:
    async with open_scsi_pair() as pair:
        do = pair.initiator.execute
        for what, response in (
            (partial(do, commands.unit_ready(), lun=Lun(9, 0)), Response.BAD_TARGET),
            (partial(do, commands.inquiry(96), data_in=95), Response.OVERRUN),
            (partial(do, commands.write(0, 2), data_out=bytes(512)), Response.OVERRUN),
        ):
            with pytest.raises(ScsiError) as caught:
                await what()
            assert caught.value.response is response
        missing = await do(commands.unit_ready(), lun=Lun(0, 5))
        assert sense(missing) == (Key.ILLEGAL_REQUEST, Asc.LOGICAL_UNIT_NOT_SUPPORTED)
        assert pair.scsi.figures[0].errors == {"bad_target": 1, "overrun": 2}
        assert not pair.store.log


# Configuration


@pytest.mark.virtio("SCSI-DEV-2", "SCSI-DEV-4")
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


@pytest.mark.virtio("SCSI-DRV-3", "SCSI-DRV-6", "SCSI-DRV-7")
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
async def test_what_a_device_can_do_little_of_is_used_as_little(field: ScsiConfigField, value: int) -> None:
    async with open_scsi_pair() as pair, tapped(pair) as tap:
        config = tap.structures[CfgType.DEVICE]
        tap.lies[config.bar, config.offset + field.value[0]] = lambda _: value
        pair.rc.pci.register_device(tap)
        await pair.world.wait_up()
        await pair.initiator.execute(commands.unit_ready())
        most = 0

        async def one(i: int) -> None:
            nonlocal most
            assert (await pair.write(i, bytes([i]) * 512)).good
            ring = pair.vhost.queues[2].ring
            assert ring is not None
            most = max(most, ring.state().in_flight)

        pair.store.at_once = False
        async with trio.open_nursery() as nursery:
            for i in range(12):
                nursery.start_soon(one, i)
        if field is ScsiConfigField.CMD_PER_LUN:
            assert most <= max(1, value)
        for i in range(12):
            assert (await pair.read(i, 1)).data == bytes([i]) * 512


# A store that waits or fails


@pytest.mark.hostile("B06")
@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize(
    ("method", "number", "expected"),
    [
        ("read", errno.EIO, (Key.MEDIUM_ERROR, Asc.UNRECOVERED_READ_ERROR)),
        ("write", errno.EIO, (Key.MEDIUM_ERROR, Asc.WRITE_ERROR)),
        ("write", errno.ENOSPC, (Key.DATA_PROTECT, Asc.SPACE_ALLOCATION_FAILED)),
        ("write", errno.EROFS, (Key.DATA_PROTECT, Asc.WRITE_PROTECTED)),
    ],
)
async def test_what_the_store_can_not_do_has_its_sense(
    method: str, number: int, expected: tuple[int, int], at_once: bool
) -> None:
    async with open_scsi_pair() as pair:
        pair.store.at_once = at_once
        now = {"read": "preadv", "write": "pwritev"}[method]
        pair.store.errors[now if at_once else method] = OSError(number, os.strerror(number))
        result = await (pair.read(0, 8) if method == "read" else pair.write(0, bytes(4096)))
        assert sense(result) == expected
        assert result.residual == 4096
        assert pair.scsi.figures[0].errors == {os.strerror(number): 1}
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
async def test_a_store_that_is_not_reached_is_told_from_a_bad_medium(number: int, response: Response) -> None:
    async with open_scsi_pair() as pair:
        pair.store.at_once = False
        pair.store.errors["read"] = OSError(number, os.strerror(number))
        with pytest.raises(ScsiError) as caught:
            await pair.read(0, 1)
        assert caught.value.response is response
        assert pair.store.log.count("read") == 1  # nobody tried again


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


# Resets and flaps


@pytest.mark.hostile("S09")
@pytest.mark.virtio("SCSI-DEV-19")
async def test_a_reset_reads_back_as_0_only_when_the_store_is_idle() -> None:
    async with open_scsi_pair() as pair:
        await pair.read(0, 1)
        store = pair.store
        store.at_once, store.gate = False, trio.Event()
        async with trio.open_nursery() as nursery:
            for i in range(8):
                nursery.start_soon(pair.read, i * 8, 8)
            await until(lambda: store.inside == 4)
            pair.vhost.write_status(0)
            await trio.testing.wait_all_tasks_blocked()
            assert pair.vhost.status != 0
            store.gate.set()
            await trio.testing.wait_all_tasks_blocked()
            assert store.inside == 0
            store.gate = None
            pair.virtio.interrupt()
        assert pair.initiator.figures[0].queued == 8


async def test_a_unit_attention_of_a_reset_is_no_end_of_a_command_unless_it_is_wanted() -> None:
    async with open_scsi_pair(ScsiOptions(luns=TWO)) as pair:
        for times in range(1, 3):
            for lun in TWO:
                assert (await pair.read(0, 1, lun=lun)).good
            assert pair.initiator.resets == 3 * times
            await pair.reset()
        result = await pair.initiator.execute(commands.unit_ready(), attention=True)
        assert sense(result) == (Key.UNIT_ATTENTION, Asc.POWER_ON_OR_RESET)
        pair.unit().attention(Asc.CAPACITY_DATA_HAS_CHANGED)
        result = await pair.read(0, 1)
        assert sense(result) == (Key.UNIT_ATTENTION, Asc.CAPACITY_DATA_HAS_CHANGED)


async def test_twenty_resets_under_load_lose_nothing() -> None:
    async with open_scsi_pair() as pair:
        store, done = pair.store, 0
        store.at_once = False

        async def work(at: int) -> None:
            nonlocal done
            while not ended:
                data = os.urandom(4096)
                assert (await pair.write(at * 8, data)).good
                assert (await pair.read(at * 8, 8)).data == data
                done += 1
                await trio.sleep(0.003)

        ended = False
        before = pair.footprint()
        async with trio.open_nursery() as nursery:
            for at in range(16):
                nursery.start_soon(work, at)
            for _ in range(20):
                await trio.sleep(0.005)
                await pair.reset()
            ended = True
        assert done > 50
        assert pair.initiator.figures[0].errors == {}
        await trio.testing.wait_all_tasks_blocked()
        assert attrs.evolve(pair.footprint(), fds=before.fds) == before


@pytest.mark.parametrize("transport", ["pci", "epf_mailbox"])
@pytest.mark.parametrize("at_once", [True, False])
async def test_over_a_link_flap_every_command_is_kept_and_done(transport: str, at_once: bool) -> None:
    async with open_scsi_pair(ScsiOptions(transport=transport)) as pair:
        pair.store.at_once = at_once
        pair.store.data[:MIB] = os.urandom(MIB)
        wanted = bytes(pair.store.data[:MIB])
        found: dict[int, bytes] = {}

        async def read(at: int) -> None:
            found[at] = (await pair.read(at * 8, 8)).data

        async with trio.open_nursery() as nursery:
            for at in range(200):
                nursery.start_soon(read, at)
                if at % 50 == 25:
                    await trio.lowlevel.checkpoint()
                    pair.link.bring_down()
                if at % 50 == 49:
                    pair.link.bring_up()
            await trio.sleep(5)
        assert b"".join(found[at] for at in range(200)) == wanted[: 200 * 4096]
        assert pair.initiator.figures[0].errors == {}


@pytest.mark.hostile("D11")
async def test_commands_wait_30_seconds_for_a_link_and_then_end_with_an_error_each_once() -> None:
    async with open_scsi_pair() as pair:
        await pair.read(0, 1)
        pair.store.at_once, pair.store.gate = False, trio.Event()
        ended: list[float] = []

        async def read() -> None:
            with pytest.raises(ScsiError, match="TRANSPORT_FAILURE"):
                await pair.read(0, 8)
            ended.append(trio.current_time() - began)

        async def manage() -> None:
            with pytest.raises(ScsiError, match="TRANSPORT_FAILURE"):
                await pair.initiator.manage(Tmf.LOGICAL_UNIT_RESET, DISK)

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(read)
            await until(lambda: pair.store.inside == 4)
            began = trio.current_time()
            nursery.start_soon(manage)
            pair.link.bring_down()
            pair.store.gate.set()
            await trio.sleep(10)
            for call in (read, manage):
                nursery.start_soon(call)
            await trio.sleep(PATIENCE - 10.1)
            assert not ended
        assert ended == pytest.approx([PATIENCE] * 5 + [PATIENCE + 10], abs=0.1)
        assert pair.initiator.figures[0].errors == {"device_lost": 6}
        pair.store.gate = None
        pair.link.bring_up()
        await pair.world.wait_up()
        await pair.transfer()


async def test_before_there_is_a_device_nobody_waits_for_ever() -> None:
    initiator = Initiator(patience=3)
    calls: list[Callable[[], Awaitable[object]]] = [
        partial(initiator.execute, commands.unit_ready()),
        initiator.scan,
        partial(initiator.manage, Tmf.QUERY_TASK, DISK),
    ]
    for call in calls:
        began = trio.current_time()
        with pytest.raises(ScsiError, match="there is no device yet"):
            await call()
        assert trio.current_time() - began == pytest.approx(3)


# Faulty links


@pytest.mark.parametrize("seed", range(3))
async def test_on_a_faulty_link_every_command_is_done_in_the_end(seed: int) -> None:
    from vnet.spec import FaultSpec

    faults = FaultSpec(
        seed=seed, lost_doorbells=0.2, lost_interrupts=0.2, timeouts=0.01, flap_every_ms=300.0, flap_ms=20.0
    )
    link = LinkSpec(root=ROOT, endpoint=ENDPOINT, faults=faults)
    async with open_scsi_pair(ScsiOptions(link=link)) as pair:
        pair.store.at_once = False

        async def both(i: int) -> None:
            data = os.urandom(8192)
            for _ in range(5):
                assert (await pair.write(i * 16, data)).good
                assert (await pair.read(i * 16, 16)).data == data
                await trio.sleep(0.1)

        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                for i in range(10):
                    nursery.start_soon(both, i)
        assert pair.initiator.figures[0].errors == {}


def test_a_result_knows_its_sense() -> None:
    raw = Sense(Key.MEDIUM_ERROR, Asc.WRITE_ERROR).emit()
    assert ScsiResult(Response.OK, 2, raw, 0, b"").sense == Sense(Key.MEDIUM_ERROR, Asc.WRITE_ERROR)
    assert ScsiResult(Response.OK, 0, b"", 0, b"").good
