"""A driver that writes what it likes into the registers of a virtio-pci device: the outcome of each is exact."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import attrs
import pytest
import trio
import trio.testing

from drivers.transports.pci.registers import SIZES, CfgType, Common
from rings.layout import WRITE, RingAddrs
from rings.memory import Addr
from rings.status import Status
from rings.testing import Desc
from vnet.pcie.config_space import CAP_MSIX, PciCommand
from vnet.testing import FRAME, HostileDriver, Options, Pair, bounded, hostile_driver, open_pair, over, unharmed, until

SMALL = Options(queue_size=16)
NO_REGISTERS = ("vhost_user",)
"""Transports on which a device shows no status, and no kick reaches a queue that is not set up."""
TWO = Options(queue_size=16, devices=2)
OK = Status.ACKNOWLEDGE | Status.DRIVER | Status.FEATURES_OK | Status.DRIVER_OK
HEADER = bytes(12)
LENGTH = len(HEADER) + len(FRAME)
NO_VECTOR = 0xFFFF
MMIO = 0x10_0000_0000
"""Where the root complex puts BARs."""
RING = (Common.QUEUE_DESC, Common.QUEUE_DRIVER, Common.QUEUE_DEVICE)


async def works(driver: HostileDriver, head: int = 5) -> None:
    """One frame crosses in each direction."""
    pair = driver.pair
    driver.send(Desc(driver.put(HEADER + FRAME), LENGTH), head=head)
    with bounded():
        assert (await pair.device_port.receive())[1] == FRAME
    room, used = driver.alloc(2000), driver.rings[0].used_idx
    driver.send(Desc(room, 2000, WRITE), head=head, queue=0)
    pair.device_port.inject(FRAME)
    await until(lambda: driver.rings[0].used_idx == used + 1 & 0xFFFF)
    assert driver.get(room, LENGTH)[12:] == FRAME


async def latched(driver: HostileDriver, *why: str) -> None:
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


@pytest.mark.every_transport
async def test_ordinary_use_works() -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await driver.start()
        for head in range(16):
            await works(driver, head)


@pytest.mark.every_transport(but=NO_REGISTERS)
@pytest.mark.hostile("S02")
async def test_kicks_after_reset_and_before_set_up_do_nothing() -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await driver.reset()
        before = [(q.kicks, q.spurious) for q in pair.vhost.queues]
        for queue in range(2):
            for _ in range(100):
                driver.kick(queue)
        await trio.testing.wait_all_tasks_blocked()
        assert [(q.kicks, q.spurious - 100) for q in pair.vhost.queues] == before
        assert driver.status == 0
        assert driver.calls == []


# S05: what was configured stays what it is


@pytest.mark.hostile("S05")
@pytest.mark.parametrize("running", [False, True], ids=["enabled", "DRIVER_OK"])
@pytest.mark.parametrize(
    ("field", "values"),
    [
        (Common.QUEUE_SIZE, (1, 2, 8, 16, 0, 32768, 0xFFFF)),
        (Common.QUEUE_MSIX_VECTOR, (0, 1, NO_VECTOR, 0x800)),
        (Common.QUEUE_ENABLE, (0, 1, 2, 0xFFFF)),
        *((field, (0, 0x1000, MMIO, (1 << 64) - 1)) for field in RING),
    ],
    ids=lambda value: value.name if isinstance(value, Common) else "",
)
async def test_a_queue_that_is_enabled_keeps_what_it_was_configured_with(
    field: Common, values: tuple[int, ...], running: bool
) -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await driver.negotiate()
        driver.map_vectors()
        driver.rings = [driver.set_up(queue) for queue in range(2)]
        if running:
            driver.status |= Status.DRIVER_OK
            await works(driver)
        for queue in range(2):
            driver.write(Common.QUEUE_SELECT, queue)
            before = driver.read(field)
            for value in values:
                driver.write(field, value)
                assert driver.read(field) == before
        driver.status |= Status.DRIVER_OK
        await works(driver, head=6)


@pytest.mark.hostile("S05")
async def test_a_queue_that_was_not_enabled_in_time_stays_out() -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await driver.negotiate()
        driver.map_vectors()
        driver.rings = [driver.set_up(0), driver.set_up(1, enable=False)]
        driver.status |= Status.DRIVER_OK
        driver.write(Common.QUEUE_SELECT, 1)
        driver.write(Common.QUEUE_ENABLE, 1)
        assert driver.read(Common.QUEUE_ENABLE) == 0
        driver.send(Desc(driver.put(HEADER + FRAME), LENGTH))
        await trio.testing.wait_all_tasks_blocked()
        assert driver.rings[1].used_idx == 0
        assert driver.status == OK


# S06: out of range


@pytest.mark.hostile("S06")
@pytest.mark.parametrize("queue", [2, 3, 255, 0x8000, 0xFFFF])
async def test_a_queue_that_does_not_exist_reads_zero_and_takes_nothing(queue: int) -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await driver.negotiate()
        driver.write(Common.QUEUE_SELECT, queue)
        fields = [field for field in Common if field.name.startswith("QUEUE") and field is not Common.QUEUE_SELECT]
        for field in fields:
            for value in (1, (1 << 8 * SIZES[field]) - 1, 0):
                driver.write(field, value)
                assert driver.read(field) == (NO_VECTOR if field is Common.QUEUE_MSIX_VECTOR else 0)
        driver.map_vectors()
        driver.rings = [driver.set_up(queue) for queue in range(2)]
        driver.status |= Status.DRIVER_OK
        await works(driver)


@pytest.mark.hostile("S06")
@pytest.mark.parametrize("vector", [3, 4, 0x7FF, 0x800, 0x8000, 0xFFFE])
async def test_a_vector_beyond_the_table_reads_back_as_none_and_interrupts_nobody(vector: int) -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await driver.negotiate()
        driver.map_vectors()
        driver.rings = [driver.set_up(queue, enable=False) for queue in range(2)]
        driver.write(Common.CONFIG_MSIX_VECTOR, vector)
        assert driver.read(Common.CONFIG_MSIX_VECTOR) == NO_VECTOR
        for queue in range(2):
            driver.write(Common.QUEUE_SELECT, queue)
            driver.write(Common.QUEUE_MSIX_VECTOR, vector)
            assert driver.read(Common.QUEUE_MSIX_VECTOR) == NO_VECTOR
            driver.write(Common.QUEUE_ENABLE, 1)
        driver.status |= Status.DRIVER_OK
        await works(driver)
        pair.vhost.fail("for a configuration change")
        assert driver.calls == []


# S07: notifications that mean nothing


@pytest.mark.hostile("S07")
@pytest.mark.parametrize("size", [1, 2, 4, 8])
async def test_notifications_beside_a_queues_address_or_of_another_width_do_nothing(size: int) -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await driver.start()
        at = driver.structures[CfgType.NOTIFY]
        good = {0, 4} if size == 2 else set()
        offsets = [o for o in (*range(64), 0x400, 0xFFC, 0xFFE, 0xFFF) if o not in good]
        before = [queue.kicks for queue in pair.vhost.queues]
        for offset in offsets:
            for value in (0, 1, 2, 0xFFFF, (1 << 8 * size) - 1):
                driver.function.bar_write(0, at.offset + offset, size, value)
        assert [queue.kicks for queue in pair.vhost.queues] == before
        await works(driver)


@pytest.mark.hostile("S07")
@pytest.mark.parametrize("value", [0, 1, 2, 0x7FFF, 0x8000, 0xFFFF])
async def test_the_value_of_a_notification_does_not_matter_its_address_does(value: int) -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await driver.start()
        driver.rings[1].chain(0, Desc(driver.put(HEADER + FRAME), LENGTH))
        driver.rings[1].offer(0)
        driver.kick(1, value)
        with bounded():
            assert (await pair.device_port.receive())[1] == FRAME


@pytest.mark.every_transport(but=NO_REGISTERS)
@pytest.mark.hostile("S07")
async def test_a_disabled_queue_is_not_woken() -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await driver.negotiate()
        driver.rings = [driver.set_up(queue, enable=False) for queue in range(2)]
        driver.status |= Status.DRIVER_OK
        before = [(q.kicks, q.spurious) for q in pair.vhost.queues]
        for queue in range(2):
            for _ in range(10):
                driver.kick(queue)
        await trio.testing.wait_all_tasks_blocked()
        assert [(q.kicks, q.spurious - 10) for q in pair.vhost.queues] == before
        assert driver.status == OK


# S08: accesses of other shapes


@pytest.mark.hostile("S08")
async def test_configuration_is_read_at_any_width_and_reads_zero_behind_its_end() -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await driver.start()
        config = pair.vhost.config
        assert len(config) == 17
        for offset in range(20):
            for size in (1, 2, 4, 8):
                want = int.from_bytes(config[offset : offset + size], "little")
                assert driver.config(offset, size) == want
        at = driver.structures[CfgType.DEVICE]
        for offset in (17, 18, 0xFF8, 0xFFC, 0xFFF):
            assert driver.config(offset, 1) == 0
        for offset in range(20):
            for size in (1, 2, 4, 8):
                driver.function.bar_write(at.bar, at.offset + offset, size, (1 << 8 * size) - 1)
        assert pair.vhost.config == config
        await works(driver)


@pytest.mark.hostile("S08")
async def test_an_access_that_leaves_its_structure_or_its_bar_reads_nothing_and_writes_nothing() -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await driver.start()
        read, write = driver.function.bar_read, driver.function.bar_write
        for structure in (driver.structures[kind] for kind in (CfgType.COMMON, CfgType.ISR, CfgType.DEVICE)):
            end = structure.offset + structure.length
            for offset, size in ((end - 1, 2), (end - 2, 4), (end - 4, 8), (end, 1), (end, 4)):
                assert read(0, offset, size) == 0
                write(0, offset, size, 0)
        for offset, size in ((0x3FFF, 2), (0x4000, 1), (0x4000, 4), (1 << 40, 4), (-1, 1), (-4, 4)):
            assert read(0, offset, size) == (1 << 8 * size) - 1
            write(0, offset, size, 0)
        for bar in (1, 3, 4, 5, 6, -1):
            assert read(bar, 0, 4) == 0xFFFF_FFFF
            write(bar, 0, 4, 0)
        assert driver.status == OK
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
async def test_whoever_kicks_for_a_ring_that_is_out_of_reach_hears_nothing_of_it(
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


def overlapping(driver: HostileDriver) -> dict[str, int]:
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
    """Whatever it scribbles over, a reset recovers; registers are never reached by a buffer."""
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
            await latched(driver, f"queue {queue}", "no memory there")
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
@pytest.mark.virtio("PCI-DEV-23", "SPLIT-DRV-2")
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


async def rounds(pair: Pair, storm: Callable[[], None]) -> int:
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
