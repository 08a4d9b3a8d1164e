"""virtio-mmio within one host: the driver's half under a recorder, a lying device, and traffic over it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import attrs
import pytest
import trio
import trio.testing

from drivers.bus.binding import BindState
from drivers.testing import TappedAccess
from drivers.transports.mmio.registers import CONFIG, READABLE, WRITABLE, Interrupt, Register
from rings.features import word
from rings.status import Status
from vnet.host.host import Host
from vnet.testing import FRAME, NetPair, Options, bounded, open_pair, over, unharmed, until
from vnet.testing.tapped import TappedRegion, tapped_region
from vnet.topology import parse

MMIO = Options(transport="mmio", queue_size=16)
R = Register
OK = Status.ACKNOWLEDGE | Status.DRIVER | Status.FEATURES_OK | Status.DRIVER_OK
TOPOLOGY = """
[hosts.soc]
[devices.net0]
transport = "mmio"
host = "soc"
"""


@asynccontextmanager
async def recorded(pair: NetPair) -> AsyncIterator[TappedRegion]:
    """A pair whose driver is bound to a recorder."""
    async with tapped_region(pair) as tap:
        pair.rc.platform_bus.register_device(tap)
        await pair.world.wait_up()
        yield tap


def words(log: list[TappedAccess]) -> list[tuple[Register, int, bool]]:
    """Accesses to control registers: register, value, whether written."""
    return [(Register(a.offset), a.value, a.write) for a in log if a.offset < CONFIG]


async def exchange(pair: NetPair, count: int = 20) -> None:
    for source, sink in ((pair.driver_port, pair.device_port), (pair.device_port, pair.driver_port)):
        for _ in range(count):
            source.inject(FRAME)
        for _ in range(count):
            with bounded():
                assert (await sink.receive())[1] == FRAME


# One host, one memory, two namespaces


def test_both_ends_are_on_one_host_in_namespaces_of_their_own() -> None:
    topology = parse(TOPOLOGY)
    assert topology.ends(topology.devices["net0"]) == ("soc", "soc-dev")
    assert topology.own_netns("x") == ("x-soc", "x-soc-dev")
    assert topology.host_netns("x", "soc") == "x-soc"


async def test_driver_and_device_share_one_memory_and_no_link() -> None:
    async with open_pair(MMIO) as pair:
        assert pair.device.driver_host is pair.device.device_host
        assert pair.vhost.ops.memory() is pair.rc.memory
        traffic = pair.link.statistics()
        await pair.transfer(1 << 16)
        assert pair.link.statistics() == traffic


async def test_a_megabyte_crosses_each_way_and_the_interrupt_line_is_shared() -> None:
    async with open_pair(MMIO) as pair, unharmed(pair):
        await pair.transfer()
        [region] = pair.rc.platform.regions
        assert region.interrupts > 0
        assert not region.snapshot().asserted


async def test_two_devices_on_one_host_have_regions_and_interrupts_of_their_own() -> None:
    async with open_pair(attrs.evolve(MMIO, devices=2)) as pair:
        first, second = pair.rc.platform.regions
        assert first.address + first.size == second.address
        assert first.irq != second.irq
        before = second.interrupts
        await pair.transfer(1 << 16)
        assert second.interrupts == before
        await pair.transfer(1 << 16, "net1")
        assert second.interrupts > before


async def test_reset_under_load_loses_frames_at_most_and_leaks_nothing() -> None:
    async with open_pair(MMIO) as pair, unharmed(pair), trio.open_nursery() as nursery:

        async def load() -> None:
            while True:
                pair.driver_port.inject(FRAME)
                pair.device_port.inject(FRAME)
                await trio.sleep(0.0001)
                for port in (pair.driver_port, pair.device_port):
                    port._outbound.clear()  # it never is full

        nursery.start_soon(load)
        for _ in range(20):
            await trio.sleep(0.003)
            await pair.reset()
        nursery.cancel_scope.cancel()


async def test_a_change_of_configuration_reaches_the_driver() -> None:
    async with open_pair(MMIO) as pair:
        assert pair.driver_port.carrier
        config = bytearray(pair.vhost.config)
        config[6] = 0  # status: link down
        pair.vhost.set_config(bytes(config))
        await trio.testing.wait_all_tasks_blocked()
        assert not pair.driver_port.carrier


# The driver's half, access by access


@pytest.mark.virtio("MMIO-DRV-1", "MMIO-DRV-2", "MMIO-DRV-3", "MMIO-DRV-4", "MMIO-DRV-5", "MMIO-DRV-24", "MMIO-DRV-18")
async def test_every_access_is_one_that_the_specification_allows() -> None:
    async with open_pair(MMIO) as pair, recorded(pair) as tap:
        await exchange(pair)
        await pair.reset()
        for access in tap.log:
            if access.offset < CONFIG:
                assert access.size == 4
                assert access.offset in (WRITABLE if access.write else READABLE)
                assert not 0x0AC <= access.offset <= 0x0BC, "there is no shared memory"
            else:
                assert access.size in (1, 2, 4)
                assert access.offset % access.size == 0
                assert not access.write
                assert access.offset + access.size <= CONFIG + 17
        acks = {value for register, value, _ in words(tap.log) if register is R.INTERRUPT_ACK}
        assert acks
        assert all(value and not value & ~3 for value in acks)
        config = {(a.offset - CONFIG, a.size) for a in tap.log if a.offset >= CONFIG}
        assert {(6, 2), (10, 2)} <= config  # 16-bit fields
        assert {(i, 1) for i in range(6)} <= config  # the MAC address


@pytest.mark.virtio("MMIO-DRV-20", "MMIO-DRV-21", "MMIO-DRV-25", "MMIO-DRV-10", "MMIO-DRV-11")
async def test_bring_up_begins_with_identity_then_reset_then_features_word_by_word() -> None:
    async with open_pair(MMIO) as pair, recorded(pair) as tap:
        log = words(tap.log)
        assert [register for register, _, _ in log[:4]] == [R.MAGIC_VALUE, R.VERSION, R.DEVICE_ID, R.VENDOR_ID]
        assert log[4] == (R.STATUS, 0, True)
        assert [v for register, v, write in log if write and register is R.STATUS] == [0, 1, 3, 11, 15]
        features = [entry for entry in log if R.DEVICE_FEATURES <= entry[0] <= R.DRIVER_FEATURES_SEL]
        offered, agreed = pair.vhost.device_features, pair.vhost.features
        assert features[:8] == [
            entry
            for select in range(4)
            for entry in ((R.DEVICE_FEATURES_SEL, select, True), (R.DEVICE_FEATURES, word(offered, select), False))
        ]
        assert features[8:] == [
            entry
            for select in range(4)
            for entry in ((R.DRIVER_FEATURES_SEL, select, True), (R.DRIVER_FEATURES, word(agreed, select), True))
        ]


@pytest.mark.virtio("MMIO-DRV-12", "MMIO-DRV-13", "MMIO-DRV-14", "MMIO-DRV-15")
async def test_queues_are_placed_while_not_ready_and_stopped_and_read_back_before_their_memory_is_freed() -> None:
    async with open_pair(MMIO) as pair, recorded(pair) as tap:
        selected, ready = 0, {0: 0, 1: 0}
        for register, value, write in words(tap.log):
            if register is R.QUEUE_SEL:
                selected = value
            elif register is R.QUEUE_READY and write:
                ready[selected] = value
            elif R.QUEUE_SIZE_MAX <= register <= R.QUEUE_SIZE or R.QUEUE_DESC_LOW <= register <= R.QUEUE_DEVICE_HIGH:
                assert not ready[selected]
                if register is R.QUEUE_SIZE:
                    assert value <= 16
        assert ready == {0: 1, 1: 1}
        tap.log.clear()
        driver = pair.rc.virtio.binding(pair.virtio).driver
        assert driver is not None
        await pair.rc.virtio.unregister_driver(driver)
        log = [entry for entry in words(tap.log) if entry[0] in {R.QUEUE_SEL, R.QUEUE_READY}]
        assert log == [
            entry
            for queue in range(2)
            for entry in ((R.QUEUE_SEL, queue, True), (R.QUEUE_READY, 0, True), (R.QUEUE_READY, 0, False))
        ]
        pair.rc.virtio.register_driver(driver)
        await pair.world.wait_up()


async def test_a_kick_with_notification_data_has_the_position_besides() -> None:
    with over("mmio", "packed", ("NOTIFICATION_DATA",)):
        async with open_pair(MMIO) as pair, recorded(pair) as tap:
            await trio.testing.wait_all_tasks_blocked()
            tap.log.clear()
            pair.driver_port.inject(FRAME)
            with bounded():
                await pair.device_port.receive()
            position = pair.virtio.queues[1].ring.state().avail
            assert position & 1 << 15, "the wrap counter"
            assert (R.QUEUE_NOTIFY, 1 | position << 16, True) in words(tap.log)


@pytest.mark.virtio("MMIO-DRV-17", "MMIO-DRV-26", "MMIO-DRV-28", "MMIO-DRV-29")
async def test_the_cause_of_an_interrupt_is_read_and_acknowledged_and_a_kick_names_its_queue() -> None:
    async with open_pair(MMIO) as pair, recorded(pair) as tap:
        await trio.testing.wait_all_tasks_blocked()
        tap.log.clear()
        pair.driver_port.inject(FRAME)
        with bounded():
            await pair.device_port.receive()
        await trio.testing.wait_all_tasks_blocked()
        assert (R.QUEUE_NOTIFY, 1, True) in words(tap.log)
        tap.log.clear()
        queue, write = pair.virtio.queues[0], tap.write
        calls: list[int] = []

        def count_calls(offset: int, size: int, value: int) -> None:
            if offset == R.INTERRUPT_ACK:
                calls.append(queue.calls)
            write(offset, size, value)

        tap.write = count_calls  # type: ignore[method-assign]
        before = queue.calls
        pair.device_port.inject(FRAME)
        with bounded():
            await pair.driver_port.receive()
        await trio.testing.wait_all_tasks_blocked()
        assert words(tap.log)[:2] == [
            (R.INTERRUPT_STATUS, Interrupt.USED_BUFFER, False),
            (R.INTERRUPT_ACK, Interrupt.USED_BUFFER, True),
        ]
        assert calls == [before + 1], "the queue was served before the cause was acknowledged"
        del tap.write


@pytest.mark.virtio("MMIO-DRV-27")
async def test_a_used_buffer_interrupt_is_for_every_queue() -> None:
    async with open_pair(MMIO) as pair, unharmed(pair):
        await trio.testing.wait_all_tasks_blocked()
        before = [queue.calls for queue in pair.virtio.queues]
        pair.vhost.ops.call(pair.vhost.queues[0])
        assert [queue.calls - 1 for queue in pair.virtio.queues] == before


@pytest.mark.virtio("MMIO-DRV-16", "MMIO-DRV-18")
@pytest.mark.parametrize("pending", [0x0, 0x4, 0xFFFF_FFFC])
async def test_causes_that_do_not_exist_are_ignored_and_not_acknowledged(pending: int) -> None:
    async with open_pair(MMIO) as pair, recorded(pair) as tap:
        await trio.testing.wait_all_tasks_blocked()
        tap.lies[R.INTERRUPT_STATUS] = lambda _: pending
        calls = [queue.calls for queue in pair.virtio.queues]
        tap.log.clear()
        pair.vhost.ops.call(pair.vhost.queues[0])
        assert [queue.calls for queue in pair.virtio.queues] == calls
        assert not [a for a in tap.log if a.write]
        tap.lies.clear()
        pair.rc.platform.regions[0].write(R.INTERRUPT_ACK, 4, 1)  # the line falls, or no interrupt ever comes again


@pytest.mark.virtio("MMIO-DRV-26")
async def test_an_interrupt_from_before_there_was_a_handler_is_not_lost() -> None:
    async with open_pair(MMIO) as pair:
        [region] = pair.rc.platform.regions
        region.free_irq()
        pair.vhost.ops.call(pair.vhost.queues[0])
        handled: list[int] = []
        region.request_irq(lambda: handled.append(region.read(R.INTERRUPT_STATUS, 4)))
        assert handled == [Interrupt.USED_BUFFER]


@pytest.mark.virtio("MMIO-DRV-19")
async def test_the_driver_waits_until_the_device_has_reset_the_queue() -> None:
    async with open_pair(MMIO) as pair, recorded(pair) as tap:
        left = 5

        def busy(_: int) -> int:
            nonlocal left
            left -= left > 0
            return int(left > 0)

        tap.lies[R.QUEUE_RESET] = busy
        tap.log.clear()
        await pair.settings.resize(8)
        log = words(tap.log)
        reads = [value for register, value, write in log if register is R.QUEUE_RESET and not write]
        assert reads[:5] == [1, 1, 1, 1, 0]
        first = next(at for at, (register, _, write) in enumerate(log) if write and register is R.QUEUE_SIZE)
        assert log[:first].count((R.QUEUE_RESET, 0, False)) >= 1, "no ring is set up before"


# A device that lies

NOT_OURS: dict[str, tuple[Register, int, list[Register]]] = {
    "no magic": (R.MAGIC_VALUE, 0x7472_6977, [R.MAGIC_VALUE]),
    "all ones": (R.MAGIC_VALUE, 0xFFFF_FFFF, [R.MAGIC_VALUE]),
    "legacy": (R.VERSION, 1, [R.MAGIC_VALUE, R.VERSION]),
    "a later version": (R.VERSION, 3, [R.MAGIC_VALUE, R.VERSION]),
    "no device": (R.DEVICE_ID, 0, [R.MAGIC_VALUE, R.VERSION, R.DEVICE_ID]),
}


@pytest.mark.virtio("MMIO-DRV-6", "MMIO-DRV-7", "MMIO-DRV-8", "MMIO-DRV-9", "MMIO-DRV-22", "MMIO-DRV-23")
@pytest.mark.parametrize(("register", "value", "read"), NOT_OURS.values(), ids=NOT_OURS)
async def test_a_region_without_a_device_of_ours_is_left_alone_without_an_error(
    register: Register, value: int, read: list[Register]
) -> None:
    async with open_pair(MMIO) as pair, tapped_region(pair) as tap:
        tap.lies[register] = lambda _: value
        pair.rc.platform_bus.register_device(tap)
        await trio.sleep(1)
        assert words(tap.log) == [(r, tap.log[i].value, False) for i, r in enumerate(read)]
        binding = pair.rc.platform_bus.binding(tap)
        assert (binding.state, binding.error) == (BindState.UNBOUND, "")
        assert pair.rc.virtio.bindings == ()


Lie = Callable[[int], int]
BAD_QUEUES: dict[str, tuple[Register, Lie, str]] = {
    "none": (R.QUEUE_SIZE_MAX, lambda _: 0, "does not exist"),
    "no power of two": (R.QUEUE_SIZE_MAX, lambda _: 3, "reports a queue size of 3"),
    "too many": (R.QUEUE_SIZE_MAX, lambda _: 1 << 16, "reports a queue size of 65536"),
    "in use": (R.QUEUE_READY, lambda _: 1, "already in use"),
    "not to be enabled": (R.QUEUE_READY, lambda _: 0, "can't be enabled"),
}


@pytest.mark.hostile("D07")
@pytest.mark.virtio("MMIO-DRV-12")
@pytest.mark.parametrize(("register", "lie", "why"), BAD_QUEUES.values(), ids=BAD_QUEUES)
async def test_queues_that_can_not_be_are_refused_at_probe_and_nothing_is_kept(
    register: Register, lie: Lie, why: str
) -> None:
    async with open_pair(MMIO) as pair, tapped_region(pair) as tap:
        buffers = pair.rc.memory.statistics().buffers
        tap.lies[register] = lie
        pair.rc.platform_bus.register_device(tap)
        await trio.sleep(1)
        [binding] = pair.rc.virtio.bindings
        assert binding.state is BindState.FAILED
        assert why in binding.error
        assert pair.rc.memory.statistics().buffers == buffers
        assert pair.vhost.status == Status.FAILED


@pytest.mark.hostile("D09")
@pytest.mark.parametrize("status", [0x01, 0x0F, 0x40])
async def test_a_device_that_never_finishes_its_reset_is_given_up_within_a_second_and_has_no_queue_left(
    status: int,
) -> None:
    async with open_pair(MMIO) as pair, recorded(pair) as tap:
        tap.deaf.add(R.STATUS)
        tap.lies[R.STATUS] = lambda _: status
        began = trio.current_time()
        with trio.fail_after(2):
            driver = pair.rc.virtio.binding(pair.virtio).driver
            assert driver is not None
            await pair.rc.virtio.unregister_driver(driver)
        assert trio.current_time() - began < 1.1
        assert [queue.ring for queue in pair.vhost.queues] == [None, None]
        tap.deaf.clear()
        tap.lies.clear()
        pair.rc.virtio.register_driver(driver)
        await pair.world.wait_up()


@pytest.mark.hostile("D11")
async def test_a_region_that_no_longer_answers_is_detected_and_comes_back() -> None:
    async with open_pair(MMIO) as pair, recorded(pair) as tap:
        tap.lies |= dict.fromkeys(Register, lambda _: 0xFFFF_FFFF)
        virtio = pair.virtio
        virtio.interrupt()
        await trio.sleep(0.5)
        assert "does not respond" in " ".join(virtio.failures)
        tap.lies.clear()
        await pair.world.wait_up()
        await exchange(pair)


async def test_a_device_that_is_taken_out_and_put_back_is_found_again() -> None:
    async with open_pair(MMIO) as pair:
        pair.back.unbind()
        [region] = pair.rc.platform.regions
        assert region.read(R.MAGIC_VALUE, 4) == 0xFFFF_FFFF
        await until(lambda: not pair.rc.platform_bus.bindings)
        assert pair.rc.virtio.bindings == ()
        pair.back.bind()
        await pair.world.wait_up()
        await exchange(pair)


def test_a_host_without_devices_has_no_regions() -> None:
    host = Host("bare", 1 << 20)
    assert host.platform.regions == ()
    host.memory.close()
