"""Task management, hot plug and events: who ends what, who is told, and in which order."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

import attrs
import pytest
import trio
import trio.testing

from drivers.devices.scsi import (
    Asc,
    AsyncEvent,
    EventType,
    Key,
    Lun,
    ResetReason,
    Response,
    ScsiError,
    ScsiEvent,
    ScsiResult,
    Status,
    Tmf,
)
from drivers.devices.scsi import cdb as commands
from drivers.devices.scsi.device.mode import Mode
from drivers.devices.scsi.driver.initiator import EVENTS_KEPT
from drivers.devices.scsi.layout import REPORT_LUNS
from vnet.testing.blk import StubbornStore
from vnet.testing.checks import until
from vnet.testing.scsi import DISK, ScsiOptions, ScsiPair, new_unit, open_scsi_pair

LUNS = (Lun(0, 0), Lun(0, 1), Lun(7, 0))


def sense(result: ScsiResult) -> tuple[int, int]:
    assert (result.response, result.status) == (Response.OK, Status.CHECK_CONDITION)
    assert result.sense is not None
    return result.sense.key, result.sense.asc


class Commands:
    """Commands under way, and how they ended, in order."""

    def __init__(self, pair: ScsiPair, nursery: trio.Nursery) -> None:
        self.pair = pair
        self.ended: list[tuple[object, object]] = []
        self._nursery = nursery

    def start(self, name: object, call: Callable[[], Awaitable[object]]) -> None:
        async def run() -> None:
            try:
                result = await call()
            except ScsiError as exc:
                self.ended.append((name, exc.response))
            else:
                self.ended.append((name, result.good if isinstance(result, ScsiResult) else result))

        self._nursery.start_soon(run)

    def read(self, tag: int, lun: Lun = DISK) -> None:
        do = self.pair.initiator.execute
        self.start(tag, partial(do, commands.read(tag, 1), lun=lun, data_in=512, tag=tag))

    def write(self, tag: int, lun: Lun = DISK) -> None:
        do = self.pair.initiator.execute
        self.start(tag, partial(do, commands.write(tag, 1), lun=lun, data_out=bytes([tag]) * 512, tag=tag))

    def manage(self, function: Tmf, lun: Lun = DISK, tag: int = 0) -> None:
        self.start(function, partial(self.pair.initiator.manage, function, lun, tag))


async def blocked(pair: ScsiPair) -> None:
    """From now on every command waits for the gate."""
    for lun, unit in pair.domain.units.items():
        await pair.initiator.execute(commands.unit_ready(), lun=lun)
        store = unit.store
        assert isinstance(store, StubbornStore)
        store.at_once, store.gate = False, trio.Event()


def open_gate(pair: ScsiPair) -> None:
    for unit in pair.domain.units.values():
        store = unit.store
        assert isinstance(store, StubbornStore)
        assert store.gate is not None
        store.gate.set()


async def settled() -> None:
    await trio.testing.wait_all_tasks_blocked()


# Task management


@pytest.mark.every_transport(but=("vhost_user",))  # the events of two queues have no order among themselves
@pytest.mark.hostile("K03")
@pytest.mark.virtio("SCSI-DEV-11", "SCSI-DEV-21", "SCSI-DEV-22", "SCSI-DEV-23")
async def test_a_command_that_is_aborted_ends_before_the_function_that_aborted_it() -> None:
    async with open_scsi_pair() as pair, trio.open_nursery() as nursery:
        await blocked(pair)
        work = Commands(pair, nursery)
        for tag in (1, 2):
            work.read(tag)
        await until(lambda: pair.store.inside == 2)
        work.manage(Tmf.ABORT_TASK, tag=1)
        await trio.sleep(0.1)
        assert not work.ended  # its I/O has not
        open_gate(pair)
        await until(lambda: len(work.ended) == 3)
        assert work.ended.index((1, Response.ABORTED)) < work.ended.index((Tmf.ABORT_TASK, Response.OK))
        assert (2, True) in work.ended
        assert pair.scsi.figures[0].errors == {"aborted": 1}


@pytest.mark.hostile("K03")
async def test_what_nobody_has_begun_is_aborted_at_once_and_never_done() -> None:
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
                assert sense(result) == (Key.UNIT_ATTENTION, asc)
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


async def test_a_queue_that_stops_alone_leaves_nobody_waiting() -> None:
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


# Hot plug


@pytest.mark.every_transport
@pytest.mark.virtio("SCSI-DEV-1", "SCSI-DRV-1", "SCSI-DRV-18")
async def test_a_unit_that_is_plugged_in_is_told_found_and_used() -> None:
    async with open_scsi_pair() as pair:
        new = Lun(0, 300)
        await pair.read(0, 1)
        with pair.initiator.events() as events:
            pair.domain.add(new, new_unit())
            with trio.fail_after(1):
                event = await events.receive()
        assert event == ScsiEvent(EventType.TRANSPORT_RESET, new, ResetReason.RESCAN)
        assert event.rescan
        changed = await pair.read(0, 1)
        assert sense(changed) == (Key.UNIT_ATTENTION, Asc.REPORTED_LUNS_DATA_HAS_CHANGED)
        assert await pair.initiator.scan() == [DISK, new]
        assert (await pair.write(5, b"n" * 512, lun=new)).good
        assert (await pair.read(5, 1, lun=new)).data == b"n" * 512
        assert (await pair.read(0, 1)).good


@pytest.mark.virtio("SCSI-DEV-19")
async def test_a_unit_is_unplugged_once_its_commands_are_answered() -> None:
    async with open_scsi_pair(ScsiOptions(luns=LUNS)) as pair, trio.open_nursery() as nursery:
        await blocked(pair)
        work = Commands(pair, nursery)
        with pair.initiator.events() as events:
            for lun in (Lun(0, 1), Lun(7, 0)):
                work.read(lun.target, lun)
                await settled()
                store = pair.unit(lun).store
                assert isinstance(store, StubbornStore)
                work.start("removed", partial(pair.domain.remove, lun))
                await settled()
                assert ("removed", 1) not in work.ended
                assert store.gate is not None
                store.gate.set()
                with trio.fail_after(1):
                    event = await events.receive()
                assert event == ScsiEvent(EventType.TRANSPORT_RESET, lun, ResetReason.REMOVED)
                assert (lun.target, Response.FAILURE) in work.ended
                assert store.inside == 0
        open_gate(pair)
        gone = await pair.initiator.execute(commands.unit_ready(), lun=Lun(0, 1))
        assert sense(gone) == (Key.ILLEGAL_REQUEST, Asc.LOGICAL_UNIT_NOT_SUPPORTED)
        with pytest.raises(ScsiError, match="BAD_TARGET"):
            await pair.initiator.execute(commands.unit_ready(), lun=Lun(7, 0))
        assert await pair.initiator.scan() == [DISK]
        with pytest.raises(KeyError):
            await pair.domain.remove(Lun(7, 0))


@pytest.mark.virtio("SCSI-DEV-27")
async def test_without_the_feature_nobody_is_told_of_units_that_come_and_go() -> None:
    async with open_scsi_pair(ScsiOptions(features_off=("HOTPLUG", "CHANGE"))) as pair:
        await pair.read(0, 1)
        with pair.initiator.events() as events:
            pair.domain.add(Lun(0, 1), new_unit())
            await pair.domain.remove(Lun(0, 1))
            pair.domain.resized(DISK)
            await trio.sleep(1)
            with pytest.raises(trio.WouldBlock):
                events.receive_nowait()
        first, second = await pair.read(0, 1), await pair.read(0, 1)
        assert sense(first) == (Key.UNIT_ATTENTION, Asc.REPORTED_LUNS_DATA_HAS_CHANGED)
        assert sense(second) == (Key.UNIT_ATTENTION, Asc.CAPACITY_DATA_HAS_CHANGED)


@pytest.mark.virtio("SCSI-DEV-25", "SCSI-DRV-2")
async def test_a_unit_that_grows_says_so_by_event_and_by_attention() -> None:
    async with open_scsi_pair() as pair:
        await pair.read(0, 1)
        with pair.initiator.events() as events:
            pair.store.info = attrs.evolve(pair.store.info, size=16 << 20)
            pair.domain.resized(DISK)
            with trio.fail_after(1):
                event = await events.receive()
        assert event == ScsiEvent(EventType.PARAM_CHANGE, DISK, 0x092A)
        assert not event.rescan
        assert sense(await pair.read(0, 1)) == (Key.UNIT_ATTENTION, Asc.CAPACITY_DATA_HAS_CHANGED)
        found = await pair.initiator.execute(commands.read_capacity(), data_in=32)
        assert int.from_bytes(found.data[:8], "big") == (16 << 20) // 512 - 1


async def test_a_unit_that_resets_itself_says_so() -> None:
    async with open_scsi_pair() as pair, trio.open_nursery() as nursery:
        await blocked(pair)
        work = Commands(pair, nursery)
        work.read(1)
        await until(lambda: pair.store.inside == 1)
        with pair.initiator.events() as events:
            work.start("reset", partial(pair.domain.reset, DISK))
            await settled()
            open_gate(pair)
            with trio.fail_after(1):
                assert await events.receive() == ScsiEvent(EventType.TRANSPORT_RESET, DISK, ResetReason.HARD)
        assert (1, Response.RESET) in work.ended
        result = await pair.initiator.execute(commands.unit_ready(), attention=True)
        assert sense(result) == (Key.UNIT_ATTENTION, Asc.POWER_ON_OR_RESET)


# Events


@pytest.mark.virtio("SCSI-DEV-24")
async def test_notifications_are_told_to_who_subscribed_to_them() -> None:
    can = AsyncEvent.MEDIA_CHANGE | AsyncEvent.OPERATIONAL_CHANGE
    async with open_scsi_pair() as pair:
        initiator = pair.initiator
        pair.domain.add(Lun(0, 1), new_unit(events=can))
        await initiator.execute(commands.unit_ready(), lun=Lun(0, 1))
        asked = AsyncEvent.MEDIA_CHANGE | AsyncEvent.POWER_MGMT
        assert await initiator.query_events(Lun(0, 1), asked) == AsyncEvent.MEDIA_CHANGE
        assert await initiator.query_events(DISK, AsyncEvent(126)) == AsyncEvent(0)
        assert await initiator.query_events(REPORT_LUNS, AsyncEvent(126)) == AsyncEvent(0)
        for lun, response in ((Lun(0, 9), Response.INCORRECT_LUN), (Lun(9, 0), Response.BAD_TARGET)):
            with pytest.raises(ScsiError) as caught:
                await initiator.query_events(lun, asked)
            assert caught.value.response is response
        with initiator.events() as events:
            pair.domain.notify(Lun(0, 1), can)  # nobody subscribed
            assert await initiator.subscribe(Lun(0, 1), asked) == AsyncEvent.MEDIA_CHANGE
            pair.domain.notify(Lun(0, 1), AsyncEvent.OPERATIONAL_CHANGE)
            pair.domain.notify(Lun(0, 1), can)
            with trio.fail_after(1):
                event = await events.receive()
            assert event == ScsiEvent(EventType.ASYNC_NOTIFY, Lun(0, 1), AsyncEvent.MEDIA_CHANGE)
            assert await initiator.subscribe(Lun(0, 1), AsyncEvent(0)) == AsyncEvent(0)
            pair.domain.notify(Lun(0, 1), can)
            await trio.sleep(1)
            with pytest.raises(trio.WouldBlock):
                events.receive_nowait()


@pytest.mark.virtio("SCSI-DEV-26", "SCSI-DRV-12", "SCSI-DRV-13", "SCSI-DRV-14", "SCSI-DRV-15", "SCSI-DRV-16")
async def test_more_events_than_there_are_buffers_are_lost_and_said_to_be() -> None:
    async with open_scsi_pair() as pair:
        with pair.initiator.events() as events:
            for lun in range(1, 31):
                pair.domain.add(Lun(0, lun), new_unit(4096))
            found = [await events.receive() for _ in range(17)]
            assert [event.lun for event in found[:16]] == [Lun(0, lun) for lun in range(1, 17)]
            assert not any(event.missed for event in found[:16])
            assert found[16] == ScsiEvent(EventType.NO_EVENT, None, 0, missed=True)
            assert found[16].rescan
            assert len(await pair.initiator.scan()) == 31
            pair.domain.add(Lun(0, 31), new_unit(4096))
            assert not (await events.receive()).missed
        assert pair.scsi.events.drops == {"no_buffer": 14}


async def test_who_listens_too_slowly_learns_that_it_missed_some() -> None:
    async with open_scsi_pair() as pair:
        with pair.initiator.events() as slow, pair.initiator.events() as gone:
            gone.close()
            for i in range(EVENTS_KEPT + 3):
                pair.initiator.publish_event(ScsiEvent(EventType.ASYNC_NOTIFY, DISK, i))
            for i in range(EVENTS_KEPT):
                assert slow.receive_nowait() == ScsiEvent(EventType.ASYNC_NOTIFY, DISK, i)
            pair.initiator.publish_event(ScsiEvent(EventType.ASYNC_NOTIFY, DISK, 0))
            assert slow.receive_nowait().missed


async def test_over_a_reset_events_may_have_been_missed() -> None:
    async with open_scsi_pair() as pair:
        with pair.initiator.events() as events:
            await pair.reset()
            assert events.receive_nowait() == ScsiEvent(EventType.NO_EVENT, None, 0, missed=True)
