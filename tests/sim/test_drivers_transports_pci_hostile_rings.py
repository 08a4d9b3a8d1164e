"""A hostile driver at the interrupts, memory and rings of a virtio-pci device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import attrs
import pytest
import trio
import trio.testing

from drivers.transports.pci.registers import Common
from rings.layout import WRITE, RingAddrs
from rings.memory import Addr
from rings.status import Status
from rings.testing import Desc
from support.rigs.pci_hostile import HEADER, LENGTH, SMALL, works
from vnet.pcie.config_space import CAP_MSIX, PciCommand
from vnet.testing import (
    FRAME,
    HostileDriver,
    NetPair,
    Options,
    bounded,
    hostile_driver,
    open_pair,
    over,
    unharmed,
    until,
)

NO_REGISTERS = ("vhost_user",)
"""Transports on which a device shows no status, and no kick reaches a queue that is not set up."""
TWO = Options(queue_size=16, devices=2)
OK = Status.ACKNOWLEDGE | Status.DRIVER | Status.FEATURES_OK | Status.DRIVER_OK
MMIO = 0x10_0000_0000
"""Where the root complex puts BARs."""
RING = (Common.QUEUE_DESC, Common.QUEUE_DRIVER, Common.QUEUE_DEVICE)


async def latched(driver: HostileDriver[NetPair], *why: str) -> None:
    """LATCH: DEVICE_NEEDS_RESET and its interrupt, once; the queue reads as empty; a reset recovers."""
    pair = driver.pair
    with bounded():
        await trio.testing.wait_all_tasks_blocked()
    assert driver.status == OK | Status.NEEDS_RESET
    assert driver.calls.count(0) == 1
    assert len(pair.vhost.failures) == 1
    assert all(word in pair.vhost.failures[0] for word in why)
    pair.vhost.failures.clear()
    await driver.start()
    await works(driver)


# S09: reset with frames under way


@pytest.mark.every_transport
@pytest.mark.hostile("S09")
async def test_nothing_is_completed_after_a_reset_was_acknowledged_a_hundred_times_over() -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), hostile_driver(pair) as driver:
        rooms = [driver.alloc(2000) for _ in range(16)]
        frame = driver.put(HEADER + FRAME)
        for turn in range(100):
            await driver.start()
            receive, transmit = driver.rings
            for head in range(16):
                receive.write(head, Desc(rooms[head], 2000, WRITE))
                transmit.write(head, Desc(frame, LENGTH))
                pair.device_port.inject(FRAME)
            receive.offer(*range(16))
            transmit.offer(*range(16))
            driver.kick(0)
            driver.kick(1)
            for _ in range(turn % 5):
                await trio.lowlevel.checkpoint()
            driver.status = Status(0)
            await until(lambda: driver.status == 0)
            before = [bytes(ring._used) for ring in driver.rings], [driver.get(room, 2000) for room in rooms]
            calls = len(driver.calls)
            driver.kick(0)
            await trio.testing.wait_all_tasks_blocked()
            after = [bytes(ring._used) for ring in driver.rings], [driver.get(room, 2000) for room in rooms]
            assert before == after
            assert len(driver.calls) == calls
            assert [queue.ring for queue in pair.vhost.queues] == [None, None]
        await driver.start()
        await trio.testing.wait_all_tasks_blocked()
        pair.device_port._inbound.clear()
        await trio.testing.wait_all_tasks_blocked()
        while pair.device_port._outbound:
            pair.device_port.receive_nowait()
        await works(driver)


# S13: interrupts that are pending


@pytest.mark.hostile("S13")
@pytest.mark.parametrize("how", ["entry", "function", "moved", "moved while masked by function"])
async def test_a_masked_interrupt_comes_exactly_once_when_it_may_wherever_it_points_then(how: str) -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await driver.start()
        function = driver.function
        at = function.capability(CAP_MSIX)
        assert at is not None
        late: list[int] = []

        def mask(on: bool) -> None:
            if how in {"entry", "moved"}:
                function.bar_write(2, 16 * 2 + 12, 4, on)
            else:
                function.config_write(at + 2, 2, 0xC000 if on else 0x8000)

        for turn in range(3):
            mask(True)
            for i in range(5):
                driver.rings[1].used_event = turn * 5 + i
                driver.send(Desc(driver.put(HEADER + FRAME), LENGTH))
                await pair.device_port.receive()
                await trio.testing.wait_all_tasks_blocked()
            assert driver.calls == []
            assert function.bar_read(2, 16 * 3, 8) == 1 << 2, "pending, once"
            if how.startswith("moved"):
                function.request_irq(2, lambda: late.append(2))
                if how == "moved":
                    assert late == [2], "asking for it unmasks it"
            mask(False)
            assert function.bar_read(2, 16 * 3, 8) == 0
            assert late + driver.calls == [2]
            late.clear()
            driver.calls.clear()


# S14: access to memory is taken away


@pytest.mark.hostile("S14")
async def test_without_bus_mastering_not_a_byte_is_moved_and_set_up_again_it_works() -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await driver.start()
        function = driver.function
        room = driver.put(b"\xee" * 2000)
        driver.send(Desc(room, 2000, WRITE), queue=0)
        await trio.testing.wait_all_tasks_blocked()
        command = function.config_read(4, 2)
        function.config_write(4, 2, command & ~PciCommand.BUS_MASTER)
        before = bytes(driver.rings[0]._used)
        pair.device_port.inject(FRAME)
        driver.send(Desc(driver.put(HEADER + FRAME), LENGTH))
        with bounded():
            await trio.testing.wait_all_tasks_blocked()
        assert driver.get(room, 2000) == b"\xee" * 2000
        assert bytes(driver.rings[0]._used) == before
        assert driver.rings[1].used_idx == 0
        assert driver.status & Status.NEEDS_RESET
        function.config_write(4, 2, command)
        pair.device_port._inbound.clear()
        await trio.testing.wait_all_tasks_blocked()
        assert driver.get(room, 2000) == b"\xee" * 2000, "not later either"
        await driver.start()
        await works(driver)


@pytest.mark.hostile("S14")
@pytest.mark.parametrize("ring", ["split", "packed"])
async def test_a_kick_for_a_ring_out_of_reach_raises_nothing(
    ring: Literal["split", "packed"],
) -> None:
    """The device looks at its ring in the kicker's task, and without EVENT_IDX it writes to it first."""
    with over("pci", ring):
        async with open_pair(attrs.evolve(SMALL, features_off=("EVENT_IDX",))) as pair:
            await trio.testing.wait_all_tasks_blocked()
            command = pair.function.config_read(4, 2)
            pair.function.config_write(4, 2, command & ~PciCommand.BUS_MASTER)
            pair.driver_port.inject(FRAME)
            await trio.testing.wait_all_tasks_blocked()
            assert "went away" in pair.vhost.failures[-1]


@pytest.mark.hostile("S14")
async def test_a_function_level_reset_ends_all_access_at_once_and_set_up_again_it_works() -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), hostile_driver(pair) as driver:
        for _ in range(10):
            await driver.start()
            room = driver.put(b"\xee" * 2000)
            driver.send(Desc(room, 2000, WRITE), queue=0)
            await trio.testing.wait_all_tasks_blocked()
            assert driver.function.reset()
            pair.device_port.inject(FRAME)
            driver.send(Desc(driver.put(HEADER + FRAME), LENGTH))
            await trio.testing.wait_all_tasks_blocked()
            assert driver.get(room, 2000) == b"\xee" * 2000
            assert [ring.used_idx for ring in driver.rings] == [0, 0]
            assert driver.status == 0
            pair.device_port._inbound.clear()
        await driver.start()
        await works(driver)


# R15: buffers that are something else


def overlapping(driver: HostileDriver[NetPair]) -> dict[str, int]:
    """Addresses that a buffer should not have."""
    (own, other), (registers, notifications) = driver.rings, driver.places()
    return {
        "own descriptors": own.addrs.desc,
        "own available ring": own.addrs.driver,
        "own used ring": own.addrs.device,
        "the other queue's descriptors": other.addrs.desc,
        "the other queue's used ring": other.addrs.device,
        "the device's registers": registers,
        "the device's notifications": notifications,
        "the interrupt window": 0xFEE0_0000,
    }


@pytest.mark.hostile("R15")
@pytest.mark.parametrize("queue", [0, 1])
@pytest.mark.parametrize("what", range(8))
async def test_a_buffer_that_overlaps_rings_or_registers_is_latched_or_completed_safely(what: int, queue: int) -> None:
    """A reset recovers from any writes; buffers never reach registers."""
    async with open_pair(SMALL) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await driver.start()
        name, addr = list(overlapping(driver).items())[what]
        kicks = [q.kicks for q in pair.vhost.queues]
        driver.send(Desc(addr, 200, WRITE * (queue == 0)), queue=queue)
        if queue == 0:
            pair.device_port.inject(FRAME)
        with bounded():
            await trio.testing.wait_all_tasks_blocked()
        if "device's" in name or "window" in name:
            assert [q.kicks - k for q, k in zip(pair.vhost.queues, kicks, strict=True)] == [1 - queue, queue]
            pair.device_port._inbound.clear()
            await latched(driver, ("receiveq1", "transmitq1")[queue], "no memory there")
        else:
            pair.device_port._inbound.clear()
            while pair.device_port._outbound:
                pair.device_port.receive_nowait()
            await driver.start()
            await works(driver)


# R22, R23: rings that can't be


BAD_ADDRESSES: dict[str, Callable[[RingAddrs], RingAddrs]] = {
    "none set": lambda a: RingAddrs(Addr(0), Addr(0), Addr(0)),
    "descriptors not aligned": lambda a: attrs.evolve(a, desc=Addr(a.desc + 8)),
    "available not aligned": lambda a: attrs.evolve(a, driver=Addr(a.driver + 1)),
    "used not aligned": lambda a: attrs.evolve(a, device=Addr(a.device + 2)),
    "all the same": lambda a: RingAddrs(a.desc, a.desc, a.desc),
    "available in descriptors": lambda a: attrs.evolve(a, driver=Addr(a.desc + 16)),
    "used ends in descriptors": lambda a: attrs.evolve(a, device=Addr(a.desc - 16)),
    "below RAM": lambda a: attrs.evolve(a, device=Addr(0x1000)),
    "above RAM": lambda a: attrs.evolve(a, desc=Addr(0x8000_0000)),
    "across the end of RAM": lambda a: attrs.evolve(a, desc=Addr(0x4000_0000 + (48 << 20) - 16)),
    "in a BAR": lambda a: attrs.evolve(a, device=Addr(MMIO)),
    "in the interrupt window": lambda a: attrs.evolve(a, device=Addr(0xFEE0_0000)),
    "at the top": lambda a: attrs.evolve(a, desc=Addr((1 << 64) - 16)),
    "wraps": lambda a: attrs.evolve(a, driver=Addr((1 << 64) - 2)),
}


@pytest.mark.hostile("R22")
@pytest.mark.parametrize("queue", [0, 1])
@pytest.mark.parametrize("spoil", BAD_ADDRESSES.values(), ids=BAD_ADDRESSES)
async def test_a_ring_that_can_not_be_is_refused_when_it_is_enabled_and_never_later(
    spoil: Callable[[RingAddrs], RingAddrs], queue: int
) -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await driver.negotiate()
        driver.map_vectors()
        ring = driver.set_up(queue, enable=False)
        for field, addr in zip(RING, attrs.astuple(spoil(ring.addrs)), strict=True):
            driver.write(field, addr)
        driver.write(Common.QUEUE_ENABLE, 1)
        assert driver.read(Common.QUEUE_ENABLE) == 0
        assert driver.status & Status.NEEDS_RESET
        assert len(pair.vhost.failures) == 1
        driver.status |= Status.DRIVER_OK
        driver.kick(queue)
        await trio.testing.wait_all_tasks_blocked()
        assert len(pair.vhost.failures) == 1
        pair.vhost.failures.clear()
        await driver.start()
        await works(driver)


@pytest.mark.hostile("R23")
@pytest.mark.virtio("PCI-DEV-23")
@pytest.mark.parametrize("value", [0, 3, 5, 6, 15, 17, 24, 32, 256, 32768, 0x8001, 0xFFFF])
async def test_a_queue_size_that_can_not_be_reads_back_as_the_old_one(value: int) -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await driver.negotiate()
        for old in (16, 4, 1):
            driver.write(Common.QUEUE_SIZE, old)
            driver.write(Common.QUEUE_SIZE, value)
            assert driver.read(Common.QUEUE_SIZE) == old
        driver.map_vectors()
        driver.rings = [driver.set_up(queue, 8) for queue in range(2)]
        driver.status |= Status.DRIVER_OK
        await works(driver)


# R21: kicks for nothing


async def rounds(pair: NetPair, storm: Callable[[], None]) -> int:
    """Steps of all tasks that a hundred rounds of traffic on the second device take, with a storm in each."""
    source, sink = (pair.world.memory_port("net1", end) for end in ("driver", "device"))
    with bounded(turns=1 << 20) as turns:
        for _ in range(100):
            storm()
            for _ in range(20):
                source.inject(FRAME)
            for _ in range(20):
                assert (await sink.receive())[1] == FRAME
    return turns.count


@pytest.mark.every_transport(but=NO_REGISTERS)
@pytest.mark.hostile("R21")
@pytest.mark.parametrize("queue", [0, 1])
async def test_a_storm_of_kicks_on_an_empty_queue_does_not_hold_up_another_device(queue: int) -> None:
    """A kick costs no more than one look, however many come before it: the other device moves at every turn."""
    async with open_pair(TWO) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await driver.start()

        def storm() -> None:
            for _ in range(1000):
                driver.kick(queue)

        quiet = await rounds(pair, lambda: None)
        assert await rounds(pair, storm) <= quiet * 1.1 + 100 * 3
        assert pair.vhost.queues[queue].kicks >= 100_000
        assert pair.vhost.queues[queue].statistics().chains == 0
        await works(driver)
