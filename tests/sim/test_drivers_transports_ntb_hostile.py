"""Garbage in the scratchpads of an NTB, and a virtio side that lies."""

from __future__ import annotations

import random

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from drivers.bus.back import VhostBack
from drivers.bus.binding import BindState
from drivers.bus.virtio import ConfigOps
from drivers.carriers.ntb import NtbEpf
from drivers.contracts.hw import DmaMemory
from drivers.transports.ntb import NTB
from drivers.transports.ntb.back import NtbVhost
from drivers.transports.ntb.end import BEAT
from drivers.transports.ntb.registers import (
    BUFFER_OFFSET,
    DB_CONTROL,
    Answer,
    NtbCommand,
    NtbOutcome,
    NtbSide,
    Spad,
    emit_command,
    parse_command,
)
from rings.errors import MemoryFault
from rings.features import RingFeature, mask
from rings.memory import Addr
from support.rigs.ntb import MIB, PlainVhost, ThreeHosts, open_hosts
from support.rigs.ntb_sessions import OFFER, online, puppet

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


async def test_a_virtio_side_that_answered_and_left_unnoticed_gets_another_session() -> None:
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
        assert NTB.back is NtbVhost
