"""The network driver against a hostile device: each bad answer has its exact outcome."""

from __future__ import annotations

from collections.abc import Callable

import attrs
import pytest
import trio
import trio.testing

from drivers.bus.binding import BindState
from drivers.transports.pci.registers import CfgType, Common
from rings.features import RingFeature
from rings.memory import Addr
from rings.status import Status
from rings.testing import Desc
from support.rigs.frames import HEADER, NEEDS_CSUM, virtio_net_hdr
from support.rigs.net_hostile import LENGTH, SMALL
from vnet.link.base import Direction
from vnet.testing import (
    FRAME,
    TWO_QUEUES,
    HostileDevice,
    NetPair,
    Options,
    bounded,
    hostile_device,
    open_pair,
    tapped,
    unharmed,
    until,
)

MSI = 0xFEE0_0000


async def broke(pair: NetPair, *why: str) -> None:
    """The queue is broken, the driver says why, resets, and works again; no exception goes anywhere."""
    await until(lambda: pair.virtio.restarts == 1 and pair.device.up)
    assert len(pair.virtio.failures) == 1
    assert all(word in pair.virtio.failures[0] for word in why)
    assert all(queue.fault == "" for queue in pair.virtio.queues)


def twice(device: HostileDevice) -> None:
    """Before the driver looks: afterwards it would have made the buffer available again."""
    ring = device.rings[0]
    head = ring.entry(ring.used_idx)
    device.memory.view(Addr(ring.read(head).addr), LENGTH, True)[:] = HEADER + FRAME
    ring.give(head, LENGTH)
    ring.give(head, LENGTH)


BAD_USED: dict[str, tuple[str, str, int, Callable[[HostileDevice], None]]] = {
    "id out of range": ("D01", "names descriptor 16 of 16", 0, lambda d: d.rings[0].give(16, LENGTH)),
    "id far out of range": ("D01", "descriptor 4294967295", 0, lambda d: d.rings[0].give(0xFFFF_FFFF, LENGTH)),
    "id above 16 bits": ("D01", "descriptor 65536", 0, lambda d: d.rings[0].give(0x1_0000, LENGTH)),
    "not in flight": ("D02", "not the head", 1, lambda d: d.rings[1].give(9)),
    "returned twice": ("D02", "not the head", 0, twice),
    "index far ahead": ("D05", "17 ahead, with 16 in flight", 0, lambda d: setattr(d.rings[0], "used_idx", 17)),
    "index ahead of few": ("D05", "4 ahead, with 3 in flight", 1, lambda d: setattr(d.rings[1], "used_idx", 4)),
    "index backwards": ("D05", "65535 ahead", 0, lambda d: setattr(d.rings[0], "used_idx", 0xFFFF)),
    "all ones": ("D05", "in flight", 1, lambda d: d.rings[1].clear(b"\xff")),
}


@pytest.mark.every_transport
@pytest.mark.hostile("D01", "D02", "D05")
@pytest.mark.parametrize(
    ("why", "queue", "spoil"),
    [v[1:] for v in BAD_USED.values()],
    ids=[f"{v[0]} {k}" for k, v in BAD_USED.items()],
)
async def test_a_used_ring_that_can_not_be_breaks_the_queue_and_the_driver_starts_over(
    why: str, queue: int, spoil: Callable[[HostileDevice], None]
) -> None:
    async with open_pair(SMALL) as pair, unharmed(pair):
        async with hostile_device(pair) as device:
            if queue == 1:  # the driver looks when it has something to send
                pair.vhost.queues[1].close()
                for _ in range(3):
                    pair.driver_port.inject(FRAME)
                await trio.testing.wait_all_tasks_blocked()
            spoil(device)
            pair.driver_port.inject(FRAME)
            device.call(queue)
            await broke(pair, ("receiveq1", "transmitq1")[queue], why)
        frames = pair.driver_port._outbound
        assert len(frames) <= 1, "a buffer that was returned twice is handed up once"
        pair.driver_port._inbound.clear()
        await trio.testing.wait_all_tasks_blocked()
        frames.clear()
        pair.device_port._outbound.clear()


@pytest.mark.every_transport
@pytest.mark.hostile("D03")
@pytest.mark.virtio("SPLIT-DRV-17", "SPLIT-DRV-18")
@pytest.mark.parametrize("size", [65602, 70_000, 1 << 31, 0xFFFF_FFFF])
async def test_a_used_length_beyond_the_buffer_is_refused_and_not_a_byte_of_it_handed_up(size: int) -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), hostile_device(pair) as device:
        device.deliver(HEADER + FRAME, size)
        with bounded():
            await trio.testing.wait_all_tasks_blocked()
        assert not pair.driver_port._outbound
        assert pair.settings.figures.pairs[0].received.drops == {"used_length": 1}
        assert pair.virtio.queues[0].statistics().bad_lengths == 1
        assert device.rings[0].avail_idx == 17, "the buffer is given to the device again"
        device.deliver(HEADER + FRAME)
        assert (await pair.driver_port.receive())[1] == FRAME
        assert pair.virtio.restarts == 0


@pytest.mark.every_transport
@pytest.mark.hostile("D03")
@pytest.mark.parametrize("events", [0, 1, 11, 12, 13, 25])
async def test_a_used_length_shorter_than_any_frame_hands_nothing_up(events: int) -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), hostile_device(pair) as device:
        device.deliver(HEADER + FRAME, events)
        with bounded():
            await trio.testing.wait_all_tasks_blocked()
        assert not pair.driver_port._outbound
        cause = "used_length" if not events else "short_header" if events <= 12 else "short_frame"
        assert pair.settings.figures.pairs[0].received.drops == {cause: 1}


@pytest.mark.every_transport
@pytest.mark.hostile("D03")
@pytest.mark.virtio("SPLIT-DRV-17", "SPLIT-DRV-18")
async def test_bytes_behind_the_used_length_are_not_handed_up() -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), hostile_device(pair) as device:
        device.deliver(HEADER + FRAME + b"secret of an earlier frame", LENGTH)
        assert (await pair.driver_port.receive())[1] == FRAME


BAD_RECEIVED = {
    "unknown gso_type": ("bad_gso", virtio_net_hdr(NEEDS_CSUM, 7, 0, 1460, 14, 6, 1)),
    "GSO without checksum": ("bad_gso", virtio_net_hdr(0, 1, 0, 1460, 14, 6, 1)),
    "gso_size 0": ("bad_gso", virtio_net_hdr(NEEDS_CSUM, 1, 54, 0, 14, 6, 1)),
    "hdr_len behind": ("bad_gso", virtio_net_hdr(NEEDS_CSUM, 1, 999, 1460, 14, 6, 1)),
    "checksum behind": ("bad_csum", virtio_net_hdr(NEEDS_CSUM, start=999, count=1)),
    "one more buffer than came": ("num_buffers", virtio_net_hdr(count=2)),
    "all buffers": ("num_buffers", virtio_net_hdr(count=16)),
    "more buffers than there are": ("num_buffers", virtio_net_hdr(count=0xFFFF)),
}


@pytest.mark.every_transport
@pytest.mark.hostile("D10")
@pytest.mark.parametrize(("cause", "header"), BAD_RECEIVED.values(), ids=BAD_RECEIVED)
async def test_a_received_header_that_can_not_be_is_dropped_and_counted_once(cause: str, header: bytes) -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), hostile_device(pair) as device:
        device.deliver(header + FRAME)
        with bounded():
            await trio.testing.wait_all_tasks_blocked()
        assert not pair.driver_port._outbound
        assert pair.settings.figures.pairs[0].received.drops == {cause: 1}
        assert pair.virtio.restarts == 0
        device.deliver(HEADER + FRAME)
        assert (await pair.driver_port.receive())[1] == FRAME


@pytest.mark.every_transport
@pytest.mark.hostile("D04")
async def test_a_rewritten_descriptor_table_changes_nothing_for_the_driver() -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), hostile_device(pair) as device:
        ring = device.rings[0]
        good = [ring.read(head) for head in range(16)]
        for turn in range(40):
            head = ring.entry(ring.used_idx)
            device.memory.view(Addr(good[head].addr), LENGTH, True)[:] = HEADER + FRAME
            for index in range(16):
                ring.write(index, Desc(turn, 0xFFFF_FFFF, 0xFFFF, turn))
            ring.give(head, LENGTH)
            device.call(0)
            with bounded():
                assert (await pair.driver_port.receive())[1] == FRAME
                await trio.testing.wait_all_tasks_blocked()
            assert ring.read(head) == good[head], "made available again from the driver's own copy"
            for index in range(16):
                ring.write(index, good[index])
        assert pair.virtio.restarts == 0


@pytest.mark.hostile("D06")
@pytest.mark.virtio("SPLIT-DRV-16")
async def test_interrupts_that_come_too_early_or_for_nothing_are_ignored() -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), tapped(pair) as tap:
        queues = pair.vhost.queues

        def call_at_once(_: object) -> None:
            for queue in queues:
                if queue.vector != 0xFFFF:
                    pair.epf.call(queue)
            if pair.epf.config_vector != 0xFFFF:
                pair.epf.config_changed()

        tap.call_on_write(call_at_once)  # behind every write of the driver, from its first on
        pair.rc.pci.register_device(tap)
        await pair.world.wait_up()
        assert pair.virtio.restarts == 0
        assert pair.virtio.early_interrupts > 0
        for _ in range(100):
            call_at_once(None)
        with bounded():
            await trio.testing.wait_all_tasks_blocked()
        await pair.transfer(1 << 15)
        assert pair.virtio.restarts == 0
        tap.call_on_write(None)


@pytest.mark.hostile("D06")
async def test_interrupts_after_remove_are_ignored() -> None:
    async with open_pair(SMALL) as pair, unharmed(pair):
        function = pair.function
        vectors = dict(function._vectors)
        await pair.rc.pci.unregister_device(function)
        before = pair.rc.rc.statistics().msi_spurious
        for data in vectors.values():
            pair.link.mem_write(Direction.UPSTREAM, MSI, 4, data)
        assert pair.rc.rc.statistics().msi_spurious == before + 3
        pair.rc.pci.register_device(function)
        await pair.world.wait_up()


CONFIG = {
    "MTU 0": (10, b"\0\0", "an MTU of 0"),
    "MTU 67": (10, b"\x43\0", "an MTU of 67"),
    "multicast MAC": (0, b"\1\0\0\0\0\1", "no unicast MAC"),
    "MAC of zeroes": (0, bytes(6), "no unicast MAC"),
    "broadcast MAC": (0, b"\xff" * 6, "no unicast MAC"),
}


@pytest.mark.hostile("D07")
@pytest.mark.parametrize(("offset", "data", "why"), CONFIG.values(), ids=CONFIG)
async def test_absurd_configuration_is_refused_at_probe_with_one_clear_message(
    offset: int, data: bytes, why: str
) -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), tapped(pair) as tap:
        config = tap.structures[CfgType.DEVICE]
        if len(data) == 2:
            tap.lies[config.bar, config.offset + offset] = lambda _: int.from_bytes(data, "little")
        else:
            for i in range(len(data)):
                tap.lies[config.bar, config.offset + offset + i] = lambda _, i=i: data[i]  # type: ignore[misc]
        pair.rc.pci.register_device(tap)
        await until(lambda: pair.device.virtio and pair.rc.virtio.binding(pair.virtio).state is BindState.FAILED)
        binding = pair.rc.virtio.binding(pair.virtio)
        assert why in binding.error
        assert "\n" not in binding.error
        assert pair.vhost.status == Status.FAILED


@pytest.mark.hostile("D07")
@pytest.mark.parametrize("mtu", [68, 65535])
async def test_an_mtu_at_the_edge_of_what_is_allowed_works(mtu: int) -> None:
    async with open_pair(SMALL) as pair, tapped(pair) as tap:
        config = tap.structures[CfgType.DEVICE]
        tap.lies[config.bar, config.offset + 10] = lambda _: mtu
        pair.rc.pci.register_device(tap)
        await pair.world.wait_up()
        assert pair.driver_port.mtu == mtu
        pair.driver_port.inject(FRAME)
        assert (await pair.device_port.receive())[1] == FRAME


@pytest.mark.hostile("D08")
async def test_features_that_change_after_they_were_agreed_on_change_nothing() -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), tapped(pair) as tap:
        live = False
        tap.lies[tap.at(Common.DEVICE_FEATURE)] = lambda value: 0 if live else value
        tap.lies[tap.at(Common.DRIVER_FEATURE)] = lambda value: 0 if live else value
        pair.rc.pci.register_device(tap)
        await pair.world.wait_up()
        agreed, live = pair.virtio.features, True
        pair.virtio.interrupt()
        await pair.transfer(1 << 15)
        assert pair.virtio.features == agreed == TWO_QUEUES | 1 << RingFeature.RING_RESET
        assert pair.virtio.restarts == 0


@pytest.mark.hostile("D09")
@pytest.mark.parametrize("status", [1, 15, 0x40, 0xFF], ids=hex)
async def test_a_device_that_never_finishes_its_reset_is_given_up_within_a_second_and_reaches_no_memory(
    status: int,
) -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), tapped(pair) as tap:
        tap.lies[tap.at(Common.DEVICE_STATUS)] = lambda _: status
        pair.rc.pci.register_device(tap)
        with bounded(seconds=1.1):
            while not (pair.device.virtio and pair.virtio.failures):  # noqa: ASYNC110  there is no event
                await trio.sleep(0.01)
        assert "did not finish its reset within 1 s" in pair.virtio.failures[0]
        assert not tap.config_read(4, 2) & 4, "bus mastering is taken away"
        with bounded(seconds=6, turns=30_000):
            await trio.sleep(5)
        assert not tap.config_read(4, 2) & 4, "and stays so while it goes on like this"
        assert 2 < pair.virtio.restarts < 10
        tap.lies.clear()
        await until(lambda: pair.device.up, seconds=3)
        await pair.transfer(1 << 14)


@pytest.mark.hostile("D11")
@pytest.mark.parametrize("how", ["needs reset", "all ones", "reset behind our back", "surprise removal"])
async def test_with_a_thousand_frames_under_way_all_end_once_and_the_driver_recovers(how: str) -> None:
    """A device that serves nothing any more is reset, or gone; not a buffer stays behind."""
    async with open_pair(Options(queue_size=1024, memory=160)) as pair, unharmed(pair), tapped(pair) as tap:
        pair.rc.pci.register_device(tap)
        await pair.world.wait_up()
        pair.vhost.queues[1].close()
        for _ in range(1000):
            pair.driver_port.inject(FRAME)
        await trio.testing.wait_all_tasks_blocked()
        assert pair.virtio.queues[1].ring.state().in_flight == 1000
        if how == "needs reset":
            pair.vhost.fail("of its own accord")
        elif how == "all ones":
            tap.lies[tap.at(Common.DEVICE_STATUS)] = lambda _: 0xFF
            pair.virtio.interrupt()
            await until(lambda: pair.virtio.failures, seconds=2)
            assert pair.virtio.failures[0] == "the device does not answer"
            tap.lies.clear()
        elif how == "reset behind our back":
            tap._inner.bar_write(*tap.at(Common.DEVICE_STATUS), 1, 0)
            await until(lambda: pair.vhost.status == 0)
            pair.virtio.interrupt()
        else:
            pair.link.bring_down()
            await until(lambda: not pair.device.up)
            assert pair.rc.memory.statistics().buffers == 0
            pair.link.bring_up()
        await until(lambda: pair.virtio.restarts > 0 and pair.device.up, seconds=4)
        assert not pair.driver_port._inbound
        pair.driver_port.inject(FRAME)
        assert (await pair.device_port.receive())[1] == FRAME


@pytest.mark.every_transport
@pytest.mark.hostile("D12")
async def test_the_device_never_sees_a_byte_that_was_not_meant_for_it() -> None:
    """Fresh buffers are zeroed, though other memory of the host is not; a descriptor covers the frame and no more."""
    async with open_pair(SMALL) as pair, unharmed(pair):
        bus = pair.rc.virtio
        driver = bus.match(pair.virtio)
        assert driver is not None
        await bus.unregister_driver(driver)
        canary = b"\xc5" * 4096
        memory = pair.rc.memory
        for low, high in list(memory._pool._free):
            for addr in range(low, min(high, low + (8 << 20)), 4096):
                memory.view(Addr(addr), 4096, True)[:] = canary
        memory._pool.peak = memory.base + memory.size  # it was all used before
        bus.register_driver(driver)
        await pair.world.wait_up()
        async with hostile_device(pair) as device:
            for ring in device.rings:
                for start, size in zip(attrs.astuple(ring.addrs), (256, 38, 134), strict=True):
                    assert b"\xc5" not in bytes(memory.view(start, size))
            receive, transmit = device.rings
            for head in range(16):
                desc = receive.read(head)
                assert not any(memory.view(Addr(desc.addr), desc.size))
            for at, size in enumerate((1400, 14, 200)):
                pair.driver_port.inject(FRAME[:14] + b"x" * (size - 14))
                await pair.device_port.receive()
                desc = transmit.read(transmit.entry(at))
                assert desc.size == 12 + size
                assert b"\xc5" not in bytes(memory.view(Addr(desc.addr), desc.size))
