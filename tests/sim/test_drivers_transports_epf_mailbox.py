"""The mailbox endpoint: its driver's half under a recorder, slow and lying endpoints, and traffic over it.

What the RFC that the register block comes from got wrong has a test each, which names the defect.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

import attrs
import pytest
import trio
import trio.testing

from drivers.bus.model import BindState
from drivers.contracts.hw import DmaBuffer
from drivers.errors import FeatureMismatch, ProbeError, TransportLost
from drivers.registry import TRANSPORTS
from drivers.testing import RegisterAccess, TappedFunction
from drivers.transports.epf_mailbox import registers as mb
from drivers.transports.epf_mailbox.back import MailboxEpf
from drivers.transports.epf_mailbox.front import VirtioMailbox
from rings.features import RingFeature
from rings.layout import WRITE, split_sizes
from rings.status import Status
from rings.testing import Desc
from vnet.testing import FRAME, Options, Pair, bounded, hostile_driver, open_pair, tapped, unharmed, until
from vnet.testing.carriers import HostileMailbox

MAILBOX = Options(transport="epf_mailbox", queue_size=16)
POLLED = attrs.evolve(MAILBOX, poll=True)
Reg, QueueReg, Ext, ExtQueue, Outcome = mb.Reg, mb.QueueReg, mb.Ext, mb.ExtQueue, mb.MailboxOutcome
ACTIVATE, NOTIFY = mb.QueueCommand.ACTIVATE, mb.QueueCommand.NOTIFY
OK = Status.ACKNOWLEDGE | Status.DRIVER | Status.FEATURES_OK | Status.DRIVER_OK


@asynccontextmanager
async def recorded(pair: Pair) -> AsyncIterator[TappedFunction]:
    """A pair whose driver is bound to a recorder."""
    async with tapped(pair) as tap:
        pair.rc.pci.register_device(tap)
        await pair.world.wait_up()
        yield tap


@asynccontextmanager
async def alone(pair: Pair) -> AsyncIterator[VirtioMailbox]:
    """The driver's half without a bus above it, which is bound again, and up, at the end."""
    bus, function = pair.carrier
    await bus.unregister_device(function)
    front = VirtioMailbox(function)
    function.watch(front)
    yield front
    with trio.CancelScope(shield=True):
        await front.reset()
    function.watch(None)
    bus.register_device(function)
    await pair.world.wait_up()


def back(pair: Pair) -> MailboxEpf:
    found = pair.device.back
    assert isinstance(found, MailboxEpf)
    return found


def registers(log: list[RegisterAccess]) -> list[RegisterAccess]:
    return [a for a in log if a.bar == mb.BAR and not mb.MSIX <= a.offset < mb.MSIX + 16 * mb.VECTORS]


def written(log: list[RegisterAccess], place: tuple[int, int]) -> list[int]:
    return [a.value for a in log if a.bar == mb.BAR and a.write and (a.offset, a.size) == place]


async def exchange(pair: Pair, count: int = 20) -> None:
    for source, sink in ((pair.driver_port, pair.device_port), (pair.device_port, pair.driver_port)):
        for _ in range(count):
            source.inject(FRAME)
        for _ in range(count):
            with bounded():
                assert (await sink.receive())[1] == FRAME


class Sluggish:
    """An endpoint that looks when a test says so: doorbells are kept until then."""

    def __init__(self, pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rung: list[int] = []
        self._epf = back(pair)
        self._look = self._epf.serve_doorbell
        monkeypatch.setattr(self._epf, "serve_doorbell", self.rung.append)

    def catch_up(self) -> None:
        """Look for all that was rung."""
        rung, self.rung[:] = list(self.rung), []
        for doorbell in rung:
            self._look(doorbell)

    def wake(self) -> None:
        self.catch_up()
        self._epf.serve_doorbell = self._look  # type: ignore[method-assign]


# It works


@pytest.mark.parametrize("options", [MAILBOX, POLLED], ids=["doorbells", "polled"])
async def test_a_megabyte_crosses_each_way_with_all_ring_features(options: Options) -> None:
    """Defect of the RFC: neither VERSION_1 nor EVENT_IDX nor INDIRECT_DESC was offered."""
    async with open_pair(options) as pair, unharmed(pair):
        await pair.transfer()
        for bit in (RingFeature.VERSION_1, RingFeature.EVENT_IDX, RingFeature.INDIRECT_DESC):
            assert pair.virtio.has(bit)


async def test_an_endpoint_that_polls_sees_a_notification_within_a_millisecond() -> None:
    async with open_pair(POLLED) as pair:
        for _ in range(10):
            began = trio.current_time()
            pair.driver_port.inject(FRAME)
            await pair.device_port.receive()
            assert trio.current_time() - began <= 0.0011


async def test_an_endpoint_with_doorbells_never_looks_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Defect of the RFC: nine work items that looked every millisecond, for ever."""
    async with open_pair(MAILBOX) as pair:
        slow = Sluggish(pair, monkeypatch)
        await trio.sleep(10)
        assert slow.rung == []
        slow.wake()


@pytest.mark.parametrize("options", [MAILBOX, POLLED], ids=["doorbells", "polled"])
async def test_reset_under_load_loses_frames_at_most_and_leaks_nothing(options: Options) -> None:
    async with open_pair(options) as pair, unharmed(pair):

        async def load() -> None:
            while True:
                pair.driver_port.inject(FRAME)
                pair.device_port.inject(FRAME)
                await trio.sleep(0.0001)
                for port in (pair.driver_port, pair.device_port):
                    port._outbound.clear()  # it never is full

        async with trio.open_nursery() as nursery:
            nursery.start_soon(load)
            for _ in range(20):
                await trio.sleep(0.003)
                await pair.reset()
            nursery.cancel_scope.cancel()
        await trio.sleep(0.1)  # what is under way arrives


async def test_a_link_that_goes_and_comes_keeps_the_device_bound() -> None:
    async with open_pair(MAILBOX) as pair, unharmed(pair):
        for _ in range(5):
            pair.link.bring_down()
            await until(lambda: pair.vhost.status == 0)
            pair.link.bring_up()
            await pair.world.wait_up()
            await exchange(pair)


async def test_interrupts_have_a_vector_for_each_queue_and_one_for_the_configuration() -> None:
    async with open_pair(MAILBOX) as pair, unharmed(pair):
        assert [queue.vector for queue in pair.vhost.queues] == [1, 2]
        await trio.testing.wait_all_tasks_blocked()
        before = [queue.calls for queue in pair.virtio.queues]
        pair.vhost.ops.call(pair.vhost.queues[1])
        assert [queue.calls for queue in pair.virtio.queues] == [before[0], before[1] + 1]


# Defects of the RFC


async def test_every_access_is_aligned_and_isr_is_left_alone() -> None:
    """Defect of the RFC: isr is a 4-byte field at offset 0x16."""
    async with open_pair(MAILBOX) as pair, recorded(pair) as tap:
        await exchange(pair)
        await pair.reset()
        for access in registers(tap.log):
            assert access.size in (1, 2, 4)
            assert not access.offset % access.size
            assert not 0x16 <= access.offset < 0x1A


async def test_each_queue_is_activated_once_with_its_vector_and_ring_in_place() -> None:
    """Defects of the RFC: ACTIVATE was written twice, and the vector after it."""
    async with open_pair(MAILBOX) as pair, recorded(pair) as tap:
        writes = [(a.offset, a.value) for a in tap.log if a.bar == mb.BAR and a.write]
        for queue in range(2):
            activate = (QueueReg.CMD.at(queue)[0], int(ACTIVATE))
            assert writes.count(activate) == 1
            before = {offset for offset, _ in writes[: writes.index(activate)]}
            after = {offset for offset, _ in writes[writes.index(activate) :]}
            for field in (QueueReg.MSIX_VECTOR, QueueReg.ADDR, ExtQueue.NUM, ExtQueue.DESC, ExtQueue.DEVICE):
                assert field.at(queue)[0] in before - after


async def test_ring_memory_is_freed_only_once_the_device_has_answered_the_reset(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Defect of the RFC: DEACTIVATE was not waited for before the ring was freed."""
    async with open_pair(MAILBOX) as pair:
        held: list[object] = []
        free = pair.rc.memory.free

        def watched(buffer: DmaBuffer) -> None:
            held.extend(queue.ring for queue in pair.vhost.queues)
            free(buffer)

        monkeypatch.setattr(pair.rc.memory, "free", watched)
        await pair.reset()
        assert held
        assert set(held) == {None}


async def test_status_0_is_written_and_reads_back_and_registers_are_as_at_first() -> None:
    """Defect of the RFC: status 0 was never written, and reset reached nobody."""
    async with open_pair(MAILBOX) as pair:
        bus, function = pair.carrier
        driver = bus.match(pair.carrier[1])
        assert driver is not None
        first = back(pair).registers()
        tap = TappedFunction(function)
        await bus.unregister_device(function)
        idle = back(pair).registers()
        assert idle["device_status"] == idle["guest_features"] == idle["queue0.status"] == idle["queue1.addr"] == 0
        assert not pair.device_port.live  # the reset reached what the device is plugged into
        bus.register_device(tap)
        await pair.world.wait_up()
        await bus.unregister_device(tap)
        assert written(tap.log, Reg.DEVICE_STATUS.value)[-1] == 0
        again = back(pair).registers()
        changing = {
            "ext.sequence",
            "ext.completed",
            *(f"ext.queue{q}.{n}" for q in (0, 1) for n in ("sequence", "completed")),
        }
        assert {k: v for k, v in again.items() if k not in changing} == {
            k: v for k, v in idle.items() if k not in changing
        }
        bus.register_device(function)
        await pair.world.wait_up()
        assert back(pair).registers().keys() == first.keys()


async def test_configuration_comes_from_the_endpoint_and_a_change_is_told() -> None:
    """Defect of the RFC: there was no configuration space, no generation and no interrupt for it."""
    async with open_pair(MAILBOX) as pair, recorded(pair) as tap:
        assert pair.driver_port.mac == pair.plug.mac
        assert any(mb.CONFIG <= a.offset < mb.CONFIG + 12 and not a.write for a in registers(tap.log))
        config = bytearray(pair.vhost.config)
        config[6] = 0  # status: link down
        pair.vhost.set_config(bytes(config))
        await trio.testing.wait_all_tasks_blocked()
        assert not pair.driver_port.carrier


@pytest.mark.hostile("S12")
async def test_a_reader_never_sees_half_a_change_of_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bytes are swapped while they are read, also in the middle of a change that takes a while."""
    async with open_pair(MAILBOX) as pair, alone(pair) as front:
        epf = back(pair)
        whole = pair.vhost.config
        values = [bytes([value]) * 6 for value in (0x10, 0x22)]
        size = len(whole)
        reads = 0
        inner = front._function.bar_read

        def meddle(bar: int, offset: int, width: int) -> int:
            nonlocal reads
            if mb.CONFIG <= offset < mb.CONFIG + 6 and reads < 40:
                reads += 1
                if reads % 7 == 0:
                    pair.vhost.set_config(values[reads % 2].ljust(size, b"\0"))
            return inner(bar, offset, width)

        monkeypatch.setattr(front._function, "bar_read", meddle)
        pair.vhost.set_config(values[0].ljust(size, b"\0"))
        for _ in range(10):
            before = await front.generation()
            data = await front.read_config(0, 6)
            if await front.generation() == before:
                assert data in values
        epf._step_generation()  # a change begins
        with trio.move_on_after(0.5) as scope:
            await front.generation()
        assert scope.cancelled_caught
        epf._step_generation()
        assert not await front.generation() & 1
        monkeypatch.undo()
        pair.vhost.set_config(whole)


async def test_a_kick_is_two_posted_writes_and_reads_nothing() -> None:
    """Defect of the RFC: every kick waited for an answer."""
    async with open_pair(MAILBOX) as pair, recorded(pair) as tap:
        await trio.testing.wait_all_tasks_blocked()
        tap.log.clear()
        pair.virtio.queues[1].kick()
        assert [(a.bar, a.offset, a.size, a.write) for a in tap.log] == [
            (mb.BAR, *QueueReg.CMD.at(1), True),
            (mb.DOORBELL_BAR, mb.DOORBELL_SIZE, mb.DOORBELL_SIZE, True),
        ]
        assert pair.vhost.queues[1].kicks


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
    """A NOTIFY that nobody was told of must not keep the queue from being activated for ever."""
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


# Without the extension


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """The endpoint is what the RFC had."""
    row = TRANSPORTS["epf_mailbox"]
    monkeypatch.setitem(
        TRANSPORTS,
        "epf_mailbox",
        attrs.evolve(row, back=partial(MailboxEpf, extension=False)),
    )


@pytest.mark.usefixtures("plain")
async def test_without_the_extension_rings_are_in_one_piece_and_it_works_all_the_same() -> None:
    async with open_pair(POLLED) as pair, unharmed(pair):
        await pair.transfer(1 << 16)
        for queue in pair.vhost.queues:
            desc, avail, _ = split_sizes(queue.num)
            assert queue.num == queue.max_num
            assert queue.desc % 4096 == 0
            assert queue.driver == queue.desc + desc
            assert queue.used == -(-(queue.desc + desc + avail) // 4096) * 4096
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
        asked: list[bool] = []

        async def ask() -> None:
            asked.append(await front._command(front._mailbox, mb.DeviceCommand.RESET))

        with pytest.raises(TransportLost):
            await ask()  # what is owed never comes
        assert front._get(Reg.CMD.value) == mb.DeviceCommand.SET_STATUS
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await trio.sleep(0.1)
            slow.catch_up()  # the late one
            await trio.sleep(0.1)
            assert asked == []
            assert front._get(Reg.CMD.value) == mb.DeviceCommand.RESET
            slow.wake()
        assert asked == [True]
        with pytest.raises(ProbeError, match="read-only without the extension"):
            await front.write_config(0, b"\0")


# What a driver may try


@asynccontextmanager
async def intruder(pair: Pair) -> AsyncIterator[HostileMailbox]:
    async with hostile_driver(pair) as driver:
        assert isinstance(driver, HostileMailbox)
        yield driver


@pytest.mark.hostile("S05")
async def test_what_is_written_after_activate_changes_nothing() -> None:
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
async def test_a_storm_of_doorbells_and_commands_that_mean_nothing_holds_up_nobody() -> None:
    async with open_pair(attrs.evolve(MAILBOX, devices=2)) as pair, unharmed(pair), intruder(pair) as driver:
        await driver.start()
        for turn in range(2000):
            driver.queue_command(turn % 8, turn % 256)
            driver.ring(turn % 16)
        assert pair.vhost.status == OK
        await pair.transfer(1 << 17, "net1")
