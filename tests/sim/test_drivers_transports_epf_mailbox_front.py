"""The driver half of the mailbox: commands, slow endpoints, and endpoints that lie."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

import pytest
import trio
import trio.testing

from drivers.bus.binding import BindState
from drivers.errors import FeatureMismatch, ProbeError, TransportLost
from drivers.testing import TappedFunction
from drivers.transports.epf_mailbox import registers as mb
from drivers.transports.epf_mailbox.front import VirtioMailbox
from support.rigs.mailbox import MAILBOX, Sluggish, alone, back, exchange
from vnet.testing import FRAME, bounded, open_pair, tapped, until

Reg, QueueReg, Ext, ExtQueue, Outcome = mb.Reg, mb.QueueReg, mb.Ext, mb.ExtQueue, mb.MailboxOutcome
ACTIVATE, NOTIFY = mb.QueueCommand.ACTIVATE, mb.QueueCommand.NOTIFY

# Commands and time


@pytest.mark.hostile("D09")
async def test_a_command_that_is_not_answered_is_given_up_after_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_pair(MAILBOX) as pair, alone(pair) as front:
        slow = Sluggish(pair, monkeypatch)
        began = trio.current_time()
        with pytest.raises(TransportLost, match=r"no answer to command \d+ within 1 s"):
            await front.set_status(1)
        assert trio.current_time() - began == pytest.approx(1, abs=0.01)
        slow.wake()
        await front.set_status(1)
        assert await front.get_status() == 1


async def test_a_late_answer_never_satisfies_the_next_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """Defect of the RFC: the OKAY of a command that was given up stood there for the next one."""
    async with open_pair(MAILBOX) as pair, alone(pair) as front:
        slow = Sluggish(pair, monkeypatch)
        with pytest.raises(TransportLost):
            await front.set_status(1)
        late = front._mailbox.sequence
        done = []

        async def ask() -> None:
            done.append(await front._command(front._mailbox, mb.DeviceCommand.RESET))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await trio.sleep(0.1)
            back(pair)._complete(Reg.CMD_STATUS.value, Ext.COMPLETED.value, late, True)
            await trio.sleep(0.5)
            assert done == []
            assert front._get(Reg.CMD_STATUS.value) == Outcome.OKAY  # it is there, and not taken
            slow.wake()
        assert done == [True]


async def test_a_command_that_was_never_accepted_is_withdrawn_before_the_next_is_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its number must never stand beside another command's."""
    async with open_pair(MAILBOX) as pair, alone(pair) as front:
        slow = Sluggish(pair, monkeypatch)
        with pytest.raises(TransportLost):
            await front.set_status(1)
        tap = TappedFunction(front._function)
        front._function = tap
        slow.wake()
        slow2 = Sluggish(pair, monkeypatch)
        with pytest.raises(TransportLost):
            await front.set_status(3)
        with pytest.raises(TransportLost):
            await front.set_status(3)
        order = [(a.offset, a.value) for a in tap.log if a.write and a.offset in {Reg.CMD.offset, Ext.SEQUENCE.offset}]
        numbers = [value for offset, value in order if offset == Ext.SEQUENCE.offset]
        assert numbers == [numbers[0], numbers[0] + 1]
        second = order.index((Ext.SEQUENCE.offset, numbers[1]))
        assert order[second - 1] == (Reg.CMD.offset, mb.DeviceCommand.NONE)
        slow2.wake()


async def test_a_late_reset_does_not_count_for_a_later_one_and_the_device_recovers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with open_pair(MAILBOX) as pair:
        slow = Sluggish(pair, monkeypatch)
        virtio = pair.virtio
        driver = pair.rc.virtio.binding(virtio).driver
        assert driver is not None
        began = trio.current_time()
        await pair.rc.virtio.unregister_driver(driver)
        assert 1 <= trio.current_time() - began < 1.1
        # It may still write: it has no way into memory any more.
        assert not pair.function.config_read(0x04, 2) & 0x04
        slow.wake()
        pair.rc.virtio.register_driver(driver)
        await pair.world.wait_up()
        await exchange(pair)


async def test_commands_are_given_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_pair(MAILBOX) as pair, alone(pair) as front:
        slow = Sluggish(pair, monkeypatch)
        order: list[int] = []

        async def ask(number: int) -> None:
            await front._command(front._mailbox, mb.DeviceCommand.SET_STATUS)
            order.append(number)

        async with trio.open_nursery() as nursery:
            for number in range(5):
                nursery.start_soon(ask, number)
            for answered in range(5):
                await trio.sleep(0.01)
                assert len(order) == answered
                assert set(slow.rung) == {mb.DEVICE_DOORBELL}
                slow.catch_up()
        slow.wake()


async def test_a_notification_and_an_awaited_command_never_overwrite_each_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with open_pair(MAILBOX) as pair, alone(pair) as front:
        slow = Sluggish(pair, monkeypatch)
        front._kick(0)()
        assert front._get(QueueReg.CMD.at(0)) == NOTIFY
        async with trio.open_nursery() as nursery:
            nursery.start_soon(front._command, front._queue_mailboxes[0], ACTIVATE)
            await trio.sleep(0.1)
            assert front._get(QueueReg.CMD.at(0)) == NOTIFY
            slow.catch_up()
            await trio.sleep(0.1)
            assert front._get(QueueReg.CMD.at(0)) == ACTIVATE
            slow.wake()
        assert pair.vhost.queues[0].spurious


async def test_a_burst_of_notifications_is_one_look_and_none_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_pair(MAILBOX) as pair:
        await trio.testing.wait_all_tasks_blocked()
        slow = Sluggish(pair, monkeypatch)
        for _ in range(5):
            pair.driver_port.inject(FRAME)
            await trio.testing.wait_all_tasks_blocked()
        slow.wake()
        for _ in range(5):
            with bounded():
                assert (await pair.device_port.receive())[1] == FRAME


async def test_a_lost_doorbell_is_rung_again_also_that_of_a_notification_before_a_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A lost NOTIFY must not keep the queue from being activated for ever."""
    async with open_pair(MAILBOX) as pair, alone(pair) as front:
        began = trio.current_time()
        slow = Sluggish(pair, monkeypatch)
        front._kick(0)()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(front._command, front._queue_mailboxes[0], ACTIVATE)
            nursery.start_soon(front.set_status, 1)
            for _ in range(2):
                await trio.sleep(0.001)
                slow.rung.clear()  # lost
                await trio.sleep(0.012)
                slow.catch_up()
            slow.wake()
        assert trio.current_time() - began < 0.1


@pytest.mark.hostile("L10", "L11")
async def test_a_link_that_goes_while_a_command_is_under_way_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_pair(MAILBOX) as pair, alone(pair) as front:
        slow = Sluggish(pair, monkeypatch)
        began = trio.current_time()

        async def ask() -> None:
            with pytest.raises(TransportLost, match="does not respond"):
                await front.set_status(1)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await trio.sleep(0.1)
            pair.link.bring_down()
        assert trio.current_time() - began < 0.2
        pair.link.bring_up()
        slow.rung.clear()
        slow.wake()
        await front.reset()


# What the endpoint says


Lie = Callable[[int], int]
REFUSED: dict[str, tuple[int, Lie, str]] = {
    "no queue": (QueueReg.NUM_BUFFERS.at(0)[0], lambda _: 0, "does not exist"),
    "no power of two": (QueueReg.NUM_BUFFERS.at(0)[0], lambda _: 3, "reports a queue size of 3"),
    "too many": (QueueReg.NUM_BUFFERS.at(0)[0], lambda _: 0xFFFF, "reports a queue size of 65535"),
    "in use": (QueueReg.STATUS.at(1)[0], lambda _: 1, "already in use"),
    "an error": (QueueReg.CMD_STATUS.at(1)[0], lambda value: value and 2, "can't be activated"),
}


@pytest.mark.hostile("D07")
@pytest.mark.parametrize(("offset", "lie", "why"), REFUSED.values(), ids=REFUSED)
async def test_queues_that_can_not_be_are_refused_at_probe_and_nothing_is_kept(offset: int, lie: Lie, why: str) -> None:
    async with open_pair(MAILBOX) as pair, tapped(pair) as tap:
        buffers = pair.rc.memory.statistics().buffers
        tap.lies[mb.BAR, offset] = lie
        pair.rc.pci.register_device(tap)
        await until(lambda: [b.state for b in pair.rc.virtio.bindings] == [BindState.FAILED])
        [binding] = pair.rc.virtio.bindings
        assert why in binding.error
        assert pair.rc.memory.statistics().buffers == buffers


async def test_features_that_the_endpoint_refuses_are_a_mismatch() -> None:
    async with open_pair(MAILBOX) as pair, alone(pair) as front:
        with pytest.raises(FeatureMismatch, match="refused the features"):
            await front.finalize_features(1 << 100)


async def test_features_that_read_all_ones_are_read_again_and_are_no_refusal() -> None:
    """A read that timed out on a faulty link: the bus brings the device up again, and it does not stay failed."""
    async with open_pair(MAILBOX) as pair, tapped(pair) as tap:
        reads = count(1)
        tap.lies[mb.BAR, Ext.DEVICE_FEATURES.offset + 4] = lambda value: value if next(reads) > 2 else 0xFFFF_FFFF
        pair.rc.pci.register_device(tap)
        await pair.world.wait_up()
        assert pair.virtio.last_reset == "virtio0: a read of its features failed"
        assert pair.virtio.features == pair.vhost.features


@pytest.mark.parametrize("bar", [1, 4, 0xFE])
async def test_doorbells_that_are_nowhere_are_refused(bar: int) -> None:
    async with open_pair(MAILBOX) as pair, tapped(pair) as tap:
        tap.lies[mb.BAR, Ext.DOORBELL_BAR.offset] = lambda _: bar
        front = VirtioMailbox(tap)  # a former driver may have written that, which a reset puts right
        with pytest.raises(ProbeError, match=f"no doorbells at 0x0 in BAR {bar}"):
            await front.reset()


async def test_a_function_without_the_block_is_refused() -> None:
    async with open_pair(MAILBOX) as pair, tapped(pair) as tap:
        tap.bar_sizes[mb.BAR] = 256
        with pytest.raises(ProbeError, match="no register block in BAR 0"):
            VirtioMailbox(tap)


async def test_without_msix_it_is_refused() -> None:
    async with open_pair(MAILBOX) as pair, tapped(pair) as tap:
        tap.max_vectors = 0
        pair.rc.pci.register_device(tap)
        await until(lambda: [b.state for b in pair.rc.virtio.bindings] == [BindState.FAILED])
        assert "no MSI-X" in pair.rc.virtio.bindings[0].error
