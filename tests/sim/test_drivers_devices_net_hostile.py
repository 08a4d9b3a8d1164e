"""Hostile ends of a network device: frames, rings and lies of either side, each with its exact outcome."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs
import pytest
import trio
import trio.testing

from drivers.bus.model import BindState
from drivers.bus.vhost import DeviceQueue
from drivers.devices.net.flow import BUDGET
from drivers.devices.net.layout import TABLE, NetFeature
from drivers.flow.pump import BATCHES
from drivers.testing import WrappedOps
from drivers.transports.pci.registers import CfgType, Common
from rings.features import mask
from rings.layout import NEXT, WRITE
from rings.memory import Addr
from rings.status import Status
from rings.testing import Access, Act, Changing, Desc, RawRing, Watched
from support.rigs.frames import DROPPED, HEADER, NEEDS_CSUM, Build, cut, framed, virtio_net_hdr, whole
from vnet.link.base import Direction
from vnet.testing import (
    FRAME,
    TWO_QUEUES,
    HostileDevice,
    HostileDriver,
    Options,
    Pair,
    bounded,
    hostile_device,
    hostile_driver,
    open_pair,
    tapped,
    unharmed,
    until,
)

SMALL = Options(queue_size=16)
F = NetFeature
LENGTH = len(HEADER) + len(FRAME)
MSI = 0xFEE0_0000
OK = Status.ACKNOWLEDGE | Status.DRIVER | Status.FEATURES_OK | Status.DRIVER_OK


async def works(driver: HostileDriver, head: int = 8) -> None:
    driver.send(Desc(driver.put(HEADER + FRAME), LENGTH), head=head)
    with bounded():
        assert (await driver.pair.device_port.receive())[1] == FRAME
    await trio.testing.wait_all_tasks_blocked()


# What the driver sends


ENOUGH: dict[str, Build] = {
    "header split over three": cut(HEADER + FRAME, 4, 4, 4),
    "header byte by byte": cut(HEADER + FRAME, *[1] * 12),
    "header and one byte": cut(HEADER + FRAME, 13),
    "header and Ethernet header": cut(HEADER + FRAME, 12, 14),
    "cut inside both headers": cut(HEADER + FRAME, 5, 10, 3),
    "an empty piece first": cut(HEADER + FRAME, 0),
    "empty pieces between": cut(HEADER + FRAME, 12, 0, 0, 14, 0),
    "an empty piece last": cut(HEADER + FRAME, LENGTH),
    "smallest frame": whole(framed(14)),
    "as large as the MTU": whole(framed(1514)),
    "as large, with a tag": whole(framed(1518)),
    "checksum up to the last byte": whole(framed(60, virtio_net_hdr(NEEDS_CSUM, start=52, offset=6))),
    "largest segmented frame": whole(framed(65550, virtio_net_hdr(NEEDS_CSUM, 1, 54, 1460, 34, 16))),
    "hdr_len of the whole frame": whole(framed(60, virtio_net_hdr(NEEDS_CSUM, 1, 60, 1, 34, 16))),
}


@pytest.mark.every_transport
@pytest.mark.hostile("N01", "R11")
@pytest.mark.virtio("SPLIT-DEV-1")
@pytest.mark.parametrize("build", ENOUGH.values(), ids=ENOUGH)
async def test_a_good_frame_passes_however_it_is_cut(build: Build) -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await driver.start()
        descs = build(driver)
        data = b"".join(driver.get(Addr(desc.addr), desc.size) for desc in descs)
        driver.send(*descs)
        with bounded():
            header, frame = await pair.device_port.receive()
            await trio.testing.wait_all_tasks_blocked()
        assert (header, frame) == (data[:12], data[12:])
        assert driver.rings[1].elem(0) == (0, 0)
        assert driver.rings[1].used_idx == 1
        assert pair.plug.received.drops == {}


@pytest.mark.every_transport
@pytest.mark.hostile("N01", "N02", "N03", "N04", "N05")
@pytest.mark.parametrize(("row", "cause", "build"), DROPPED.values(), ids=[f"{v[0]} {k}" for k, v in DROPPED.items()])
async def test_a_bad_frame_is_dropped_counted_once_and_its_buffer_returned_once(
    row: str, cause: str, build: Build
) -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await driver.start()
        descs = build(driver)
        for turn in range(2):
            driver.send(*descs)
            with bounded():
                await trio.testing.wait_all_tasks_blocked()
            drops = pair.plug.received.drops
            assert list(drops.values()) == [turn + 1]
            assert set(drops) <= set(cause.split())
            assert driver.rings[1].used_idx == turn + 1
            assert driver.rings[1].elem(turn) == (0, 0)
        assert not pair.device_port._outbound
        assert driver.status == OK
        await works(driver)


OFFLOADS_OFF = [(F.CSUM, "bad_csum"), (F.HOST_TSO4, "bad_gso")]


@pytest.mark.every_transport
@pytest.mark.hostile("N03", "N04")
@pytest.mark.parametrize(("bit", "cause"), OFFLOADS_OFF, ids=["CSUM", "HOST_TSO4"])
async def test_a_header_that_asks_for_what_was_not_agreed_on_is_a_bad_frame(bit: NetFeature, cause: str) -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await driver.start(TABLE.prune(TWO_QUEUES & ~(1 << bit)))
        gso = (1, 54, 1460) if bit is F.HOST_TSO4 else (0, 0, 0)
        driver.send(*whole(framed(60, virtio_net_hdr(NEEDS_CSUM, *gso, 34, 16)))(driver))
        with bounded():
            await trio.testing.wait_all_tasks_blocked()
        assert pair.plug.received.drops == {cause: 1}
        await works(driver)


@pytest.mark.every_transport
@pytest.mark.hostile("R14")
@pytest.mark.virtio("SPLIT-DEV-2", "SPLIT-DEV-3")
async def test_a_writable_part_in_what_the_driver_sends_is_not_touched_and_the_frame_dropped() -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await driver.start()
        room = driver.put(b"\xee" * 100)
        for descs in ([Desc(room, 100, WRITE)], [*whole(HEADER + FRAME)(driver), Desc(room, 100, WRITE)]):
            driver.send(*descs)
            with bounded():
                await trio.testing.wait_all_tasks_blocked()
        assert pair.plug.received.drops == {"writable": 2}
        assert [driver.rings[1].elem(i) for i in range(2)] == [(0, 0), (0, 0)]
        assert driver.get(room, 100) == b"\xee" * 100
        await works(driver)


# What the driver offers to be filled


@pytest.mark.every_transport
@pytest.mark.hostile("N06")
@pytest.mark.parametrize("mergeable", [True, False])
async def test_a_readable_receive_buffer_comes_back_empty_and_untouched(mergeable: bool) -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await driver.start(TWO_QUEUES if mergeable else TWO_QUEUES & ~mask({F.MRG_RXBUF}))
        room = driver.put(b"\xee" * 2000)
        good = driver.alloc(70_000)
        driver.send(Desc(room, 2000), head=0, queue=0)
        driver.send(Desc(room, 1000), Desc(room + 1000, 1000, WRITE), head=1, queue=0)
        driver.send(Desc(good, 70_000, WRITE), head=3, queue=0)
        pair.device_port.inject(FRAME)
        with bounded():
            await trio.testing.wait_all_tasks_blocked()
        assert [driver.rings[0].elem(i) for i in range(3)] == [(0, 0), (1, 0), (3, LENGTH)]
        assert driver.get(room, 2000) == b"\xee" * 2000
        assert driver.get(good, LENGTH)[12:] == FRAME
        assert pair.plug.sent.drops == {"writable": 2}
        await works(driver)


@pytest.mark.every_transport
@pytest.mark.hostile("N06")
@pytest.mark.parametrize("size", [1, 9, 11, 12, 13, 25, 30])
async def test_a_frame_that_its_buffer_can_not_hold_is_dropped_and_the_buffer_kept(size: int) -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await driver.start(TWO_QUEUES & ~mask({F.MRG_RXBUF}))
        small = driver.put(b"\xee" * 64)
        driver.send(Desc(small, size, WRITE), head=0, queue=0)
        for _ in range(3):
            pair.device_port.inject(FRAME)
        with bounded():
            await trio.testing.wait_all_tasks_blocked()
        assert pair.device_port.statistics().drops == {"too_long": 3}
        assert driver.rings[0].used_idx == 0
        assert driver.get(small, 64) == b"\xee" * 64
        assert driver.status == OK
        pair.device_port.inject(FRAME[:14])
        await trio.testing.wait_all_tasks_blocked()
        if size >= 26:
            assert driver.rings[0].elem(0) == (0, 26)
        await works(driver)


@pytest.mark.every_transport
@pytest.mark.hostile("N06")
@pytest.mark.parametrize("size", [0, 1, 4])
async def test_a_frame_that_no_number_of_merged_buffers_holds_is_dropped_and_all_are_kept(size: int) -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await driver.start()
        before = dict(pair.plug.sent.drops)
        small = driver.put(b"\xee" * 64)
        for head in range(16):
            driver.send(Desc(small + size * head, size, WRITE), head=head, queue=0)
        pair.device_port.inject(FRAME * 3)
        with bounded():
            await trio.testing.wait_all_tasks_blocked()
        if size:
            assert pair.plug.sent.drops == {**before, "too_long": 1}
            assert driver.rings[0].used_idx == 0
            # They are the device's until used: a part of the frame may stand in them, and nothing behind them.
            assert driver.get(Addr(small + 16 * size), 64 - 16 * size) == b"\xee" * (64 - 16 * size)
        else:  # buffers without a byte are no receive buffers
            assert pair.plug.sent.drops == {"writable": 16}
            assert driver.rings[0].used_idx == 16
            pair.device_port._inbound.clear()
        assert driver.status == OK
        pair.device_port._inbound.clear()
        await works(driver)


@pytest.mark.every_transport
@pytest.mark.hostile("N06")
@pytest.mark.virtio("NET-DEV-29", "NET-DEV-30")
async def test_num_buffers_is_right_even_where_the_header_itself_is_cut() -> None:
    async with open_pair(Options(queue_size=64)) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await driver.start()
        base = driver.put(b"\xee" * 1024)
        for head in range(64):
            driver.send(Desc(base + 5 * head, 5, WRITE), head=head, queue=0)
        pair.device_port.inject(FRAME)
        with bounded():
            await trio.testing.wait_all_tasks_blocked()
        count = -(-LENGTH // 5)
        assert driver.rings[0].used_idx == count
        assert driver.get(base, LENGTH) == virtio_net_hdr(count=count) + FRAME
        await works(driver)


# Rings that break the rules, at the device


def ahead(driver: HostileDriver) -> None:
    driver.rings[1].avail_idx += 17


def backwards(driver: HostileDriver) -> None:
    driver.rings[1].avail_idx -= 1


def out_of_range(driver: HostileDriver) -> None:
    driver.rings[1].offer(16)


def loop(driver: HostileDriver) -> None:
    driver.rings[1].write(3, Desc(driver.put(HEADER), 12, NEXT, 3))
    driver.rings[1].offer(3)


def at(addr: int) -> Callable[[HostileDriver], None]:
    """A buffer at an address that is none."""

    def spoil(driver: HostileDriver) -> None:
        driver.rings[1].write(0, Desc(addr, 64))
        driver.rings[1].offer(0)

    return spoil


def chain(*descs: tuple[int, int, int]) -> Callable[[HostileDriver], None]:
    """Descriptors from 0 on, each as size, flags and next, all of the same buffer."""

    def spoil(driver: HostileDriver) -> None:
        buffer = driver.alloc(64)
        for index, (size, flags, following) in enumerate(descs):
            driver.rings[1].write(index, Desc(buffer, size, flags, following))
        driver.rings[1].offer(0)

    return spoil


def made_available_twice(driver: HostileDriver) -> None:
    driver.rings[1].write(0, Desc(driver.put(HEADER), 12))
    driver.rings[1].offer(0)
    driver.rings[1].offer(0)


LATCHES: dict[str, Callable[[HostileDriver], None]] = {
    "R01 loop": loop,
    "R02 longer than the queue": chain(*((1, NEXT, (index + 1) % 16) for index in range(16))),
    "R03 next out of range": chain((12, NEXT, 16)),
    "R07 twice in flight": made_available_twice,
    "R12 more than 2^32 bytes": chain((12, NEXT, 1), ((1 << 32) - 1, NEXT, 2), ((1 << 32) - 1, 0, 0)),
    "R13 readable behind writable": chain((12, NEXT, 1), (12, NEXT | WRITE, 2), (12, 0, 0)),
    "R04 head out of range": out_of_range,
    "R05 index far ahead": ahead,
    "R06 index backwards": backwards,
    "R08 no memory": at(0),
    "R08 end of memory": at(0x4000_0000 + (48 << 20) - 8),
    "R09 address that wraps": at((1 << 64) - 8),
}


@pytest.mark.every_transport
@pytest.mark.hostile("R01", "R02", "R03", "R04", "R05", "R06", "R07", "R08", "R09", "R12", "R13")
@pytest.mark.virtio("STATUS-DEV-3", "STATUS-DEV-4")
@pytest.mark.parametrize("change", LATCHES.values(), ids=LATCHES)
async def test_a_broken_transmit_queue_is_latched_and_what_came_before_it_is_answered(
    change: Callable[[HostileDriver], None],
) -> None:
    """The other queue and the other device go on; only a reset helps, and it does."""
    async with open_pair(attrs.evolve(SMALL, devices=2)) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await driver.start()
        room = driver.alloc(2000)
        await works(driver)
        change(driver)
        driver.kick(1)
        with bounded():
            await trio.testing.wait_all_tasks_blocked()
        assert driver.status == OK | Status.NEEDS_RESET
        assert driver.calls.count(0) == 1
        assert driver.rings[1].elem(0) == (8, 0)
        assert driver.rings[1].used_idx == 1 + (change is made_available_twice)
        driver.rings[1].avail_idx = 1
        driver.send(Desc(driver.put(HEADER + FRAME), LENGTH), head=2)
        driver.send(Desc(room, 2000, WRITE), queue=0)
        pair.device_port.inject(FRAME)
        with bounded():
            await trio.testing.wait_all_tasks_blocked()
        assert not pair.device_port._outbound, "it reads as empty"
        assert driver.rings[0].elem(0) == (0, LENGTH), "the other queue goes on"
        assert len(pair.vhost.failures) == 1
        await pair.transfer(1 << 16, "net1")
        pair.vhost.failures.clear()
        await driver.start()
        await works(driver)


# Time of check, time of use


class Unsteady(Changing):
    """Descriptors and payload change as soon as they were read; the available ring is left in peace."""

    def _invert(self, access: Access) -> None:
        if access.act is Act.READ or access.size == 8:
            super()._invert(access)


@pytest.mark.every_transport
@pytest.mark.hostile("R16")
async def test_a_frame_is_checked_and_sent_from_one_reading_of_its_memory() -> None:
    """Under a memory that turns every byte that was read, each frame goes out as it was first read."""
    async with open_pair(SMALL) as pair, unharmed(pair):
        ops = pair.vhost.ops
        async with hostile_driver(pair) as driver:
            pair.vhost.ops = WrappedOps(ops, Unsteady)
            await driver.start()
            header = virtio_net_hdr(NEEDS_CSUM, start=14, offset=6)
            for head in range(16):
                driver.send(*whole(header + FRAME)(driver), head=head)
                with bounded():
                    assert await pair.device_port.receive() == (header, FRAME)
                    await trio.testing.wait_all_tasks_blocked()
            pair.vhost.ops = ops


@pytest.mark.every_transport
@pytest.mark.hostile("R16")
async def test_headers_rewritten_while_the_frame_goes_out_are_those_that_were_checked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await driver.start()
        good = virtio_net_hdr(NEEDS_CSUM, start=14, offset=6)
        addr = driver.put(good + FRAME)
        seen: list[bytes] = []
        send = pair.device_port.send

        def meddle(head: bytes, rest: Sequence[memoryview]) -> bool:
            driver.memory.view(addr, 26, True)[:] = b"\xff" * 26  # between the check and the port's own use
            driver.rings[1].write(0, Desc(0, 0xFFFF_FFFF, WRITE))
            seen.append(bytes(head))
            return send(head, rest)

        monkeypatch.setattr(pair.device_port, "send", meddle)
        driver.send(Desc(addr, LENGTH))
        with bounded():
            assert await pair.device_port.receive() == (good, FRAME)
            await trio.testing.wait_all_tasks_blocked()
        assert seen == [good + FRAME[:14]]
        assert driver.rings[1].elem(0) == (0, 0)
        monkeypatch.undo()


@pytest.mark.every_transport
@pytest.mark.hostile("R16")
@pytest.mark.virtio("SPLIT-DEV-4", "RESET-DEV-3")
async def test_the_device_touches_only_rings_and_buffers_that_it_was_given() -> None:
    async with open_pair(SMALL) as pair, unharmed(pair):
        ops, memories = pair.vhost.ops, list[Watched]()

        def around(memory: object) -> Watched:
            memories.append(Watched(memory))  # type: ignore[arg-type]
            return memories[-1]

        async with hostile_driver(pair) as driver:
            pair.vhost.ops = WrappedOps(ops, around)
            await driver.start()
            frame, room = driver.put(HEADER + FRAME), driver.alloc(2000)
            for head in range(8):
                driver.send(Desc(frame, LENGTH), head=head)
                driver.send(Desc(room, 2000, WRITE), head=head, queue=0)
                pair.device_port.inject(FRAME)
            with bounded():
                await trio.testing.wait_all_tasks_blocked()
            log = [access for memory in memories for access in memory.log if access.act is not Act.FENCE]
            assert log
            rings = [ring.addrs for ring in driver.rings]

            def allowed(access: Access) -> bool:
                if access.act in {Act.READ, Act.WRITE}:
                    return access in {Access(Act.READ, frame, LENGTH), Access(Act.WRITE, room, 2000)}
                if access.act is Act.STORE:
                    return any(access.within(ring.device, 6 + 8 * 16) for ring in rings)
                return any(
                    access.within(ring.desc, 256)
                    or access.within(ring.driver, 6 + 2 * 16)
                    or access.within(ring.device, 6)
                    for ring in rings
                )

            assert [access for access in log if not allowed(access)] == []
            await driver.reset()
            count = sum(len(memory.log) for memory in memories)
            pair.device_port.inject(FRAME)
            driver.kick(1)
            await trio.testing.wait_all_tasks_blocked()
            assert sum(len(memory.log) for memory in memories) == count
            pair.vhost.ops = ops
            pair.device_port._inbound.clear()


class _Sends(trio.abc.Instrument):
    """How many frames a port took between two steps of tasks."""

    def __init__(self, pair: Pair) -> None:
        self._port = pair.device_port
        self._last = 0
        self.largest = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._port._outbound.clear()
        self.largest = max(self.largest, self._port.tx_packets - self._last)
        self._last = self._port.tx_packets


@pytest.mark.every_transport
class Flooding(WrappedOps):
    """Whenever the device publishes what it used, all of it is made available again at once, without a kick."""

    ring: RawRing | None = None

    def call(self, queue: DeviceQueue) -> None:
        ring = self.ring
        if queue.index == 1 and ring is not None:
            ring.used_event = ring.used_idx  # call again for the very next
            while ring.avail_idx - ring.used_idx & 0xFFFF < ring.num:
                ring.offer(ring.avail_idx % ring.num)
        else:
            super().call(queue)


@pytest.mark.hostile("R17", "R21")
async def test_a_flood_that_never_ends_is_taken_in_bounded_batches_and_another_device_keeps_its_rate() -> None:
    async with open_pair(Options(queue_size=256, devices=2, memory=96)) as pair, unharmed(pair):
        ops, sends = pair.vhost.ops, _Sends(pair)
        async with hostile_driver(pair) as driver:
            flood = pair.vhost.ops = Flooding(ops, lambda memory: memory)
            await driver.start()
            flood.ring = ring = driver.rings[1]
            frame = driver.put(HEADER + FRAME)
            for head in range(ring.num):
                ring.write(head, Desc(frame, LENGTH))
            ring.offer(*range(ring.num))
            driver.kick(1)
            trio.lowlevel.add_instrument(sends)
            await pair.transfer(1 << 20, "net1")
            trio.lowlevel.remove_instrument(sends)
            assert pair.plug.received.packets > 2_000
            assert pair.vhost.queues[1].kicks == 1
            assert BUDGET // 2 < sends.largest <= BUDGET * BATCHES
            flood.ring = None
            with bounded():
                await trio.testing.wait_all_tasks_blocked()
            assert driver.status == OK
            pair.vhost.ops = ops


# A port that goes away


@pytest.mark.every_transport
@pytest.mark.hostile("N08")
@pytest.mark.parametrize("end", ["driver", "device"])
async def test_a_port_that_is_taken_away_stops_its_end_cleanly_and_the_device_says_so(end: str) -> None:
    async with open_pair(SMALL) as pair, unharmed(pair):
        port = pair.world.memory_port("net0", end)
        for _ in range(10):
            pair.driver_port.inject(FRAME)
            pair.device_port.inject(FRAME)
        port.unplug()
        with bounded():
            await trio.testing.wait_all_tasks_blocked()
        assert not port.live
        assert pair.virtio.restarts == 0
        if end == "device":
            assert pair.vhost.config[6] == 0
            assert not pair.driver_port.carrier
        else:
            await until(lambda: pair.rc.virtio.binding(pair.virtio).state is BindState.FAILED)
            assert not pair.vhost.status & Status.DRIVER_OK
            assert not pair.device_port.carrier
        assert "the memory port was unplugged" in pair.device.trouble()
        port._gone = False
        for memory_port in (pair.driver_port, pair.device_port):
            memory_port._inbound.clear()
            memory_port._outbound.clear()


# A hostile device


async def broke(pair: Pair, *why: str) -> None:
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
            await broke(pair, f"queue {queue}", why)
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
        assert pair.settings.received.drops == {"used_length": 1}
        assert pair.virtio.statistics(pair.virtio.queues[0]).bad_lengths == 1
        assert device.rings[0].avail_idx == 17, "the buffer is given to the device again"
        device.deliver(HEADER + FRAME)
        assert (await pair.driver_port.receive())[1] == FRAME
        assert pair.virtio.restarts == 0


@pytest.mark.every_transport
@pytest.mark.hostile("D03")
@pytest.mark.parametrize("told", [0, 1, 11, 12, 13, 25])
async def test_a_used_length_shorter_than_any_frame_hands_nothing_up(told: int) -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), hostile_device(pair) as device:
        device.deliver(HEADER + FRAME, told)
        with bounded():
            await trio.testing.wait_all_tasks_blocked()
        assert not pair.driver_port._outbound
        cause = "used_length" if not told else "short_header" if told <= 12 else "short_frame"
        assert pair.settings.received.drops == {cause: 1}


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
        assert pair.settings.received.drops == {cause: 1}
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

        tap.on_write = call_at_once  # behind every write of the driver, from its first on
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
        tap.on_write = lambda _: None


@pytest.mark.hostile("D06")
async def test_interrupts_after_remove_find_nobody() -> None:
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
        assert pair.virtio.features == agreed == TWO_QUEUES
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
            while not (pair.device.virtio and pair.virtio.failures):  # noqa: ASYNC110  it tells nobody
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
