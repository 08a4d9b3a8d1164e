"""Statistics that a device keeps: what a driver is told, and how ours asks."""

from __future__ import annotations

import struct
from collections.abc import Callable
from contextlib import suppress
from typing import Literal

import attrs
import pytest
import trio.testing

from drivers.devices.net.device.control import VhostNetControlFlow
from drivers.devices.net.device.device import BoundVhostNet
from drivers.devices.net.statistics import PART, QueueCounts, StatType
from drivers.errors import CommandRefused
from rings.chain import Chain
from rings.features import RingFeature, mask
from rings.layout import WRITE
from rings.testing import Desc
from support.rigs.net_control import ERR, FRAMES, OK, WITH, start
from vnet.testing import FRAME, OFFERED, HostileDriver, NetPair, Options, hostile_driver, open_pair, over, unharmed

FLAGS_ONLY = OFFERED & ~mask({RingFeature.EVENT_IDX})
"""Features of a driver that is called for each frame."""
RX, TX, CONTROL = range(3)
"""Indices of the queues."""
TYPES = {RX: 1 << 0, TX: 1 << 16, CONTROL: 1 << 32}
"""The types of each queue."""
BASIC, CVQ = struct.Struct("<BxHHH6Q"), struct.Struct("<BxHHH2Q")
ROOM = 4096


async def command(driver: HostileDriver[NetPair], data: bytes, room: int = ROOM) -> bytes:
    """Send a command; return the answer as the device wrote it."""
    answer, ring = driver.put(b"\xee" * room), driver.rings[CONTROL]
    driver.send(Desc(driver.put(data), len(data)), Desc(answer, room, WRITE), head=0, queue=CONTROL)
    await trio.testing.wait_all_tasks_blocked()
    size = ring.elem((ring.used_idx - 1) % ring.num)[1]
    assert driver.get(answer, room)[size:] == b"\xee" * (room - size), "nothing is written behind the answer"
    return driver.get(answer, size)


async def get(driver: HostileDriver[NetPair], *rows: tuple[int, int], room: int = ROOM) -> bytes:
    """The answer to a request for these queues and types."""
    return await command(driver, b"\x08\1" + b"".join(struct.pack("<H6xQ", *row) for row in rows), room)


async def count(driver: HostileDriver[NetPair], index: int, layout: struct.Struct = BASIC) -> tuple[int, ...]:
    """The one reply about a queue."""
    answer = await get(driver, (index, TYPES[index]))
    assert answer[:1] == OK
    values: tuple[int, ...] = layout.unpack(answer[1:])
    return values


@pytest.mark.every_transport
@pytest.mark.virtio("NET-DEV-122", "NET-DEV-124", "NET-DEV-125")
async def test_each_queue_has_counters_of_its_own_types() -> None:
    async with open_pair(WITH) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await start(driver, FLAGS_ONLY)
        assert await command(driver, b"\x08\0") == OK + sum(TYPES.values()).to_bytes(8, "little")
        before = [await count(driver, index) for index in (RX, TX)]
        for head in range(4):
            driver.send(Desc(driver.alloc(2048), 2048, WRITE), head=head, queue=RX)
            await trio.testing.wait_all_tasks_blocked()
        for name in ("own", "other", "broadcast", "own"):
            assert pair.device_port.inject(FRAMES[name])
            await trio.testing.wait_all_tasks_blocked()
        for head, data in enumerate((bytes(12) + FRAME, bytes(12) + FRAME, b"\0" * 20, bytes(12) + bytes(2000))):
            driver.send(Desc(driver.put(data), len(data)), head=head, queue=TX)
            await trio.testing.wait_all_tasks_blocked()
        received = sum(len(FRAMES[name]) for name in ("own", "broadcast", "own"))
        rx, tx = after = [await count(driver, index) for index in (RX, TX)]
        assert rx[:4] == (0, RX, 0, BASIC.size)
        assert tx[:4] == (16, TX, 0, BASIC.size)
        # Notifications, packets, bytes, interrupts, drops, and those for lack of buffers, or of malformed buffers.
        grown = [
            tuple(b - a for a, b in zip(old[4:], new[4:], strict=True)) for old, new in zip(before, after, strict=True)
        ]
        assert grown[RX] == (4, 3, received, 3, 1, 0)
        assert grown[TX] == (4, 2, 2 * len(FRAME), 4, 2, 1)


@pytest.mark.virtio("NET-DEV-125")
async def test_commands_are_counted_with_the_one_that_asks() -> None:
    async with open_pair(WITH) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await start(driver)
        first = await count(driver, CONTROL, CVQ)
        assert first[:4] == (32, CONTROL, 0, CVQ.size)
        assert await command(driver, b"\0\0\2") == ERR
        assert await command(driver, b"\0\0\1") == OK
        assert (await count(driver, CONTROL, CVQ))[4:] == (first[4] + 3, first[5] + 2)


BAD = {
    "queue beyond the last": ((3, TYPES[RX]),),
    "last index": ((0xFFFF, TYPES[RX]),),
    "unknown type": ((RX, 1 << 63),),
    "type that needs a look at frames": ((RX, 1 << 1),),
    "type of the other direction": ((RX, TYPES[TX]),),
    "type of a data queue": ((CONTROL, TYPES[TX]),),
    "type of the control queue": ((TX, TYPES[CONTROL]),),
    "one bad one behind good ones": ((RX, TYPES[RX]), (TX, TYPES[TX]), (RX, TYPES[RX] | 1 << 2)),
    "one bad one in front": ((3, TYPES[RX]), (RX, TYPES[RX])),
}


@pytest.mark.virtio("NET-DEV-123")
@pytest.mark.hostile("N07")
async def test_one_bad_request_fails_the_whole_command() -> None:
    async with open_pair(WITH) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await start(driver)
        for name, rows in BAD.items():
            assert await get(driver, *rows) == ERR, name
        assert await get(driver, (RX, 0)) == OK, "no type is wanted"
        assert await get(driver) == OK


@pytest.mark.virtio("NET-DEV-126")
async def test_the_result_ends_where_the_buffer_or_the_counters_end() -> None:
    async with open_pair(WITH) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await start(driver)
        rows = (RX, TYPES[RX]), (TX, TYPES[TX])
        whole = await get(driver, *rows)
        assert len(whole) == 1 + 2 * BASIC.size
        for room in (1, 2, 1 + BASIC.size, 1 + BASIC.size + 8, len(whole) - 1, len(whole), len(whole) + 1):
            assert await get(driver, *rows, room=room) == whole[:room]
        assert await command(driver, b"\x08\0", room=8) == ERR, "the types are one value"


@pytest.mark.virtio("NET-DEV-127")
async def test_a_counter_wraps_around() -> None:
    async with open_pair(WITH) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await start(driver)
        traffic = pair.plug.figures.pairs[0].sent
        before, traffic.bytes = traffic.bytes, (1 << 64) + 5
        assert (await count(driver, RX))[6] == 5
        traffic.bytes = before


# Our driver


def counted(pair: NetPair) -> dict[int, dict[str, int]]:
    return {index: dict(counts) for index, counts in pair.settings.device_counts.items()}


@pytest.mark.parametrize("ring", ["split", "packed"])
async def test_the_driver_gets_the_counters_of_all_queues_of_its_device(ring: Literal["split", "packed"]) -> None:
    with over("pci", ring):
        async with open_pair(attrs.evolve(WITH, pairs=PART, memory=128)) as pair:
            await pair.transfer(1 << 16)
            await pair.settings.ask_statistics()
            counts, control = counted(pair), 2 * PART
            assert list(counts) == list(range(control + 1)), "in several commands"
            sent = sum(counts[index]["rx_packets"] for index in range(0, control, 2))
            received = sum(counts[index]["tx_bytes"] for index in range(1, control, 2))
            assert sent == pair.device_port.statistics().rx_packets
            assert received == pair.device_port.statistics().tx_bytes
            figures = pair.plug.figures.control
            assert counts[control] == {"command_num": figures.commands, "ok_num": figures.commands}
            await pair.reset()
            await trio.testing.wait_all_tasks_blocked()
            assert counted(pair) == counts, "the last answer"


@pytest.mark.virtio("NET-DRV-102", "NET-DRV-103", "NET-DRV-104")
@pytest.mark.parametrize("types", [TYPES[RX], TYPES[TX] | TYPES[CONTROL], 0, (1 << 64) - 1])
async def test_the_driver_asks_only_for_types_of_the_device_and_of_the_queue_and_has_room_for_all(
    types: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device says that it has these types, some of which no driver knows."""
    requests: list[tuple[int, int]] = []
    rooms: list[tuple[int, int]] = []
    inner: Callable[..., int] = VhostNetControlFlow._answer_command

    def answer(flow: VhostNetControlFlow, chain: Chain) -> int:
        written = inner(flow, chain)
        data = b"".join(map(bytes, chain[1]))
        if data[:2] == b"\x08\0":
            chain[2][0][:9] = OK + types.to_bytes(8, "little")
        elif data[:2] == b"\x08\1":
            rows = list(struct.iter_unpack("<H6xQ", data[2:]))
            requests.extend(rows)
            headers = 8 * sum(each.bit_count() for _, each in rows)
            rooms.append((sum(map(len, chain[2])), 1 + headers))
        return written

    monkeypatch.setattr(VhostNetControlFlow, "_answer_command", answer)
    async with open_pair(attrs.evolve(WITH, pairs=2)) as pair, unharmed(pair):
        with suppress(CommandRefused):
            await pair.settings.ask_statistics()
        kinds = [TYPES[RX], TYPES[TX], TYPES[RX], TYPES[TX], TYPES[CONTROL]]
        assert requests == [(index, kind) for index, kind in enumerate(kinds) if kind & types]
        assert all(room >= needed for room, needed in rooms)
        assert list(counted(pair)) == [index for index, _ in requests]


@pytest.mark.parametrize(
    ("off", "why"), [((), "the device refused it"), (("DEVICE_STATS",), "DEVICE_STATS was not negotiated")]
)
async def test_the_driver_says_why_there_are_no_statistics(
    off: tuple[str, ...], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(device: BoundVhostNet, index: int) -> QueueCounts | None:
        return None

    monkeypatch.setattr(BoundVhostNet, "statistics", nothing)
    async with open_pair(Options(control=True, features_off=off)) as pair, unharmed(pair):
        with pytest.raises(CommandRefused, match=why):
            await pair.settings.ask_statistics()
        assert counted(pair) == {}


async def test_a_reply_about_another_queue_is_disregarded(monkeypatch: pytest.MonkeyPatch) -> None:
    inner = BoundVhostNet.statistics

    def other(device: BoundVhostNet, index: int) -> QueueCounts | None:
        counts = inner(device, index)
        return attrs.evolve(counts, index=9) if counts is not None and counts.type is StatType.TX_BASIC else counts

    monkeypatch.setattr(BoundVhostNet, "statistics", other)
    async with open_pair(WITH) as pair, unharmed(pair):
        await pair.settings.ask_statistics()
        assert list(counted(pair)) == [RX, CONTROL]
