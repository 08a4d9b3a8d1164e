"""A network device over an NTB: traffic, flaps under load, lost doorbells, and a window that others write into."""

from __future__ import annotations

import random

import pytest
import trio

from drivers.carriers.ntb_registers import Bar
from drivers.transports.ntb.back import NtbVhost
from drivers.transports.ntb.end import BEAT, BEATS_MISSED
from drivers.transports.ntb.front import NtbVirtio
from drivers.transports.ntb.registers import Spad
from rings.memory import Addr
from support.paths import TOPOLOGIES
from vnet.cli.tree import tree
from vnet.errors import UnsupportedRequest
from vnet.ports.packet.memory import MemoryPort
from vnet.system.snapshot import take_snapshot
from vnet.system.world import open_world
from vnet.testing import until
from vnet.testing.net import FRAME, NetPair, Options, open_pair
from vnet.topology import parse

EXAMPLE = TOPOLOGIES / "ntb.toml"
LINKS = "link0", "link1"
OVER_NTB = Options(transport="ntb")


def ends(pair: NetPair) -> tuple[NtbVhost, NtbVirtio]:
    back, front = pair.device.back, pair.virtio.ops
    assert isinstance(back, NtbVhost)
    assert isinstance(front, NtbVirtio)
    return back, front


def numbers(port: MemoryPort) -> list[int]:
    """Counters of the frames that came out of ``port`` so far."""
    actual = []
    while True:
        try:
            actual.append(int.from_bytes(port.receive_nowait()[1][-4:], "big"))
        except trio.WouldBlock:
            return actual


async def test_a_megabyte_crosses_in_each_direction_and_no_doorbell_is_missed() -> None:
    async with open_pair(OVER_NTB) as pair:
        await pair.transfer()
        back, front = ends(pair)
        assert back.rescues == front.rescues == 0
        assert all(queue.signal.rescues == 0 for queue in pair.virtio.queues)
        assert all(queue.signal.rescues == 0 for queue in pair.vhost.queues)


async def test_every_buffer_that_a_driver_posts_lies_in_the_window() -> None:
    async with open_pair(OVER_NTB) as pair:
        await pair.transfer(100_000)
        back, front = ends(pair)
        low, high = front.dma.base, front.dma.base + back.ntb.mw_get_align(0).size_max
        for queue in pair.vhost.queues:
            descs = pair.rc.memory.view(Addr(queue.addrs.desc), 16 * queue.num).cast("Q")
            for at in range(queue.num):
                addr, size = descs[2 * at], descs[2 * at + 1] & 0xFFFF_FFFF
                assert not addr or low + 0x20000 <= addr < addr + size <= high
        used = front.dma.used
        await pair.reset()
        assert front.dma.used == used


@pytest.mark.hostile("T02")
@pytest.mark.parametrize("link", LINKS)
async def test_a_flap_under_load_loses_frames_and_brings_none_back(link: str) -> None:
    async with open_pair(OVER_NTB) as pair:
        back, _ = ends(pair)
        at = 0
        seen: tuple[list[int], list[int]] = [], []
        ports = pair.driver_port, pair.device_port
        for flap in range(10):
            for _ in range(50):
                at += 1
                for port in ports:
                    port.inject(FRAME + at.to_bytes(4, "big"))
            await trio.sleep(0 if flap % 2 else 0.01)
            pair.world.links[link].bring_down()
            await trio.sleep(0.001 * (flap % 3))
            pair.world.links[link].bring_up()
            await trio.sleep(0.1)
            await pair.world.wait_up()
            assert back.session == flap + 2
            for port, actual in zip(ports, seen, strict=True):
                actual.extend(numbers(port))
        for actual in seen:
            assert actual == sorted(set(actual)), "a frame came twice, or after a later one"
            assert len(actual) >= 100
        await trio.sleep(0.1)
        await pair.transfer()


@pytest.mark.hostile("T01")
@pytest.mark.parametrize("end", [0, 1])
async def test_traffic_goes_on_once_an_end_that_stood_still_moves_again(
    end: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_pair(OVER_NTB) as pair:
        still = ends(pair)[end]
        with monkeypatch.context() as frozen:
            frozen.setattr(still, "_beat", lambda: None)
            frozen.setattr(still, "_recheck", lambda: None)
            frozen.setattr(still, "handle_scratchpads", trio.lowlevel.checkpoint)
            frozen.setattr(still, "db_event", lambda: None)
            await trio.sleep(BEAT * (BEATS_MISSED + 2))  # the last beat may have come just before, and a look be due
            assert not pair.device.up
        await pair.world.wait_up()
        await pair.transfer()


@pytest.mark.hostile("T04")
@pytest.mark.parametrize("end", [0, 1])
async def test_a_burst_all_of_whose_doorbells_are_lost_is_late_by_less_than_100_ms(
    end: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_pair(OVER_NTB) as pair:
        side = ends(pair)[end]
        await pair.transfer(10_000)
        rung: list[int] = []
        source, sink = (pair.device_port, pair.driver_port) if end == 0 else (pair.driver_port, pair.device_port)
        with monkeypatch.context() as lost:
            # Also for who took the method before: the driver's queues did.
            lost.setattr(side.ntb._function, "bar_write", lambda bar, *_: rung.append(bar))  # type: ignore[attr-defined]
            for _ in range(20):
                source.inject(FRAME)
            began = trio.current_time()
            with trio.fail_after(0.1):
                for _ in range(20):
                    await sink.receive()
            assert trio.current_time() - began > 0
        assert Bar.DOORBELLS in rung
        other = ends(pair)[1 - end]
        assert other.rescues >= 1
        await pair.transfer()


async def test_a_fault_of_a_re_check_is_one_of_its_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_pair(OVER_NTB) as pair:
        queue = pair.vhost.queues[1]
        tried: list[float] = []

        def rearm() -> bool:
            tried.append(trio.current_time())
            raise UnsupportedRequest(0x1000, 2, write=False, reason="nothing there")

        monkeypatch.setattr(queue, "rearm", rearm)
        await until(lambda: bool(tried), 5)
        monkeypatch.undo()
        await pair.world.wait_up()
        await pair.transfer()


@pytest.mark.hostile("T03")
@pytest.mark.parametrize("index", [1000, 0xFFFF])
async def test_indices_that_can_not_be_break_the_queue_until_it_is_reset(index: int) -> None:
    async with open_pair(OVER_NTB) as pair:
        back, _ = ends(pair)
        queue = pair.vhost.queues[0]
        # The vhost side writes the used index, through its window.
        back.memory().view(Addr(queue.addrs.device + 2), 2, True)[:] = index.to_bytes(2, "little")
        back.call(queue)
        await trio.sleep(0.05)
        assert "used index" in pair.virtio.failures[0]
        await pair.world.wait_up()
        # The virtio side writes the available index, in its memory.
        queue = pair.vhost.queues[1]
        pair.rc.memory.view(Addr(queue.addrs.driver + 2), 2, True)[:] = index.to_bytes(2, "little")
        pair.virtio.queues[1].kick()
        await trio.sleep(0.05)
        assert "available index" in pair.vhost.failures[-1]
        await pair.world.wait_up()
        await pair.transfer()


@pytest.mark.hostile("T06")
@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("writer", ["vhost", "virtio"])
async def test_garbage_anywhere_in_the_window_does_no_lasting_harm(seed: int, writer: str) -> None:
    dice = random.Random(seed)
    async with open_pair(OVER_NTB) as pair:
        back, front = ends(pair)
        for _ in range(60):
            if pair.device.up and back.peer_joined:
                memory = back.memory() if writer == "vhost" else pair.rc.memory
                # Mostly rings, which matter more than buffers do.
                span = 0x3000 if dice.random() < 0.7 else 0x80_0000
                at, data = dice.randrange(span), dice.randbytes(dice.choice((1, 2, 4, 16, 64)))
                memory.view(Addr(front.dma.base + at), len(data), True)[:] = data
            for port in (pair.driver_port, pair.device_port):
                for _ in range(dice.randrange(5)):
                    port.inject(FRAME)
            await trio.sleep(dice.random() / 100)
        await pair.reset()
        await trio.sleep(1.5)  # the longest pause between two bring-ups
        await pair.world.wait_up()
        await pair.transfer()


async def test_the_example_comes_up_and_shows_scratchpads_doorbells_and_windows_by_name() -> None:
    text = EXAMPLE.read_text(encoding="utf-8").replace('"tun"', '"memory"')
    async with open_world(parse(text), "test") as world:
        await world.wait_up()
        world.memory_port("net0", "driver").inject(FRAME)
        assert (await world.memory_port("net0", "device").receive())[1] == FRAME
        shown = "\n".join(tree(take_snapshot(world)))
        for words in (
            "NTB ntb0 on soc: the link between the hosts is up, epoch 1",
            "config at register 0, doorbells at register 2, windows at register 4",
            "MW1: 64 MiB at 0x0 of its BAR, shares memory from 0x40000000 on",
            "30 doorbells configured",
            "num_buffers(1) 0x100",
            "spad.vhost_align 0x40",
            "rang the other host's doorbells: notify[1] 1, notify[2] 2, notify[control] ",
            "net over ntb on ntb0",
        ):
            assert words in shown


async def test_a_device_that_stays_down_says_why() -> None:
    async with open_pair(OVER_NTB) as pair:
        back, _ = ends(pair)
        pair.world.links["link0"].bring_down()
        await trio.sleep(0.01)
        assert not pair.device.up
        assert "the device can't be reached" in pair.device.trouble()
        assert back.ntb.spad_read(Spad.READY) == 0
