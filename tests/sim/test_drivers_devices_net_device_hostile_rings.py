"""The network device against a hostile driver: broken rings, and memory that changes between two reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs
import pytest
import trio
import trio.testing

from drivers.bus.vhost import DeviceQueue
from drivers.devices.net.flow import BUDGET
from drivers.flow.pump import BATCHES
from drivers.testing import WrappedOps
from rings.layout import NEXT, WRITE
from rings.status import Status
from rings.testing import Access, Act, Changing, Desc, RawRing
from support.rigs.frames import HEADER, NEEDS_CSUM, virtio_net_hdr, whole
from support.rigs.net_hostile import LENGTH, SMALL, at, works
from support.rigs.watched import watched_memory
from vnet.testing import (
    FRAME,
    HostileDriver,
    NetPair,
    Options,
    bounded,
    hostile_driver,
    open_pair,
    unharmed,
)

OK = Status.ACKNOWLEDGE | Status.DRIVER | Status.FEATURES_OK | Status.DRIVER_OK

# Rings that break the rules, at the device


def ahead(driver: HostileDriver[NetPair]) -> None:
    driver.rings[1].avail_idx += 17


def backwards(driver: HostileDriver[NetPair]) -> None:
    driver.rings[1].avail_idx -= 1


def out_of_range(driver: HostileDriver[NetPair]) -> None:
    driver.rings[1].offer(16)


def loop(driver: HostileDriver[NetPair]) -> None:
    driver.rings[1].write(3, Desc(driver.put(HEADER), 12, NEXT, 3))
    driver.rings[1].offer(3)


def chain(*descs: tuple[int, int, int]) -> Callable[[HostileDriver[NetPair]], None]:
    """Descriptors from 0 on, each as size, flags and next, all of the same buffer."""

    def spoil(driver: HostileDriver[NetPair]) -> None:
        buffer = driver.alloc(64)
        for index, (size, flags, following) in enumerate(descs):
            driver.rings[1].write(index, Desc(buffer, size, flags, following))
        driver.rings[1].offer(0)

    return spoil


def made_available_twice(driver: HostileDriver[NetPair]) -> None:
    driver.rings[1].write(0, Desc(driver.put(HEADER), 12))
    driver.rings[1].offer(0)
    driver.rings[1].offer(0)


LATCHES: dict[str, Callable[[HostileDriver[NetPair]], None]] = {
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
    change: Callable[[HostileDriver[NetPair]], None],
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
    async with open_pair(SMALL) as pair, unharmed(pair), hostile_driver(pair) as driver:
        with watched_memory(pair) as memories:
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
        pair.device_port._inbound.clear()


class _Sends(trio.abc.Instrument):
    """How many frames a port took between two steps of tasks."""

    def __init__(self, pair: NetPair) -> None:
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
            assert pair.plug.figures.pairs[0].received.packets > 2_000
            assert pair.vhost.queues[1].kicks == 1
            assert BUDGET // 2 < sends.largest <= BUDGET * BATCHES
            flood.ring = None
            with bounded():
                await trio.testing.wait_all_tasks_blocked()
            assert driver.status == OK
            pair.vhost.ops = ops
