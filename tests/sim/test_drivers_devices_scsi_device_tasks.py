"""SCSI task management: which tasks a function ends, and which answer each gets."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from drivers.devices.scsi import (
    Asc,
    Lun,
    Response,
    SenseKey,
    Tmf,
)
from drivers.devices.scsi import cdb as commands
from drivers.devices.scsi.device.mode import Mode
from drivers.devices.scsi.layout import REPORT_LUNS
from support.rigs.scsi_tasks import LUNS, Commands, blocked, open_gate, sense, settled
from vnet.testing.checks import until
from vnet.testing.scsi import DISK, ScsiOptions, new_unit, open_scsi_pair


@pytest.mark.every_transport(but=("vhost_user",))  # the events of two queues have no order among themselves
@pytest.mark.hostile("K03")
@pytest.mark.virtio("SCSI-DEV-11", "SCSI-DEV-21", "SCSI-DEV-22")
async def test_a_command_that_is_aborted_ends_before_the_function_that_aborted_it() -> None:
    async with open_scsi_pair() as pair, trio.open_nursery() as nursery:
        await blocked(pair)
        work = Commands(pair, nursery)
        for tag in (1, 2):
            work.read(tag)
        await until(lambda: pair.store.inside == 2)
        work.manage(Tmf.ABORT_TASK, tag=1)
        await trio.sleep(0.1)
        early = list(work.ended)
        open_gate(pair)
        await until(lambda: len(work.ended) == 3)
        assert not early, "its I/O had not ended"
        assert (1, Response.ABORTED) in work.ended
        assert work.ended.index((1, Response.ABORTED)) < work.ended.index((Tmf.ABORT_TASK, Response.OK))
        assert (2, True) in work.ended
        assert pair.plug.figures[0].errors == {"aborted": 1}


@pytest.mark.hostile("K03")
async def test_a_command_that_has_not_begun_is_aborted_at_once_and_never_done() -> None:
    async with open_scsi_pair(ScsiOptions(workers=1)) as pair, trio.open_nursery() as nursery:
        await blocked(pair)
        work = Commands(pair, nursery)
        work.read(1)
        await until(lambda: pair.store.inside == 1)
        for tag in (2, 3):
            work.write(tag)
        await settled()
        work.manage(Tmf.ABORT_TASK, tag=3)
        await settled()
        assert work.ended == [(3, Response.ABORTED), (Tmf.ABORT_TASK, Response.OK)]
        open_gate(pair)
        await until(lambda: len(work.ended) == 4)
        assert pair.store.data[512 * 2 :][:1024] == b"\2" * 512 + bytes(512)


async def test_no_write_of_an_aborted_command_comes_after_one_that_was_made_since() -> None:
    async with open_scsi_pair() as pair, trio.open_nursery() as nursery:
        await blocked(pair)
        work = Commands(pair, nursery)
        work.write(1)
        await until(lambda: pair.store.inside == 1)
        work.manage(Tmf.ABORT_TASK_SET)
        await settled()
        open_gate(pair)
        await until(lambda: len(work.ended) == 2)
        assert pair.store.inside == 0
        assert (await pair.write(1, b"n" * 512)).good
        await trio.sleep(1)
        assert pair.store.data[512:1024] == b"n" * 512


@pytest.mark.virtio("SCSI-DEV-13", "SCSI-DEV-20", "SCSI-DEV-22")
@pytest.mark.parametrize(
    ("function", "asc", "gone"),
    [
        (Tmf.LOGICAL_UNIT_RESET, Asc.BUS_DEVICE_RESET, {0}),
        (Tmf.I_T_NEXUS_RESET, Asc.I_T_NEXUS_LOSS, {0, 1}),
    ],
)
async def test_a_reset_ends_the_commands_of_a_unit_or_of_a_target(function: Tmf, asc: Asc, gone: set[int]) -> None:
    async with open_scsi_pair(ScsiOptions(luns=LUNS, workers=8)) as pair, trio.open_nursery() as nursery:
        await blocked(pair)
        work = Commands(pair, nursery)
        for i, lun in enumerate(LUNS):
            work.read(i, lun)
            work.write(10 + i, lun)
        await settled()
        for i in (0, 1):
            pair.unit(LUNS[i]).mode = Mode(write_cache=False)
        work.manage(function)
        await settled()
        open_gate(pair)
        await until(lambda: len(work.ended) == 7)
        ended = dict(work.ended)
        assert ended[function] is Response.OK
        for i in range(3):
            assert ended[i] == ended[10 + i] == (Response.RESET if i in gone else True)
        last = max(work.ended.index((tag, Response.RESET)) for i in gone for tag in (i, 10 + i))
        assert work.ended.index((function, Response.OK)) > last
        for i, lun in enumerate(LUNS):
            result = await pair.initiator.execute(commands.unit_ready(), lun=lun, attention=True)
            if i in gone:
                assert sense(result) == (SenseKey.UNIT_ATTENTION, asc)
                # Only a reset of the unit itself takes its settings back.
                assert pair.unit(lun).mode.write_cache == (function is Tmf.LOGICAL_UNIT_RESET)
            else:
                assert result.good


@pytest.mark.parametrize("function", [Tmf.ABORT_TASK_SET, Tmf.CLEAR_TASK_SET])
async def test_a_task_set_is_aborted_as_a_whole(function: Tmf) -> None:
    async with open_scsi_pair(ScsiOptions(luns=LUNS, queues=2)) as pair, trio.open_nursery() as nursery:
        await blocked(pair)
        work = Commands(pair, nursery)
        for tag in range(21, 27):
            work.read(tag)
        work.read(29, LUNS[1])
        await settled()
        assert await pair.initiator.manage(Tmf.QUERY_TASK_SET, DISK) is Response.FUNCTION_SUCCEEDED
        assert await pair.initiator.manage(Tmf.QUERY_TASK, DISK, 26) is Response.FUNCTION_SUCCEEDED
        assert await pair.initiator.manage(Tmf.QUERY_TASK, DISK, 29) is Response.OK
        work.manage(function)
        await settled()
        open_gate(pair)
        await until(lambda: len(work.ended) == 8)
        assert work.ended.index((function, Response.OK)) >= 6
        assert {tag: end for tag, end in work.ended if tag != function} == {
            **dict.fromkeys(range(21, 27), Response.ABORTED),
            29: True,
        }
        assert await pair.initiator.manage(Tmf.QUERY_TASK_SET, DISK) is Response.OK


async def test_functions_that_can_not_be_are_answered_too() -> None:
    async with open_scsi_pair() as pair:
        manage = pair.initiator.manage
        assert await manage(Tmf.CLEAR_ACA, DISK) is Response.FUNCTION_REJECTED
        assert await manage(Tmf.ABORT_TASK, DISK, 77) is Response.OK  # it has ended, or never was
        assert await manage(Tmf.LOGICAL_UNIT_RESET, Lun(0, 9)) is Response.INCORRECT_LUN
        assert await manage(Tmf.LOGICAL_UNIT_RESET, Lun(1, 0)) is Response.BAD_TARGET
        assert await manage(Tmf.LOGICAL_UNIT_RESET, REPORT_LUNS) is Response.INCORRECT_LUN
        assert await manage(Tmf.I_T_NEXUS_RESET, Lun(0, 9)) is Response.OK  # the LUN means nothing there
        assert await manage(Tmf.I_T_NEXUS_RESET, Lun(1, 0)) is Response.BAD_TARGET


async def test_a_reset_of_the_device_ends_what_functions_wait_for() -> None:
    async with open_scsi_pair() as pair, trio.open_nursery() as nursery:
        await blocked(pair)
        work = Commands(pair, nursery)
        work.read(1)
        await until(lambda: pair.store.inside == 1)
        work.manage(Tmf.LOGICAL_UNIT_RESET)
        await settled()
        nursery.start_soon(pair.reset)
        await settled()
        open_gate(pair)
        pair.store.gate = None
        await until(lambda: len(work.ended) == 2)
        assert dict(work.ended) == {Tmf.LOGICAL_UNIT_RESET: Response.TRANSPORT_FAILURE, 1: True}


async def test_a_queue_that_stops_alone_leaves_no_request_waiting() -> None:
    async with open_scsi_pair(ScsiOptions(queues=2)) as pair, trio.open_nursery() as nursery:
        await blocked(pair)
        work = Commands(pair, nursery)
        for tag in range(4):
            work.read(tag)
        await until(lambda: pair.store.inside == 4)
        work.manage(Tmf.LOGICAL_UNIT_RESET)
        await settled()
        pair.vhost.disable_queue(2)
        await settled()
        assert not work.ended
        open_gate(pair)
        pair.store.gate = None
        await until(lambda: (Tmf.LOGICAL_UNIT_RESET, Response.OK) in work.ended)
        assert [end for tag, end in work.ended if tag != Tmf.LOGICAL_UNIT_RESET] == [Response.RESET] * 2
        await pair.domain.remove(DISK)
        pair.domain.add(DISK, new_unit())
        await pair.reset()
        await until(lambda: len(work.ended) == 5)


async def test_many_functions_wait_for_room_in_the_control_queue() -> None:
    async with open_scsi_pair(ScsiOptions(queue_size=4)) as pair, trio.open_nursery() as nursery:
        await blocked(pair)
        work = Commands(pair, nursery)
        work.read(1)
        await until(lambda: pair.store.inside == 1)
        for _ in range(20):
            work.manage(Tmf.LOGICAL_UNIT_RESET)
        await settled()
        open_gate(pair)
        await until(lambda: len(work.ended) == 21)
        assert work.ended[0] == (1, Response.RESET)
        assert pair.initiator.control_figures.done == 20
