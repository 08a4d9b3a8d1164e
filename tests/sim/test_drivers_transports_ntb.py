"""virtio over an NTB: bring-up in every order, what the RFC's code got wrong, flaps, and ends that lie or die."""

from __future__ import annotations

import random
from itertools import pairwise, permutations

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from drivers.bus.model import BindState
from drivers.bus.vhost import VhostBack
from drivers.bus.virtio import ConfigOps
from drivers.carriers.ntb import NtbEpf
from drivers.contracts.hw import DmaMemory
from drivers.errors import ProbeError, TransportLost
from drivers.registry import TRANSPORTS
from drivers.transports.ntb.back import NtbVhost
from drivers.transports.ntb.end import BEAT, NtbEnd
from drivers.transports.ntb.front import NtbVirtio
from drivers.transports.ntb.registers import (
    BUFFER_OFFSET,
    DB_CONTROL,
    VERSION,
    Answer,
    NtbCommand,
    NtbOutcome,
    NtbSide,
    Offer,
    RingArea,
    Spad,
    emit_command,
    parse_command,
)
from rings.errors import MemoryFault
from rings.features import RingFeature, mask
from rings.memory import Addr
from rings.status import Status
from support.rigs.ntb import DEVICE_ID, MIB, TABLE, WIDE, PlainVhost, ThreeHosts, open_hosts

RUNNING = Status.ACKNOWLEDGE | Status.DRIVER | Status.FEATURES_OK | Status.DRIVER_OK
STEPS = ("start_device", "start_back", "start_front", "start_driver", "link 0", "link 1")


def step(hosts: ThreeHosts, name: str) -> None:
    if name.startswith("link"):
        hosts.start_link(int(name[-1]))
    else:
        getattr(hosts, name)()


# Bring-up


@pytest.mark.parametrize("seed", range(100))
async def test_parts_that_start_in_any_order_come_to_the_same_end(seed: int) -> None:
    order = list(STEPS)
    dice = random.Random(seed)
    dice.shuffle(order)
    async with open_hosts() as hosts:
        for name in order:
            step(hosts, name)
            if dice.random() < 0.5:
                await trio.sleep(dice.random() / 10)
        await hosts.wait_up()
        device = hosts.device
        assert device is not None
        assert (device.device_id, device.vendor_id, device.status) == (DEVICE_ID, 0x1AF4, RUNNING)
        assert device.features == hosts.vhost.features == hosts.back.device.features
        assert [queue.num for queue in hosts.back.device.queues] == [64] * 8
        assert all(queue.live for queue in device.queues)
        assert all(queue.live for queue in hosts.back.device.queues)
        assert hosts.virtio.config == hosts.vhost.config
        assert (device.restarts, hosts.vhost.runs) == (0, 1)


def test_the_orders_are_all_there_are() -> None:
    assert len(list(permutations(STEPS))) == 720


async def test_the_scratchpads_read_as_the_table_says() -> None:
    async with open_hosts() as hosts:
        hosts.start()
        await hosts.wait_up()
        words, front = hosts.peek(), hosts.front
        features = hosts.vhost.features
        assert words == words | {
            Spad.TYPE: NtbSide.VIRTIO,
            Spad.VENDOR_ID: 0x1AF4,
            Spad.DEVICE_ID: DEVICE_ID,
            Spad.VHOST_FEATURES_LO: features & 0xFFFF_FFFF,
            Spad.VHOST_FEATURES_HI: features >> 32 & 0xFFFF_FFFF,
            Spad.VIRTIO_FEATURES_LO: features & 0xFFFF_FFFF,
            Spad.VIRTIO_FEATURES_HI: features >> 32 & 0xFFFF_FFFF,
            Spad.MW0_SIZE_LO: 4 * MIB,
            Spad.MW0_SIZE_HI: 0,
            Spad.MW0_ADDR_LO: front.dma.base & 0xFFFF_FFFF,
            Spad.MW0_ADDR_HI: front.dma.base >> 32,
            Spad.STATUS: RUNNING,
            Spad.NUM_BUFFERS: 64,
            Spad.VERSION: VERSION,
            Spad.SESSION: 1,
            Spad.READY: 1,
            Spad.VIRTIO_SESSION: 1,
            Spad.BUFFER_OFFSET: BUFFER_OFFSET,
        }
        assert hosts.ntb.secondary.spads[Spad.TYPE] == NtbSide.VHOST
        config = b"".join(hosts.spad(Spad.CONFIG + i).to_bytes(4, "little") for i in range(8))
        assert config[:30] == hosts.vhost.config


async def test_neither_end_is_ready_while_only_one_asked_for_the_link() -> None:
    async with open_hosts() as hosts:
        hosts.start_device()
        hosts.start_back()
        hosts.start_link(0)
        hosts.start_link(1)
        await trio.sleep(1)
        assert not hosts.ntb.link_is_up
        assert hosts.peek()[Spad.SESSION] == 0
        hosts.start_front()
        hosts.start_driver()
        await hosts.wait_up()
        assert hosts.ntb.link_is_up


async def test_no_ring_is_touched_before_driver_ok() -> None:
    async with open_hosts() as hosts:
        hosts.start()
        hosts.host2.virtio._drivers.clear()
        await trio.sleep(0.2)
        assert hosts.device is not None
        assert hosts.vhost.runs == 0
        assert not any(queue.live for queue in hosts.back.device.queues)
        hosts.start_driver()
        await hosts.wait_up()


async def test_everything_a_driver_allocates_lies_in_the_window_and_comes_back() -> None:
    async with open_hosts() as hosts:
        hosts.start()
        await hosts.wait_up()
        front = hosts.front
        memory = hosts.host2.memory.statistics()
        buffers = [front.dma.alloc(size) for size in (1, 64, 5000, MIB)]
        low, high = front.dma.base + BUFFER_OFFSET, front.dma.base + 4 * MIB
        assert all(low <= buffer.addr and buffer.addr + buffer.size <= high for buffer in buffers)
        assert hosts.host2.memory.statistics() == memory
        rings = [state for queue in hosts.back.device.queues for state in (queue.desc, queue.driver, queue.used)]
        assert all(front.dma.base <= at < low for at in rings)
        with pytest.raises(MemoryError):
            front.dma.alloc(4 * MIB)
        for buffer in buffers:
            front.dma.free(buffer)
        assert front.dma.alloc(100).addr == buffers[0].addr


async def test_what_is_handed_out_again_is_zeroed() -> None:
    async with open_hosts() as hosts:
        hosts.start()
        await hosts.wait_up()
        dma = hosts.front.dma
        buffer = dma.alloc(5000)
        dma.view(buffer.addr, 5000, True)[:] = b"x" * 5000
        dma.free(buffer)
        assert not any(dma.view(dma.alloc(5000).addr, 5000))


async def test_a_driver_that_goes_resets_the_device_and_the_next_one_finds_it() -> None:
    async with open_hosts() as hosts:
        hosts.start()
        await hosts.wait_up()
        resets = hosts.back.device.resets
        await hosts.host2.virtio.unregister_driver(hosts.virtio)
        assert hosts.back.device.resets > resets
        assert hosts.peek()[Spad.STATUS] == 0
        assert hosts.front.dma.used == 0
        hosts.start_driver()
        await hosts.wait_up()
        assert (hosts.vhost.runs, hosts.back.session) == (2, 1)


async def test_a_device_that_is_withdrawn_ends_the_session_and_its_return_begins_another() -> None:
    async with open_hosts() as hosts:
        hosts.start()
        await hosts.wait_up()
        await hosts.host1.vhost.unregister_driver(hosts.vhost)
        await trio.sleep(0.1)
        assert not hosts.front.online
        assert hosts.back.session == 0
        hosts.host1.vhost.register_driver(hosts.vhost)
        await hosts.wait_up()
        assert hosts.back.session == hosts.front.session == 2


async def test_100_starts_and_ends_leave_nothing_behind() -> None:
    async with open_hosts() as hosts:
        hosts.start()
        await hosts.wait_up()
        before = None
        for at in range(100):
            link = hosts.links[at % 2]
            link.bring_down()
            await trio.sleep(0.01)
            link.bring_up()
            await hosts.wait_up()
            now = (
                hosts.host2.memory.statistics().used,
                hosts.front.dma.used,
                [link.statistics().windows for link in hosts.links],
                len(hosts.controllers[1]._pool.mapped),
                trio.lowlevel.current_statistics().tasks_living,
            )
            assert before in (None, now)
            before = now


# What the RFC's code got wrong


async def test_the_configuration_is_read_from_the_vhost_sides_bank() -> None:
    """The RFC's driver read its own scratchpads."""
    async with open_hosts() as hosts:
        hosts.start()
        await hosts.wait_up()
        for spad in range(Spad.CONFIG, Spad.CONFIG + 8):
            hosts.ntb.secondary.spads[spad] = 0xBAD_BAD
        assert await hosts.front.read_config(0, 30) == hosts.vhost.config


@pytest.mark.parametrize("offset", range(8))
@pytest.mark.parametrize("size", [1, 2, 3, 4, 6, 8])
async def test_any_bytes_of_the_configuration_are_read_and_written(offset: int, size: int) -> None:
    """The RFC's code could do multiples of 4 only, and its write ignored the offset."""
    async with open_hosts() as hosts:
        hosts.start()
        await hosts.wait_up()
        assert await hosts.front.read_config(offset, size) == hosts.vhost.config[offset : offset + size]
        data = bytes(range(100, 100 + size))
        await hosts.front.write_config(offset, data)
        written = bytearray(30)
        for at, part in hosts.vhost.written:
            written[at : at + len(part)] = part
        assert bytes(written) == bytes(offset) + data + bytes(30 - offset - size)


async def test_the_configuration_ends_where_it_ends() -> None:
    async with open_hosts() as hosts:
        hosts.start()
        await hosts.wait_up()
        assert await hosts.front.read_config(29, 1) == bytes([30])
        for offset, size in ((30, 1), (27, 4), (1000, 4), (-1, 2)):
            with pytest.raises(ProbeError, match="no device configuration"):
                await hosts.front.read_config(offset, size)
            with pytest.raises(ProbeError, match="no device configuration"):
                await hosts.front.write_config(offset, bytes(size))


@pytest.mark.parametrize("queue", range(8))
async def test_a_doorbell_is_a_mask_and_rings_its_own_queue_only(queue: int) -> None:
    """The RFC's code passed the queue's index where the interface takes a mask."""
    async with open_hosts() as hosts:
        hosts.start()
        await hosts.wait_up()
        device = hosts.device
        assert device is not None
        before = [q.kicks for q in hosts.back.device.queues]
        device.queues[queue].kick()
        after = [q.kicks for q in hosts.back.device.queues]
        assert [b - a for a, b in zip(before, after, strict=True)] == [int(i == queue) for i in range(8)]
        hosts.back.call(hosts.back.device.queues[queue])
        assert [q.calls for q in device.queues] == [int(i == queue) for i in range(8)]


@pytest.mark.parametrize("align", [64, 256, 4096, 65536])
async def test_both_sides_agree_on_the_alignment_whatever_each_wants(align: int) -> None:
    """The RFC's two sides each took their own, which worked where they happened to be equal."""
    async with open_hosts(align=align) as hosts:
        hosts.start()
        await hosts.wait_up()
        assert hosts.peek()[Spad.VIRTIO_ALIGN] == max(align, 64)
        base, area = hosts.front.dma.base, RingArea((64,) * 8, align)
        for index, queue in enumerate(hosts.back.device.queues):
            addrs = area.addrs(base, index, 64)
            assert (queue.desc, queue.driver, queue.used) == (addrs.desc, addrs.driver, addrs.device)
            assert queue.used % align == 0


async def test_queues_of_different_sizes_do_not_overlap() -> None:
    async with open_hosts() as hosts:
        hosts.vhost.nums = (512, 1, 256, 2, 16)
        hosts.virtio.queues = 5
        hosts.start()
        await hosts.wait_up()
        assert [queue.num for queue in hosts.back.device.queues] == [512, 1, 256, 2, 16]
        starts = [queue.desc for queue in hosts.back.device.queues]
        assert len({b - a for a, b in pairwise(starts)}) == 1


async def test_a_driver_may_use_smaller_rings_and_fewer_of_them() -> None:
    async with open_hosts() as hosts:
        hosts.virtio.num, hosts.virtio.queues = 16, 3
        hosts.start()
        await hosts.wait_up()
        assert [queue.num for queue in hosts.back.device.queues][:3] == [16] * 3
        assert [queue.enabled for queue in hosts.back.device.queues] == [True] * 3 + [False] * 5


async def test_eight_queues_of_512_move_the_buffers() -> None:
    async with open_hosts() as hosts:
        hosts.vhost.nums = (512,) * 8
        hosts.start()
        await hosts.wait_up()
        assert hosts.peek()[Spad.BUFFER_OFFSET] == RingArea((512,) * 8, 4096).buffer_offset > BUFFER_OFFSET


async def test_status_0_is_written_and_resets_the_device() -> None:
    """In the RFC reset was a command that no device handled, and the status stayed."""
    async with open_hosts() as hosts:
        hosts.start()
        await hosts.wait_up()
        hosts.host2.virtio.binding(hosts.front._device).scope.cancel()  # type: ignore[arg-type, union-attr]
        await trio.sleep(0.1)
        await hosts.front.reset()
        assert await hosts.front.get_status() == hosts.back.device.status == 0
        assert (hosts.back.device.driver_features, hosts.back.device.features) == (0, 0)
        assert not any(queue.enabled for queue in hosts.back.device.queues)


async def test_features_beyond_64_are_negotiated() -> None:
    """The RFC had two words of them."""
    async with open_hosts() as hosts:
        hosts.virtio.refuse = 1 << WIDE[1]
        hosts.start()
        await hosts.wait_up()
        assert hosts.back.device.features == hosts.vhost.features & ~(1 << WIDE[1])
        assert TABLE.describe(hosts.back.device.features)[-1] == "WIDE_70"


async def test_a_side_that_does_nothing_is_not_looked_at_more_often_than_it_beats() -> None:
    """The RFC polled its command word every millisecond."""
    async with open_hosts() as hosts:
        hosts.start()
        await hosts.wait_up()
        await trio.sleep(BEAT)
        before = [link.statistics().downstream for link in hosts.links]
        await trio.sleep(10)
        for link, first in zip(hosts.links, before, strict=True):
            now = link.statistics().downstream
            assert (now.reads + now.writes - first.reads - first.writes) / (10 / BEAT) < 16
        assert hosts.back.rescues == hosts.front.rescues == 0


async def test_commands_are_told_by_doorbell_and_take_no_time() -> None:
    async with open_hosts() as hosts:
        hosts.start()
        await hosts.wait_up()
        began = trio.current_time()
        for _ in range(100):
            await hosts.front.write_config(0, b"x")
        assert trio.current_time() == began


# Commands


class Puppet:
    """The vhost side as a test moves it, word by word: ``ntb`` is the primary's."""

    def __init__(self, ntb: NtbEpf, offer: Offer) -> None:
        self.ntb = ntb
        self.offer = offer
        self.commands: list[int] = []
        self.answering = True
        self.beats = 0
        ntb.watch(self)
        ntb.link_enable()

    def link_event(self) -> None:
        pass

    def db_event(self) -> None:
        self.ntb.db_clear(self.ntb.db_read())
        ntb = self.ntb
        if ntb.spad_read(Spad.VIRTIO_SESSION) == self.offer.session:
            self.put({Spad.READY: self.offer.session})
        word = ntb.spad_read(Spad.COMMAND)
        if word and word not in self.commands:
            self.commands.append(word)
            if self.answering:
                self.complete(word)

    def put(self, words: dict[int, int]) -> None:
        for spad, value in words.items():
            self.ntb.spad_write(spad, value)
        self.ntb.peer_db_set(DB_CONTROL)

    def complete(self, word: int, outcome: int = NtbOutcome.OK) -> None:
        self.put({Spad.COMMAND_STATUS: emit_command(parse_command(word)[0], outcome)})

    def show(self, words: dict[int, int] | None = None) -> None:
        self.put({**self.offer.emit(), **(words or {})})
        self.ntb.peer_spad_write(Spad.TYPE, NtbSide.VHOST)
        self.ntb.peer_db_set(DB_CONTROL)

    async def beat(self) -> None:
        while True:
            self.beats += 1
            self.ntb.peer_spad_write(Spad.BEAT, self.beats)
            await trio.sleep(BEAT)


OFFER = Offer(5, 0x1AF4, DEVICE_ID, mask((RingFeature.VERSION_1,)), 4 * MIB, (64,) * 8, 30, 64)


async def puppet(hosts: ThreeHosts, offer: Offer = OFFER) -> Puppet:
    """A vhost side of a test's own, before a real virtio side."""
    hosts.start_front()
    hosts.start_link(0)
    hosts.start_link(1)
    made = Puppet(await hosts.raw(0), offer)
    hosts.nursery.start_soon(made.beat)
    return made


async def online(hosts: ThreeHosts) -> NtbVirtio:
    with trio.fail_after(1):
        while hosts.device is None or not hosts.device.ops.online:  # noqa: ASYNC110
            await trio.sleep(0.001)
    return hosts.front


@pytest.mark.hostile("D09")
async def test_a_command_without_an_answer_ends_after_a_second() -> None:
    async with open_hosts() as hosts:
        vhost = await puppet(hosts)
        vhost.show()
        front = await online(hosts)
        vhost.answering = False
        began = trio.current_time()
        with pytest.raises(TransportLost, match="no answer to SET_STATUS within 1 s"):
            await front.set_status(1)
        assert trio.current_time() - began == pytest.approx(1)


async def test_a_late_answer_never_ends_the_next_command() -> None:
    """In the RFC the outcome had no number: a late one satisfied whatever came next."""
    async with open_hosts() as hosts:
        vhost = await puppet(hosts)
        vhost.show()
        front = await online(hosts)
        vhost.answering = False
        with pytest.raises(TransportLost):
            await front.set_status(1)
        done = trio.Event()

        async def next_command() -> None:
            await front.finalize_features(0)
            done.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(next_command)
            await wait_all_tasks_blocked()
            first, second = vhost.commands
            vhost.complete(first)
            await trio.sleep(0.5)
            assert not done.is_set()
            vhost.complete(second)
        assert done.is_set()
        assert [parse_command(word)[1] for word in vhost.commands] == [
            NtbCommand.SET_STATUS,
            NtbCommand.FINALIZE_FEATURES,
        ]


async def test_commands_wait_for_one_another() -> None:
    async with open_hosts() as hosts:
        vhost = await puppet(hosts)
        vhost.show()
        front = await online(hosts)
        vhost.answering = False
        async with trio.open_nursery() as nursery:
            for status in (1, 3):
                nursery.start_soon(front.set_status, status)
            for at in range(2):
                await wait_all_tasks_blocked()
                assert len(vhost.commands) == at + 1
                vhost.complete(vhost.commands[at])


async def test_a_command_that_the_vhost_side_can_not_do_is_an_error_of_its_own() -> None:
    async with open_hosts() as hosts:
        hosts.start()
        await hosts.wait_up()
        with pytest.raises(ProbeError, match="refused ENABLE_QUEUES"):
            await hosts.front._command(NtbCommand.ENABLE_QUEUES)  # they run already


async def test_the_command_for_reset_means_the_same_as_status_0() -> None:
    async with open_hosts() as hosts:
        hosts.start()
        await hosts.wait_up()
        await hosts.front._command(NtbCommand.RESET)
        assert hosts.vhost.runs == 1
        assert hosts.back.device.resets >= 2
        await hosts.wait_up()  # the driver notices that it was reset behind its back


@pytest.mark.hostile("D09")
async def test_a_device_that_does_not_finish_its_reset_loses_the_window_before_memory_is_freed() -> None:
    async with open_hosts() as hosts:
        hosts.vhost.stubborn = trio.CancelScope(shield=True)
        hosts.start()
        await hosts.wait_up()
        memory = hosts.back.memory()
        base = hosts.front.dma.base
        with pytest.raises(TransportLost, match="no answer to SET_STATUS"):
            await hosts.front.reset()
        with pytest.raises(MemoryFault, match="mapped"):
            memory.view(base, 1)
        assert not hosts.front.online
        hosts.vhost.stubborn.shield = False


@pytest.mark.hostile("S12")
async def test_a_reader_never_gets_a_mixed_configuration() -> None:
    async with open_hosts() as hosts:
        hosts.start()
        await hosts.wait_up()
        device = hosts.device
        assert device is not None
        hosts.back.device.set_config(bytes(30))
        stop = False

        async def write() -> None:
            at = 0
            while not stop:
                at += 1
                hosts.back.device.set_config(bytes([at & 0xFF]) * 30)
                await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            for _ in range(300):
                try:
                    data = await device.read_config(0, 30)
                except ProbeError:
                    continue
                assert len(set(data)) == 1
            stop = True


async def test_a_configuration_that_is_never_complete_is_given_up() -> None:
    async with open_hosts() as hosts:
        hosts.start()
        await hosts.wait_up()
        hosts.ntb.primary.spads[Spad.GENERATION] |= 1
        with trio.fail_after(1), pytest.raises(TransportLost, match="stays odd"):
            await hosts.front.generation()


async def test_a_change_of_the_configuration_reaches_the_driver() -> None:
    async with open_hosts() as hosts:
        hosts.start()
        await hosts.wait_up()
        await trio.sleep(0.01)
        before = hosts.virtio.changes
        hosts.back.device.set_config(bytes(30))
        await wait_all_tasks_blocked()
        assert hosts.virtio.changes == before + 1
        assert await hosts.front.read_config(0, 30) == bytes(30)


async def test_a_device_that_fails_is_reset_by_its_driver_and_runs_again() -> None:
    async with open_hosts() as hosts:
        hosts.start()
        await hosts.wait_up()
        hosts.back.device.fail("on purpose")
        await trio.sleep(0.1)
        await hosts.wait_up()
        assert hosts.device is not None
        assert hosts.device.failures[-1] == "the device asked for a reset"
        assert hosts.back.session == 1


# Flaps


@pytest.mark.hostile("T02")
@pytest.mark.parametrize("at", [0, 1])
@pytest.mark.parametrize("down", [0, 0.001, 0.3])
async def test_a_flap_of_either_link_starts_a_new_session_with_rings_from_zero(at: int, down: float) -> None:
    async with open_hosts() as hosts:
        hosts.start()
        await hosts.wait_up()
        device = hosts.device
        assert device is not None
        queue, old = device.queues[0], hosts.back.memory()
        for _ in range(3):
            queue.ring.add(((hosts.front.dma.base, 1),), (), 0)
        queue.ring.publish()
        hosts.links[at].bring_down()
        assert not hosts.back.device.queues[0].live
        assert not queue.live
        if down:
            await trio.sleep(down)
            assert hosts.back.device.status == 0
        hosts.links[at].bring_up()
        await trio.sleep(0.1)
        await hosts.wait_up()
        assert (hosts.back.session, hosts.front.session) == (2, 2)
        assert hosts.ntb.link_epoch == 2
        states = (device.queues[0].ring.state(), hosts.back.device.queues[0].ring.state())  # type: ignore[union-attr]
        assert [(s.avail, s.used, s.in_flight) for s in states] == [(0, 0, 0)] * 2
        with pytest.raises(MemoryFault):
            old.view(hosts.front.dma.base, 1)


async def test_a_storm_of_flaps_ends_well() -> None:
    async with open_hosts() as hosts:
        hosts.start()
        dice = random.Random(7)
        for _ in range(200):
            link = dice.choice(hosts.links)
            dice.choice((link.bring_down, link.bring_up))()
            await trio.sleep(dice.random() / 50)
        for link in hosts.links:
            link.bring_up()
        await hosts.wait_up(5)
        assert hosts.back.session == hosts.front.session


# Ends that die


def kill(end: NtbEnd, monkeypatch: pytest.MonkeyPatch) -> None:
    """That host does nothing any more; its link stays up."""

    async def look() -> None:
        pass

    monkeypatch.setattr(end, "_beat", lambda: None)
    monkeypatch.setattr(end, "_recheck", lambda: None)
    monkeypatch.setattr(end, "handle_scratchpads", look)
    monkeypatch.setattr(end, "db_event", lambda: None)
    monkeypatch.setattr(end, "link_event", lambda: None)


@pytest.mark.hostile("T01")
async def test_the_death_of_the_virtio_side_is_seen_within_200_ms(monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_hosts() as hosts:
        hosts.start()
        await hosts.wait_up()
        await trio.sleep(random.Random(3).random())
        with monkeypatch.context() as dead:
            kill(hosts.front, dead)
            began = trio.current_time()
            with trio.fail_after(0.2):
                while hosts.back.session == 1:  # noqa: ASYNC110
                    await trio.sleep(0.001)
            assert trio.current_time() - began > BEAT
            assert hosts.ntb.link_is_up
            assert not any(queue.live for queue in hosts.back.device.queues)
            assert "no heartbeat" in hosts.back.device.failures[-1]
            await trio.sleep(5)
            assert len(hosts.back.device.failures) == 1
        await hosts.wait_up()  # it was only slow
        assert hosts.back.session == hosts.front.session == 2


@pytest.mark.hostile("T01")
async def test_the_death_of_the_vhost_side_is_seen_within_200_ms(monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_hosts() as hosts:
        hosts.start()
        await hosts.wait_up()
        front = hosts.front
        with monkeypatch.context() as dead:
            kill(hosts.back, dead)
            with trio.fail_after(0.2):
                while front.online:  # noqa: ASYNC110
                    await trio.sleep(0.001)
            await trio.sleep(0.01)
            assert hosts.device is not None
            assert not any(queue.live for queue in hosts.device.queues)
            assert list(hosts.device.failures)[-2:] == [
                "session 1: no heartbeat from the other host",
                "the device can't be reached",
            ]
            assert front.dma.used == 0
            with pytest.raises(MemoryFault):  # what is freed is out of its reach
                hosts.back.memory().view(front.dma.base, 1)
            await trio.sleep(5)
            assert not front.online
        await hosts.wait_up()
        assert hosts.back.session == front.session == 2


@pytest.mark.hostile("T01")
async def test_a_vhost_side_that_starts_anew_is_noticed_although_it_beats() -> None:
    async with open_hosts() as hosts:
        hosts.start()
        await hosts.wait_up()
        hosts.back.end()
        hosts.back._last_session = 0
        await trio.sleep(0.2)
        await hosts.wait_up()
        assert hosts.back.session == hosts.front.session == 2


async def test_both_ends_beat_for_as_long_as_they_live() -> None:
    async with open_hosts() as hosts:
        hosts.start()
        await hosts.wait_up()
        await trio.sleep(100)
        assert (hosts.back.session, hosts.front.session) == (1, 1)
        assert not hosts.back.device.failures


# Doorbells that get lost


@pytest.mark.hostile("T04")
@pytest.mark.parametrize("end", [0, 1])
async def test_no_loss_of_doorbells_stops_a_queue_or_a_command(end: int, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_hosts() as hosts:
        hosts.start()
        await hosts.wait_up()
        monkeypatch.setattr((hosts.back, hosts.front)[end].ntb, "peer_db_set", lambda bits: None)
        began = trio.current_time()
        await hosts.front.write_config(0, b"lost")
        assert trio.current_time() - began <= 0.1
        hosts.back.device.set_config(bytes(30))
        await trio.sleep(0.1)
        assert hosts.virtio.changes >= 1


# Garbage


@pytest.mark.hostile("T05")
@pytest.mark.parametrize(
    ("words", "why"),
    [
        ({Spad.VERSION: 2}, "has version 2"),
        ({Spad.MAGIC: 0xFFFF_FFFF}, "version"),
        ({Spad.MW0_SIZE_LO: 8 * MIB}, "wants a window of 8388608 bytes; this side has 4194304"),
        ({Spad.MW0_SIZE_HI: 1}, "wants a window"),
        ({Spad.MW0_SIZE_LO: BUFFER_OFFSET}, "no room behind 131072 bytes of rings"),
        ({Spad.MW0_SIZE_LO: 0}, "no room"),
        ({Spad.NUM_BUFFERS: 32768}, "no room"),
        ({Spad.NUM_QUEUES: 9}, "9 queues"),
        ({Spad.NUM_BUFFERS + 3: 7}, "7 buffers for queue 3"),
        ({Spad.DEVICE_ID: 0}, "no device id"),
        ({Spad.VHOST_ALIGN: 3}, "aligned to 3"),
        ({Spad.CONFIG_BYTES: 1 << 20}, "bytes of configuration"),
    ],
)
async def test_a_vhost_side_that_makes_no_sense_is_refused_with_a_reason_until_it_does(
    words: dict[int, int], why: str
) -> None:
    async with open_hosts() as hosts:
        vhost = await puppet(hosts)
        vhost.show(words)
        await trio.sleep(1)
        assert hosts.device is None
        assert why in hosts.front_binding.error
        assert not hosts.peek()[Spad.VIRTIO_SESSION]
        vhost.show()
        front = await online(hosts)
        assert front.session == OFFER.session
        assert not hosts.front_binding.error


@pytest.mark.hostile("T05")
@pytest.mark.parametrize(
    ("words", "why"),
    [
        ({Spad.VIRTIO_VERSION: 7}, "has version 7"),
        ({Spad.VIRTIO_ALIGN: 1}, "aligns rings to 1"),
        ({Spad.VIRTIO_ALIGN: 0xFFFF_FFFF}, "aligns rings to"),
        ({Spad.MW0_ADDR_LO: 1}, "has its window at"),
        ({Spad.MW0_ADDR_HI: 0xFFFF_FFFF, Spad.MW0_ADDR_LO: 0xFFFF_F000}, "has its window at"),
        ({Spad.BUFFER_OFFSET: 0}, "buffers"),
        ({Spad.BUFFER_OFFSET: 4 * MIB}, "buffers"),
        ({}, "can't be accessed"),  # no translation was set
    ],
)
async def test_a_virtio_side_that_makes_no_sense_is_refused_with_a_reason(words: dict[int, int], why: str) -> None:
    async with open_hosts() as hosts:
        hosts.start_device()
        hosts.start_back()
        hosts.start_link(0)
        hosts.start_link(1)
        raw = await hosts.raw(1)
        raw.link_enable()
        await trio.sleep(0.1)
        good = Answer(hosts.back.session, Addr(0x4000_0000), 4096, BUFFER_OFFSET).emit()
        for spad, value in {Spad.TYPE: NtbSide.VIRTIO, **good, **words}.items():
            raw.peer_spad_write(spad, value)
        raw.peer_db_set(DB_CONTROL)
        await trio.sleep(1)
        assert not hosts.back.peer_joined
        assert not hosts.peek()[Spad.READY]
        assert [why in failure for failure in hosts.back.device.failures] == [True]  # said once


@pytest.mark.hostile("T05")
@pytest.mark.parametrize("seed", range(20))
async def test_garbage_in_the_scratchpads_and_random_doorbells_break_nothing_for_good(seed: int) -> None:
    dice = random.Random(seed)
    async with open_hosts() as hosts:
        hosts.start()
        await hosts.wait_up()
        for _ in range(200):
            bank = dice.choice((hosts.ntb.primary.spads, hosts.ntb.secondary.spads))
            bank[dice.randrange(128)] = dice.choice((0, 1, 2, 0xFFFF_FFFF, dice.getrandbits(32)))
            end = dice.choice((hosts.ntb.primary, hosts.ntb.secondary))
            bell = dice.randrange(32)
            end.ring(bell, bell + 1)
            if dice.random() < 0.3:
                await trio.sleep(dice.random() / 20)
        hosts.back.end()  # as after any crash
        await trio.sleep(0.5)
        await hosts.wait_up(5)


@pytest.mark.hostile("T05")
async def test_an_ntb_with_too_few_scratchpads_is_refused() -> None:
    async with open_hosts(spads=64) as hosts:
        hosts.start()
        await trio.sleep(0.5)
        for host in (hosts.host1, hosts.host2):
            binding = host.ntb.bindings[0]
            assert binding.state is BindState.FAILED
            assert "64 scratchpads, 122 needed" in binding.error


@pytest.mark.hostile("T05")
async def test_a_window_that_the_hosts_memory_can_not_hold_is_refused() -> None:
    async with open_hosts(window=32 * MIB, memory=16 * MIB) as hosts:
        hosts.start()
        await trio.sleep(0.5)
        assert hosts.device is None
        assert "no window of 33554432 bytes: no room" in hosts.front_binding.error


@pytest.mark.hostile("T05")
@pytest.mark.parametrize("count", [0, 9])
async def test_a_device_that_an_ntb_can_not_carry_is_refused(count: int) -> None:
    async with open_hosts() as hosts:
        hosts.vhost = PlainVhost(nums=(64,) * count)
        hosts.start()
        await trio.sleep(0.5)
        assert hosts.device is None
        assert hosts.back.device.failures[0] == f"a device of {count} queues; an NTB supports 1 to 8"
        assert len(hosts.back.device.failures) == 1


# A virtio side that lies


class Liar:
    """The virtio side as a test moves it, at a real vhost side: commands and rings by hand."""

    def __init__(self, hosts: ThreeHosts, ntb: NtbEpf) -> None:
        self.hosts = hosts
        self.ntb = ntb
        self.sequence = 0
        self.base = hosts.host2.memory.alloc(4 * MIB, 4096).addr
        ntb.link_enable()

    async def connect(self) -> None:
        await trio.sleep(0.1)
        session = self.hosts.back.session
        self.ntb.mw_set_trans(0, self.base, 4 * MIB)
        for spad, value in Answer(session, self.base, 4096, BUFFER_OFFSET).emit().items():
            self.ntb.peer_spad_write(spad, value)
        self.ntb.peer_spad_write(Spad.TYPE, NtbSide.VIRTIO)
        self.ntb.peer_db_set(DB_CONTROL)
        self.hosts.nursery.start_soon(self._beat)
        await wait_all_tasks_blocked()
        assert self.hosts.back.peer_joined

    async def _beat(self) -> None:
        at = 0
        while True:
            at += 1
            self.ntb.peer_spad_write(Spad.BEAT, at)
            await trio.sleep(BEAT)

    async def command(self, code: int, argument: int = 0) -> int:
        self.sequence += 1
        self.ntb.peer_spad_write(Spad.ARGUMENT, argument)
        self.ntb.peer_spad_write(Spad.COMMAND, emit_command(self.sequence, code))
        self.ntb.peer_db_set(DB_CONTROL)
        await wait_all_tasks_blocked()
        sequence, outcome = parse_command(self.ntb.peer_spad_read(Spad.COMMAND_STATUS))
        return outcome if sequence == self.sequence else NtbOutcome.NONE

    async def accept(self, features: int = mask((RingFeature.VERSION_1,))) -> None:
        await self.command(NtbCommand.SET_STATUS, 1)
        await self.command(NtbCommand.SET_STATUS, 3)
        for at, spad in enumerate((Spad.VIRTIO_FEATURES_LO, Spad.VIRTIO_FEATURES_HI)):
            self.ntb.peer_spad_write(spad, features >> 32 * at & 0xFFFF_FFFF)
        await self.command(NtbCommand.FINALIZE_FEATURES)
        await self.command(NtbCommand.SET_STATUS, 11)


async def waiting_liar(hosts: ThreeHosts) -> Liar:
    """The vhost side has published a session, and waits for an answer."""
    hosts.start_device()
    hosts.start_back()
    hosts.start_link(0)
    hosts.start_link(1)
    made = Liar(hosts, await hosts.raw(1))
    await trio.sleep(0.1)
    return made


async def liar(hosts: ThreeHosts) -> Liar:
    made = await waiting_liar(hosts)
    await made.connect()
    return made


async def test_a_virtio_side_that_answered_and_left_before_anybody_looked_gets_another_session() -> None:
    """It takes none twice: waiting for its answer to this one would be for ever."""
    async with open_hosts() as hosts:
        driver = await waiting_liar(hosts)
        session = hosts.back.session
        assert session
        driver.ntb.peer_spad_write(Spad.VIRTIO_SESSION, 0)
        driver.ntb.peer_spad_write(Spad.TYPE, NtbSide.VIRTIO)
        driver.ntb.peer_db_set(DB_CONTROL)
        await trio.sleep(10 * BEAT)
        assert hosts.back.session == session + 1, "once, and then it waits again"
        await driver.connect()


@pytest.mark.hostile("S04")
async def test_features_that_were_not_offered_keep_features_ok_away() -> None:
    async with open_hosts() as hosts:
        driver = await liar(hosts)
        await driver.accept(mask((RingFeature.VERSION_1, RingFeature.RING_PACKED)))
        assert hosts.peek()[Spad.STATUS] == 3


@pytest.mark.hostile("S01")
async def test_kicks_before_driver_ok_and_of_queues_that_are_none_are_ignored() -> None:
    async with open_hosts() as hosts:
        driver = await liar(hosts)
        driver.ntb.peer_db_set(0xFFFF_FFFF)
        await driver.accept()
        driver.ntb.peer_db_set(0xFFFF_FFFF)
        await trio.sleep(0.1)
        assert [queue.kicks for queue in hosts.back.device.queues] == [0] * 8
        assert hosts.vhost.runs == 0


@pytest.mark.hostile("R23")
@pytest.mark.parametrize("num", [3, 65, 128, 0xFFFF_FFFF, 65536])
async def test_a_ring_of_a_size_that_can_not_be_is_refused(num: int) -> None:
    async with open_hosts() as hosts:
        driver = await liar(hosts)
        await driver.accept()
        driver.ntb.peer_spad_write(Spad.QUEUE_NUM, num)
        assert await driver.command(NtbCommand.ENABLE_QUEUES) == NtbOutcome.ERROR
        assert hosts.back.device.queues[0].num == 64
        assert not hosts.back.device.queues[0].enabled


@pytest.mark.hostile("S05")
async def test_queues_are_not_enabled_before_features_ok_or_after_driver_ok() -> None:
    async with open_hosts() as hosts:
        driver = await liar(hosts)
        driver.ntb.peer_spad_write(Spad.QUEUE_NUM, 64)
        assert await driver.command(NtbCommand.ENABLE_QUEUES) == NtbOutcome.ERROR
        await driver.accept()
        assert await driver.command(NtbCommand.SET_STATUS, 15) == NtbOutcome.OK
        assert await driver.command(NtbCommand.ENABLE_QUEUES) == NtbOutcome.ERROR


@pytest.mark.hostile("S08")
@pytest.mark.parametrize("where", [30 | 1 << 16, 29 | 2 << 16, 5 << 16, 0, 0xFFFF | 1 << 16, 0xFFFF_FFFF])
async def test_a_write_beyond_the_configuration_is_refused(where: int) -> None:
    async with open_hosts() as hosts:
        driver = await liar(hosts)
        assert await driver.command(NtbCommand.WRITE_CONFIG, where) == NtbOutcome.ERROR
        assert hosts.vhost.written == []


@pytest.mark.hostile("S09")
async def test_100_resets_in_a_row_each_end() -> None:
    async with open_hosts() as hosts:
        driver = await liar(hosts)
        driver.ntb.peer_spad_write(Spad.QUEUE_NUM, 64)
        for at in range(100):
            await driver.accept()
            assert await driver.command(NtbCommand.ENABLE_QUEUES) == NtbOutcome.OK
            await driver.command(NtbCommand.SET_STATUS, 15)
            assert hosts.vhost.runs == at + 1
            assert await driver.command(NtbCommand.SET_STATUS, 0) == NtbOutcome.OK
            assert hosts.peek()[Spad.STATUS] == 0


async def test_a_translation_that_is_taken_away_stops_the_device_and_a_session_later_it_runs_again() -> None:
    async with open_hosts() as hosts:
        hosts.start()
        await hosts.wait_up()
        memory = hosts.back.memory()
        hosts.front.ntb.mw_clear_trans(0)
        assert not hosts.back.device.queues[0].reachable()
        with pytest.raises(MemoryFault, match="the BAR memory was unmapped"):
            memory.view(hosts.front.dma.base, 1)
        hosts.front.end()
        await trio.sleep(0.2)
        await hosts.wait_up()
        assert hosts.back.session == 2


async def test_both_halves_are_what_their_buses_expect() -> None:
    async with open_hosts() as hosts:
        hosts.start()
        await hosts.wait_up()
        ops: ConfigOps = hosts.front
        back: VhostBack = hosts.back
        dma: DmaMemory = ops.dma
        assert (ops.online, back.device, dma.view) == (True, hosts.back.device, hosts.host2.memory.view)
        assert TRANSPORTS["ntb"].back is NtbVhost
