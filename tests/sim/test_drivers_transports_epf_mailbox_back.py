"""The endpoint half of the mailbox: drivers without the extension, and hostile drivers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import attrs
import pytest
import trio
import trio.testing

from drivers.errors import ProbeError, TransportLost
from drivers.transports import epf_mailbox
from drivers.transports.epf_mailbox import registers as mb
from drivers.transports.epf_mailbox.back import MailboxEpf
from rings.layout import WRITE, split_sizes
from rings.status import Status
from rings.testing import Desc
from support.rigs.mailbox import MAILBOX, POLLED, Sluggish, alone, back
from vnet.testing import FRAME, NetPair, bounded, hostile_driver, open_pair, unharmed
from vnet.testing.hostile import HostileMailbox
from vnet.transports import TRANSPORTS

Reg, QueueReg, Ext, ExtQueue, Outcome = mb.Reg, mb.QueueReg, mb.Ext, mb.ExtQueue, mb.MailboxOutcome
OK = Status.ACKNOWLEDGE | Status.DRIVER | Status.FEATURES_OK | Status.DRIVER_OK

# Without the extension


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """The endpoint is what the RFC had."""
    plain = attrs.evolve(epf_mailbox.MAILBOX, back=partial(MailboxEpf, extension=False))
    monkeypatch.setitem(TRANSPORTS._records, "epf_mailbox", plain)


@pytest.mark.usefixtures("plain")
async def test_without_the_extension_rings_are_in_one_piece_and_it_works_all_the_same() -> None:
    async with open_pair(POLLED) as pair, unharmed(pair):
        await pair.transfer(1 << 16)
        for queue in pair.vhost.queues:
            desc, avail, _ = split_sizes(queue.num)
            assert queue.num == queue.max_num
            assert queue.addrs.desc % 4096 == 0
            assert queue.addrs.driver == queue.addrs.desc + desc
            assert queue.addrs.device == -(-(queue.addrs.desc + desc + avail) // 4096) * 4096
        assert "ext.magic" not in back(pair).registers()


@pytest.mark.usefixtures("plain")
async def test_without_the_extension_an_answer_that_is_owed_is_waited_for_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing else tells a late answer from the one that was asked for."""
    async with open_pair(POLLED) as pair, alone(pair) as front:
        assert not front.extended
        slow = Sluggish(pair, monkeypatch)
        with pytest.raises(TransportLost):
            await front.set_status(1)
        requests: list[bool] = []

        async def ask() -> None:
            requests.append(await front._command(front._mailbox, mb.DeviceCommand.RESET))

        with pytest.raises(TransportLost):
            await ask()  # what is owed never comes
        assert front._get(Reg.CMD.value) == mb.DeviceCommand.SET_STATUS
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await trio.sleep(0.1)
            slow.catch_up()  # the late one
            await trio.sleep(0.1)
            assert requests == []
            assert front._get(Reg.CMD.value) == mb.DeviceCommand.RESET
            slow.wake()
        assert requests == [True]
        with pytest.raises(ProbeError, match="read-only without the extension"):
            await front.write_config(0, b"\0")


# What a driver may try


@asynccontextmanager
async def intruder(pair: NetPair) -> AsyncIterator[HostileMailbox[NetPair]]:
    async with hostile_driver(pair) as driver:
        assert isinstance(driver, HostileMailbox)
        yield driver


@pytest.mark.hostile("S05")
async def test_writes_after_activate_change_nothing() -> None:
    async with open_pair(MAILBOX) as pair, unharmed(pair), intruder(pair) as driver:
        await driver.start()
        rings = [queue.ring for queue in pair.vhost.queues]
        for offset in range(0x1C, 0x9C, 4):
            if (offset - 0x1C) % 16:  # not the command words
                driver.function.bar_write(mb.BAR, offset, 4, 0xFFFF_FFFF)
        for offset in range(0x590, 0x6D0, 4):
            driver.function.bar_write(mb.BAR, offset, 4, 0xFFFF_FFFF)
        driver.send(Desc(driver.put(bytes(12) + FRAME), 12 + len(FRAME)))
        with bounded():
            assert (await pair.device_port.receive())[1] == FRAME
        await trio.testing.wait_all_tasks_blocked()
        assert [queue.ring for queue in pair.vhost.queues] == rings
        assert driver.status == OK


@pytest.mark.hostile("R15", "S05")
@pytest.mark.parametrize("fill", [0x00, 0xFF, 0xA5])
async def test_registers_overwritten_as_a_whole_are_put_right_by_a_reset(fill: int) -> None:
    async with open_pair(MAILBOX) as pair, unharmed(pair), intruder(pair) as driver:
        await driver.start()
        for offset in range(0, mb.BAR_SIZE, 4):
            if not mb.MSIX <= offset < mb.MSIX + 16 * mb.VECTORS + 8:
                driver.function.bar_write(mb.BAR, offset, 4, fill * 0x01010101)
        for doorbell in range(9):
            driver.ring(doorbell)
        driver.pair.vhost.fail("something else")
        driver.put_reg(Reg.CMD_STATUS.value, 0)
        await driver.reset()
        assert driver.reg(Ext.MAGIC.value) == mb.EXT_MAGIC
        assert driver.device_features == pair.vhost.device_features


@pytest.mark.hostile("S09")
async def test_deactivate_under_load_stops_that_queue_at_once() -> None:
    async with open_pair(MAILBOX) as pair, unharmed(pair), intruder(pair) as driver:
        await driver.start()
        frame = driver.put(bytes(12) + FRAME)
        for head in range(8):
            driver.rings[1].write(head, Desc(frame, 12 + len(FRAME)))
        driver.rings[1].offer(*range(8))
        driver.kick(1)
        assert driver.queue_command(1, mb.QueueCommand.DEACTIVATE) == Outcome.OKAY
        used = driver.rings[1].used_idx
        await trio.testing.wait_all_tasks_blocked()
        driver.kick(1)
        await trio.testing.wait_all_tasks_blocked()
        assert driver.rings[1].used_idx == used
        room = driver.alloc(2000)
        pair.device_port.inject(FRAME)
        driver.send(Desc(room, 2000, WRITE), queue=0)
        await trio.testing.wait_all_tasks_blocked()
        assert driver.rings[0].used_idx == 1


@pytest.mark.hostile("R21", "S07")
async def test_a_storm_of_senseless_doorbells_and_commands_holds_up_no_other() -> None:
    async with open_pair(attrs.evolve(MAILBOX, devices=2)) as pair, unharmed(pair), intruder(pair) as driver:
        await driver.start()
        for turn in range(2000):
            driver.queue_command(turn % 8, turn % 256)
            driver.ring(turn % 16)
        assert pair.vhost.status == OK
        await pair.transfer(1 << 17, "net1")
