"""A SCSI host between two hosts: units, and data in both directions."""

from __future__ import annotations

from functools import partial

import pytest
import trio
import trio.testing

from drivers.devices.scsi import (
    Asc,
    Lun,
    Response,
    ScsiError,
    ScsiFeature,
    SenseKey,
)
from drivers.devices.scsi import cdb as commands
from drivers.devices.scsi.layout import REPORT_LUNS
from drivers.errors import ProbeError
from support.rigs.scsi_host import TWO, exercise, sense
from vnet.spec import LinkSpec
from vnet.system.snapshot import take_snapshot
from vnet.testing.pair import ENDPOINT, ROOT, over
from vnet.testing.scsi import ScsiOptions, open_scsi_pair
from vnet.views.plain import to_plain

KIB, MIB = 1 << 10, 1 << 20
F = ScsiFeature

# What it is


@pytest.mark.every_transport
@pytest.mark.virtio("SCSI-DEV-8", "SCSI-DEV-9")
async def test_every_command_works_on_every_transport() -> None:
    async with open_scsi_pair(ScsiOptions(luns=TWO)) as pair:
        await exercise(pair)
        await pair.transfer()
        [driver], [device] = pair.initiator.figures, pair.plug.figures
        assert (driver.taken, driver.done, driver.errors) == (device.taken, device.done, device.errors)
        assert driver.taken == driver.done
        assert driver.bytes == device.bytes
        assert pair.initiator.control_figures.done == pair.plug.control.done == 2


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


async def test_several_queues_share_the_work_and_each_answers_its_own_requests() -> None:
    async with open_scsi_pair(ScsiOptions(queues=3)) as pair:
        await pair.initiator.execute(commands.unit_ready())
        async with trio.open_nursery() as nursery:
            for i in range(30):
                nursery.start_soon(pair.write, i, bytes([i]) * 512)
        assert sorted(figures.done for figures in pair.initiator.figures) == [10, 10, 12]
        assert [f.done for f in pair.initiator.figures] == [f.done for f in pair.plug.figures]


async def test_the_system_describes_it() -> None:
    async with open_scsi_pair(ScsiOptions(luns=TWO)) as pair:
        await pair.write(0, bytes(4096))
        actual = to_plain(take_snapshot(pair.world))["devices"]["scsi0"]
        assert actual["driver"]["port"]["config"]["num_queues"] == 1
        assert actual["driver"]["queues"][2]["bytes"] == actual["device"]["queues"][2]["bytes"] == 4096
        assert [unit["lun"] for unit in actual["device"]["port"]["luns"]] == ["0:0", "0:1", "4:300"]
        assert actual["device"]["port"]["checks"] == {"unit attention, power on or reset": 1}
        assert to_plain(take_snapshot(pair.world))["drops"] == {}


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
"""One command: the CDB, the room for the answer, and its bytes."""


async def test_the_commands_of_linux_at_discovery_are_answered() -> None:
    """Commands of Linux's midlayer and sd, each with its buffer size."""
    async with open_scsi_pair(ScsiOptions(luns=TWO)) as pair:
        for what, (cdb, room, size) in LINUX.items():
            result = await pair.initiator.execute(bytes.fromhex(cdb), data_in=room)
            assert result.good, what
            assert (len(result.data), result.residual) == (size, room - size), what


@pytest.mark.virtio("SCSI-DEV-5")
async def test_the_well_known_unit_reports_all_units() -> None:
    async with open_scsi_pair(ScsiOptions(luns=TWO)) as pair:
        result = await pair.initiator.execute(commands.report_luns(64), lun=REPORT_LUNS, data_in=64)
        assert result.data[:8] == bytes((0, 0, 0, 8 * len(TWO), 0, 0, 0, 0))
        assert [Lun.parse(result.data[at : at + 8]) for at in range(8, len(result.data), 8)] == list(TWO)


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


# Data in both directions


@pytest.mark.virtio("SCSI-DEV-7", "SCSI-DEV-18")
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


@pytest.mark.virtio("SCSI-DEV-10", "SCSI-DEV-12")
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
        assert sense(missing) == (SenseKey.ILLEGAL_REQUEST, Asc.LOGICAL_UNIT_NOT_SUPPORTED)
        assert pair.plug.figures[0].errors == {"bad_target": 1, "overrun": 2}
        assert not pair.store.log
