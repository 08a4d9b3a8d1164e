"""Receive-side scaling: a device that steers frames by their hash, and a driver that asks for it."""

from __future__ import annotations

import struct
from collections.abc import Callable
from contextlib import suppress
from typing import Literal

import attrs
import pytest
import trio
import trio.testing

from drivers.bus.binding import BindState
from drivers.devices.net import layout
from drivers.devices.net.device.control import VhostNetControlFlow
from drivers.devices.net.device.steering import WAITING
from drivers.devices.net.driver.station import NetRequest
from drivers.devices.net.hashing import HASH_TYPES, HashType, toeplitz
from drivers.devices.net.layout import NetConfigField, NetFeature
from drivers.devices.net.steering import KEY, HashConfig, RssConfig
from drivers.errors import CommandRefused
from drivers.transports.pci.registers import CfgType, Common
from rings.chain import Chain
from rings.features import RingFeature, mask
from support.rigs.net_control import ERR, FRAMES, OK
from support.rigs.net_steering import (
    AGREED,
    EXAMPLES,
    OTHER_FRAME,
    PAIRS,
    SEVERAL,
    command,
    offer,
    pairs_of,
    rss,
    start,
    tcp_frame,
)
from vnet.testing import HostileDriver, NetPair, hostile_driver, open_pair, over, tapped, unharmed, until

F = NetFeature
FLOWS = [tcp_frame(flow) for flow, _ in EXAMPLES]
TABLE = (2, 0, 0, 2, 0, 0, 1, 1)
WANTED = [TABLE[value % len(TABLE)] for _, value in EXAMPLES]
"""The pairs of these flows by that table."""


# The device


@pytest.mark.every_transport
@pytest.mark.virtio("NET-DEV-107")
async def test_a_frame_belongs_to_the_queue_that_its_hash_selects() -> None:
    async with open_pair(SEVERAL) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await start(driver)
        limits = [driver.config(*field.value) for field in list(NetConfigField)[-3:]]
        assert limits == [40, 128, HASH_TYPES]
        offer(driver, *range(PAIRS), count=16)
        assert {*WANTED} == {*range(PAIRS)}
        for table, unclassified in ((TABLE, 1), (TABLE[:1], 0), ((1, 0) * 64, 2)):
            assert await command(driver, 1, rss(table, unclassified).emit()) == OK
            wanted = [table[value % len(table)] for _, value in EXAMPLES]
            assert await pairs_of(driver, *FLOWS) == wanted
            assert await pairs_of(driver, OTHER_FRAME, FRAMES["broadcast"]) == [unclassified] * 2


@pytest.mark.virtio("NET-DEV-99")
async def test_the_last_command_decides_how_frames_are_steered() -> None:
    async with open_pair(SEVERAL) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await start(driver)
        offer(driver, *range(PAIRS), count=30)
        assert await pairs_of(driver, *FLOWS, OTHER_FRAME) == [0] * (len(FLOWS) + 1), "to begin with, one pair"
        assert await command(driver, 0, b"\3\0") == OK
        automatic = await pairs_of(driver, *FLOWS)
        assert await command(driver, 1, rss(TABLE).emit()) == OK
        assert await pairs_of(driver, *FLOWS) == WANTED != automatic
        assert await command(driver, 0, b"\3\0") == OK
        assert await pairs_of(driver, *FLOWS) == automatic
        assert await command(driver, 1, rss(TABLE).emit()) == OK
        assert await command(driver, 0, b"\1\0") == OK
        assert await pairs_of(driver, *FLOWS) == [0] * len(FLOWS)


REFUSED = {
    "a pair that the device does not have": rss((0, PAIRS)).emit(),
    "unclassified frames for such a pair": rss((0, 1), PAIRS).emit(),
    "transmit queues that it does not have": rss((0, 1), 0, PAIRS + 1).emit(),
    "the last queue of all": rss((0, 0x7FFF)).emit(),
    "no transmit queue": rss((0, 1), 0, 0).emit(),
    "a type that the device does not hash": rss((0, 1), types=1 << 9).emit(),
    "a table that is no power of two": struct.pack("<IHH3HHB", 2, 2, 0, 0, 1, 2, 3, 40) + KEY,
    "a table longer than the longest": rss((0, 1) * 128).emit(),
    "a table beyond its command": struct.pack("<IHH", 2, 0xFFFF, 0) + bytes(8),
    "a key longer than the longest": attrs.evolve(rss((0, 1)), hash=HashConfig(2, bytes(41))).emit(),
    "a key beyond its command": rss((0, 1)).emit()[:-1],
    "bytes behind the key": rss((0, 1)).emit() + b"\0",
    "nothing": b"",
}


@pytest.mark.hostile("N07")
async def test_parameters_that_can_not_be_are_refused_and_change_nothing() -> None:
    async with open_pair(SEVERAL) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await start(driver)
        offer(driver, *range(PAIRS), count=16)
        assert await command(driver, 1, rss(TABLE).emit()) == OK
        for name, data in REFUSED.items():
            assert await command(driver, 1, data) == ERR, name
        assert await pairs_of(driver, *FLOWS) == WANTED
        await start(driver, queues=4)
        assert await command(driver, 1, rss((0, 1), transmit=2).emit()) == OK
        for config in (rss((0, 2), transmit=2), rss((0, 1), 2, 2), rss((0, 1), 0, 3)):
            assert await command(driver, 1, config.emit()) == ERR, "the third pair is not enabled"
        await start(driver, AGREED & ~mask({F.RSS}))
        assert await command(driver, 1, rss(TABLE).emit()) == ERR, "not negotiated"


@pytest.mark.virtio("NET-DEV-108")
async def test_frames_for_a_queue_that_is_reset_are_dropped() -> None:
    async with open_pair(SEVERAL) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await start(driver, AGREED | 1 << RingFeature.RING_RESET)
        offer(driver, *range(PAIRS))
        assert await command(driver, 1, rss(TABLE).emit()) == OK
        reset(driver, WANTED[0])
        wanted: list[int | None] = [None if pair == WANTED[0] else pair for pair in WANTED]
        assert await pairs_of(driver, *FLOWS) == wanted
        assert pair.plug.figures.pairs[WANTED[0]].sent.drops == {"queue_reset": wanted.count(None)}
        driver.rings[2 * WANTED[0]] = driver.set_up(2 * WANTED[0])
        offer(driver, WANTED[0])
        await trio.testing.wait_all_tasks_blocked()
        assert driver.rings[2 * WANTED[0]].used_idx == 0, "they are gone"
        assert await pairs_of(driver, *FLOWS) == WANTED


def reset(driver: HostileDriver[NetPair], pair: int) -> None:
    driver.write(Common.QUEUE_SELECT, 2 * pair)
    driver.write(Common.QUEUE_RESET, 1)


@pytest.mark.virtio("NET-DEV-104")
async def test_with_automatic_steering_another_queue_gets_the_frames_of_one_that_is_reset() -> None:
    async with open_pair(SEVERAL) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await start(driver, AGREED | 1 << RingFeature.RING_RESET)
        offer(driver, *range(PAIRS), count=30)
        assert await command(driver, 0, b"\3\0") == OK
        before = await pairs_of(driver, *FLOWS)
        assert before[0] is not None
        reset(driver, before[0])
        after = await pairs_of(driver, *FLOWS)
        assert not {None, before[0]} & {*after}


@pytest.mark.virtio("NET-DEV-105")
async def test_with_automatic_steering_frames_are_dropped_while_all_queues_are_reset() -> None:
    async with open_pair(SEVERAL) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await start(driver, AGREED | 1 << RingFeature.RING_RESET)
        offer(driver, *range(PAIRS), count=30)
        assert await command(driver, 0, b"\3\0") == OK
        for each in range(PAIRS):
            reset(driver, each)
        assert await pairs_of(driver, *FLOWS) == [None] * len(FLOWS)
        assert sum(figures.sent.drops["queue_reset"] for figures in pair.plug.figures.pairs) == len(FLOWS)
        for each in range(PAIRS):
            driver.rings[2 * each] = driver.set_up(2 * each)
        offer(driver, *range(PAIRS), count=30)
        await trio.testing.wait_all_tasks_blocked()
        assert not any(driver.rings[2 * each].used_idx for each in range(PAIRS)), "they are gone"


@pytest.mark.hostile("N07")
async def test_a_receive_queue_without_buffers_holds_up_no_other() -> None:
    async with open_pair(attrs.evolve(SEVERAL, capacity=2 * WAITING)) as pair, hostile_driver(pair) as driver:
        await start(driver)
        slow, other = WANTED[0], next(pair for pair in WANTED if pair != WANTED[0])
        offer(driver, other)
        assert await command(driver, 1, rss(TABLE).emit()) == OK
        for _ in range(WAITING + 5):
            assert pair.device_port.inject(FLOWS[0])
        assert await pairs_of(driver, FLOWS[WANTED.index(other)]) == [other]
        assert pair.plug.figures.pairs[slow].sent.drops == {"overrun": 5}
        offer(driver, slow, count=16)
        await trio.testing.wait_all_tasks_blocked()
        assert driver.rings[2 * slow].used_idx == 16
        assert await command(driver, 0, b"\1\0") == OK
        assert pair.plug.figures.pairs[slow].sent.drops["stopped"] == (WAITING - 16 if slow else 0)


async def test_a_reset_ends_receive_side_scaling() -> None:
    async with open_pair(SEVERAL) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await start(driver)
        assert await command(driver, 1, rss(TABLE).emit()) == OK
        await start(driver)
        assert pair.plug.bound is not None
        assert pair.plug.bound.rss is None
        offer(driver, *range(PAIRS))
        assert await pairs_of(driver, *FLOWS) == [0] * len(FLOWS)


async def test_without_a_request_the_bit_is_not_offered() -> None:
    async with open_pair(attrs.evolve(SEVERAL, features_on=())) as pair:
        assert not pair.vhost.device_features >> F.RSS & 1
        assert len(pair.vhost.config) == 17
        with pytest.raises(CommandRefused, match="RSS was not negotiated"):
            await pair.settings.change(NetRequest(table=(0, 1)))


# Our driver


def steering(pair: NetPair) -> RssConfig | None:
    """The parameters, on which both sides agree."""
    assert pair.settings.bound is not None
    assert pair.settings.bound.station is not None
    assert pair.plug.bound is not None
    assert pair.settings.bound.station.rss == pair.plug.bound.rss
    return pair.plug.bound.rss


async def received_by(pair: NetPair) -> list[int]:
    """Let each flow arrive once; return the frames that each pair of the driver gets."""
    before = [figures.received.packets for figures in pair.settings.figures.pairs]
    for frame in FLOWS:
        assert pair.device_port.inject(frame)
        await pair.driver_port.receive()
    await trio.testing.wait_all_tasks_blocked()
    return [now.received.packets - old for now, old in zip(pair.settings.figures.pairs, before, strict=True)]


@pytest.mark.virtio("NET-DRV-90", "NET-DRV-91")
@pytest.mark.parametrize("ring", ["split", "packed"])
async def test_the_driver_has_frames_steered_as_its_user_wants_also_after_a_reset(
    ring: Literal["split", "packed"],
) -> None:
    with over("pci", ring):
        async with open_pair(SEVERAL) as pair, unharmed(pair):
            assert steering(pair) is None
            await pair.settings.change(NetRequest(table=(1, 2), unclassified=2))
            config = steering(pair)
            assert config == RssConfig(HashConfig(HASH_TYPES, KEY), (1, 2) * 64, 2, PAIRS)
            odd = sum(value % 2 for _, value in EXAMPLES)
            assert await received_by(pair) == [0, len(FLOWS) - odd, odd]
            await pair.transfer(1 << 16)
            await pair.reset()
            await until(lambda: steering(pair) == config)
            assert await received_by(pair) == [0, len(FLOWS) - odd, odd]
            await pair.settings.change(NetRequest(table=(0, 1, 2), pairs=3, hash_types=0))
            config = steering(pair)
            assert config is not None
            assert (len(config.table), config.table[:4], config.hash.types) == (128, (0, 1, 2, 0), 0)
            assert await received_by(pair) == [len(FLOWS), 0, 0], "nothing is hashed"
            await pair.settings.change(NetRequest(table=(0,), pairs=2))
            with pytest.raises(CommandRefused, match="queue pair 3 is not in use: only 2 are"):
                await pair.settings.change(NetRequest(table=(0, 2), pairs=2))
            await pair.settings.change(NetRequest())
            assert steering(pair) is None
            await pair.transfer(1 << 16)


@pytest.mark.parametrize("transport", ["pci", "ntb", "epf_mailbox", "mmio", "vhost_user"])
async def test_a_device_without_automatic_steering_has_several_pairs_by_their_hash(transport: str) -> None:
    with over(transport):
        async with open_pair(attrs.evolve(SEVERAL, features_off=("MQ",))) as pair, unharmed(pair):
            key = bytes(range(40))
            await pair.settings.change(NetRequest(hash_types=1 << HashType.TCPV4, hash_key=key))
            config = steering(pair)
            assert config is not None
            assert config.pairs == PAIRS
            wanted = [config.table[toeplitz(key, flow) % 128] for flow, _ in EXAMPLES]
            assert await received_by(pair) == [wanted.count(i) for i in range(PAIRS)]
            await pair.settings.change(NetRequest(pairs=2))
            assert (await received_by(pair))[2] == 0
            await pair.settings.change(NetRequest())


@pytest.mark.virtio("NET-DRV-89", "NET-DRV-92", "NET-DRV-93")
@pytest.mark.parametrize(
    ("off", "types", "length", "why"),
    [
        ((), HASH_TYPES, 128, ""),
        ((), 1 << 31 | 1 << HashType.IPV4, 128, "the device does not hash tcpv4"),
        ((), HASH_TYPES, 129, ""),
        ((), HASH_TYPES, 0xFFFF, ""),
        (("RSS",), HASH_TYPES, 128, "RSS was not negotiated"),
    ],
)
async def test_the_driver_keeps_to_the_limits_of_the_device(
    off: tuple[str, ...], types: int, length: int, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[bytes] = []
    inner: Callable[..., int] = VhostNetControlFlow._answer_command

    def answer(flow: VhostNetControlFlow, chain: Chain) -> int:
        commands.append(b"".join(map(bytes, chain[1])))
        return inner(flow, chain)

    monkeypatch.setattr(VhostNetControlFlow, "_answer_command", answer)
    options = attrs.evolve(SEVERAL, features_off=off, features_on=() if off else ("RSS",))
    monkeypatch.setattr(layout, "TABLE_LENGTH", length)
    monkeypatch.setattr(layout, "HASH_TYPES", types)
    async with open_pair(options) as pair, unharmed(pair):
        commands.clear()
        wanted = 1 << HashType.TCPV4 | 1 << HashType.IPV4
        for hash_types in (wanted, None):
            request = NetRequest(table=(0, 1), hash_types=hash_types)
            if why and (off or hash_types):
                with pytest.raises(CommandRefused, match=why):
                    await pair.settings.change(request)
            else:
                with suppress(CommandRefused):
                    await pair.settings.change(request)
        sent = [RssConfig.parse(data[2:]) for data in commands if data[:2] == b"\4\1"]
        assert bool(sent) is not bool(off)
        for config in sent:
            assert config is not None
            assert not config.hash.types & ~types
            assert len(config.table) <= length
            assert max(config.table) < PAIRS


@pytest.mark.hostile("D07")
@pytest.mark.parametrize(
    ("at", "value", "why"),
    [
        (17, 39, "RSS keys of 39 bytes: must be at least 40"),
        (18, 127, "an indirection table of 127 entries: must be at least 128"),
    ],
)
async def test_limits_that_no_device_may_have_are_named(at: int, value: int, why: str) -> None:
    async with open_pair(SEVERAL) as pair, unharmed(pair), tapped(pair) as tap:
        config = tap.structures[CfgType.DEVICE]
        tap.lies[config.bar, config.offset + at] = lambda _: value
        pair.rc.pci.register_device(tap)
        await until(lambda: pair.device.virtio and pair.rc.virtio.binding(pair.virtio).state is BindState.FAILED)
        assert why in pair.rc.virtio.binding(pair.virtio).error
