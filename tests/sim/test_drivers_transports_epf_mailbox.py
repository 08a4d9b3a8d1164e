"""Traffic over the mailbox endpoint, and the defects of the RFC that it does not have."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from drivers.contracts.hw import DmaBuffer
from drivers.testing import TappedAccess, TappedFunction
from drivers.transports.epf_mailbox import registers as mb
from rings.features import RingFeature
from support.rigs.mailbox import MAILBOX, POLLED, Sluggish, alone, back, exchange
from vnet.testing import FRAME, NetPair, Options, open_pair, tapped, unharmed, until

Reg, QueueReg, Ext, ExtQueue, Outcome = mb.Reg, mb.QueueReg, mb.Ext, mb.ExtQueue, mb.MailboxOutcome
ACTIVATE, NOTIFY = mb.QueueCommand.ACTIVATE, mb.QueueCommand.NOTIFY


@asynccontextmanager
async def recorded(pair: NetPair) -> AsyncIterator[TappedFunction]:
    """A pair whose driver is bound to a recorder."""
    async with tapped(pair) as tap:
        pair.rc.pci.register_device(tap)
        await pair.world.wait_up()
        yield tap


def registers(log: list[TappedAccess]) -> list[TappedAccess]:
    return [a for a in log if a.bar == mb.BAR and not mb.MSIX <= a.offset < mb.MSIX + 16 * mb.VECTORS]


def written(log: list[TappedAccess], place: tuple[int, int]) -> list[int]:
    return [a.value for a in log if a.bar == mb.BAR and a.write and (a.offset, a.size) == place]


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
    """Defect of the RFC: status 0 was never written, and no handler saw the reset."""
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


async def test_configuration_comes_from_the_endpoint_and_a_change_interrupts() -> None:
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
