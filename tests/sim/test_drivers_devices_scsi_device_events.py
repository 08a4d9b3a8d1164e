"""SCSI hot plug and events: which events a driver gets, and in which order."""

from __future__ import annotations

from functools import partial

import attrs
import pytest
import trio
import trio.testing

from drivers.devices.scsi import (
    Asc,
    AsyncEvent,
    EventType,
    Lun,
    ResetReason,
    Response,
    ScsiError,
    ScsiEvent,
    SenseKey,
)
from drivers.devices.scsi import cdb as commands
from drivers.devices.scsi.driver.initiator import EVENTS_KEPT
from drivers.devices.scsi.layout import REPORT_LUNS
from support.rigs.scsi_tasks import LUNS, Commands, blocked, open_gate, sense, settled
from vnet.testing.blk import StubbornStore
from vnet.testing.checks import bounded, until
from vnet.testing.scsi import DISK, ScsiOptions, new_unit, open_scsi_pair

# Hot plug


@pytest.mark.every_transport
@pytest.mark.virtio("SCSI-DEV-1", "SCSI-DRV-1", "SCSI-DRV-18")
async def test_a_unit_that_is_plugged_in_is_reported_found_and_used() -> None:
    async with open_scsi_pair() as pair:
        new = Lun(0, 300)
        await pair.read(0, 1)
        with pair.initiator.events() as events:
            pair.domain.add(new, new_unit())
            with bounded():
                event = await events.receive()
        assert event == ScsiEvent(EventType.TRANSPORT_RESET, new, ResetReason.RESCAN)
        assert event.rescan
        changed = await pair.read(0, 1)
        assert sense(changed) == (SenseKey.UNIT_ATTENTION, Asc.REPORTED_LUNS_DATA_HAS_CHANGED)
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
                with bounded():
                    event = await events.receive()
                assert event == ScsiEvent(EventType.TRANSPORT_RESET, lun, ResetReason.REMOVED)
                assert (lun.target, Response.FAILURE) in work.ended
                assert store.inside == 0
        open_gate(pair)
        gone = await pair.initiator.execute(commands.unit_ready(), lun=Lun(0, 1))
        assert sense(gone) == (SenseKey.ILLEGAL_REQUEST, Asc.LOGICAL_UNIT_NOT_SUPPORTED)
        with pytest.raises(ScsiError, match="BAD_TARGET"):
            await pair.initiator.execute(commands.unit_ready(), lun=Lun(7, 0))
        assert await pair.initiator.scan() == [DISK]
        with pytest.raises(KeyError):
            await pair.domain.remove(Lun(7, 0))


@pytest.mark.virtio("SCSI-DEV-27")
async def test_without_the_feature_units_come_and_go_without_an_event() -> None:
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
        assert sense(first) == (SenseKey.UNIT_ATTENTION, Asc.REPORTED_LUNS_DATA_HAS_CHANGED)
        assert sense(second) == (SenseKey.UNIT_ATTENTION, Asc.CAPACITY_DATA_HAS_CHANGED)


@pytest.mark.virtio("SCSI-DEV-25", "SCSI-DRV-2")
async def test_a_unit_that_grows_says_so_by_event_and_by_attention() -> None:
    async with open_scsi_pair() as pair:
        await pair.read(0, 1)
        with pair.initiator.events() as events:
            pair.store.info = attrs.evolve(pair.store.info, size=16 << 20)
            pair.domain.resized(DISK)
            with bounded():
                event = await events.receive()
        assert event == ScsiEvent(EventType.PARAM_CHANGE, DISK, 0x092A)
        assert not event.rescan
        assert sense(await pair.read(0, 1)) == (SenseKey.UNIT_ATTENTION, Asc.CAPACITY_DATA_HAS_CHANGED)
        actual = await pair.initiator.execute(commands.read_capacity(), data_in=32)
        assert int.from_bytes(actual.data[:8], "big") == (16 << 20) // 512 - 1


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
            with bounded():
                assert await events.receive() == ScsiEvent(EventType.TRANSPORT_RESET, DISK, ResetReason.HARD)
        assert (1, Response.RESET) in work.ended
        result = await pair.initiator.execute(commands.unit_ready(), attention=True)
        assert sense(result) == (SenseKey.UNIT_ATTENTION, Asc.POWER_ON_OR_RESET)


# Events


@pytest.mark.virtio("SCSI-DEV-24")
async def test_notifications_go_to_subscribers() -> None:
    can = AsyncEvent.MEDIA_CHANGE | AsyncEvent.OPERATIONAL_CHANGE
    async with open_scsi_pair() as pair:
        initiator = pair.initiator
        pair.domain.add(Lun(0, 1), new_unit(events=can))
        await initiator.execute(commands.unit_ready(), lun=Lun(0, 1))
        requests = AsyncEvent.MEDIA_CHANGE | AsyncEvent.POWER_MGMT
        assert await initiator.query_events(Lun(0, 1), requests) == AsyncEvent.MEDIA_CHANGE
        assert await initiator.query_events(DISK, AsyncEvent(126)) == AsyncEvent(0)
        assert await initiator.query_events(REPORT_LUNS, AsyncEvent(126)) == AsyncEvent(0)
        for lun, response in ((Lun(0, 9), Response.INCORRECT_LUN), (Lun(9, 0), Response.BAD_TARGET)):
            with pytest.raises(ScsiError) as caught:
                await initiator.query_events(lun, requests)
            assert caught.value.response is response
        with initiator.events() as events:
            pair.domain.notify(Lun(0, 1), can)  # no subscription
            assert await initiator.subscribe(Lun(0, 1), requests) == AsyncEvent.MEDIA_CHANGE
            pair.domain.notify(Lun(0, 1), AsyncEvent.OPERATIONAL_CHANGE)
            pair.domain.notify(Lun(0, 1), can)
            with bounded():
                event = await events.receive()
            assert event == ScsiEvent(EventType.ASYNC_NOTIFY, Lun(0, 1), AsyncEvent.MEDIA_CHANGE)
            assert await initiator.subscribe(Lun(0, 1), AsyncEvent(0)) == AsyncEvent(0)
            pair.domain.notify(Lun(0, 1), can)
            await trio.sleep(1)
            with pytest.raises(trio.WouldBlock):
                events.receive_nowait()


@pytest.mark.virtio("SCSI-DEV-26", "SCSI-DRV-12", "SCSI-DRV-13", "SCSI-DRV-14", "SCSI-DRV-15", "SCSI-DRV-16")
async def test_events_beyond_the_buffers_are_lost_and_reported_as_lost() -> None:
    async with open_scsi_pair() as pair:
        with pair.initiator.events() as events:
            for lun in range(1, 31):
                pair.domain.add(Lun(0, lun), new_unit(4096))
            with bounded():
                actual = [await events.receive() for _ in range(17)]
            assert [event.lun for event in actual[:16]] == [Lun(0, lun) for lun in range(1, 17)]
            assert not any(event.missed for event in actual[:16])
            assert actual[16] == ScsiEvent(EventType.NO_EVENT, None, 0, missed=True)
            assert actual[16].rescan
            assert len(await pair.initiator.scan()) == 31
            pair.domain.add(Lun(0, 31), new_unit(4096))
            with bounded():
                assert not (await events.receive()).missed
        assert pair.plug.events.drops == {"no_buffer": 14}


async def test_a_slow_listener_learns_that_it_missed_events() -> None:
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
