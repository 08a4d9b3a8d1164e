"""Hash reports: a device that tells with each frame what it has hashed, and a driver that asks for it."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Literal

import attrs
import pytest
import trio
import trio.testing

from drivers.devices.net.device.control import VhostNetControlFlow
from drivers.devices.net.driver.station import NetRequest
from drivers.devices.net.hashing import HASH_TYPES, HashType
from drivers.devices.net.layout import NetFeature
from drivers.devices.net.steering import KEY, HashConfig
from drivers.errors import CommandRefused
from rings.chain import Chain
from rings.features import mask
from rings.layout import WRITE
from rings.testing import Desc
from support.rigs.net_control import ERR, OK
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
from vnet.testing import (
    FRAME,
    HostileDriver,
    NetPair,
    Options,
    hostile_device,
    hostile_driver,
    open_pair,
    over,
    unharmed,
    until,
)

F = NetFeature
BOTH = attrs.evolve(SEVERAL, features_on=("RSS", "HASH_REPORT"))
ALONE = attrs.evolve(SEVERAL, features_on=("HASH_REPORT",))
ONE = attrs.evolve(ALONE, pairs=1)
REPORTED = AGREED | mask({F.HASH_REPORT, F.MQ})
"""Features of a hostile driver."""
TCPV4 = 1 << HashType.TCPV4
HEADER = struct.Struct("<BBHHHHHIHH")
FLOWS = [tcp_frame(flow) for flow, _ in EXAMPLES]
NONE = (0, 0)


def hash_config(types: int, key: bytes = KEY, reserved: bytes = bytes(8)) -> bytes:
    return struct.pack("<I8sB", types, reserved, len(key)) + key


async def reports(driver: HostileDriver[NetPair], *frames: bytes) -> list[tuple[int, int]]:
    """Let frames arrive at the first pair one by one; return the type and the hash of each."""
    ring, got = driver.rings[0], []
    for frame in frames:
        index, room = ring.used_idx, driver.alloc(2048)
        driver.send(Desc(room, 2048, WRITE), head=index % ring.num, queue=0)
        assert driver.pair.device_port.inject(frame)
        await trio.testing.wait_all_tasks_blocked()
        assert ring.used_idx == index + 1 & 0xFFFF
        size = ring.elem(index % ring.num)[1]
        data = driver.get(room, size)
        *_, count, value, report, padding = HEADER.unpack_from(data)
        assert (count, padding, data[20:]) == (1, 0, frame)
        got.append((report, value))
    return got


@pytest.mark.every_transport
@pytest.mark.virtio("NET-DEV-65", "NET-DEV-68", "NET-DEV-69", "NET-DEV-106")
async def test_each_frame_has_the_type_and_the_value_of_its_hash() -> None:
    async with open_pair(ALONE) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await start(driver, REPORTED & ~mask({F.RSS}))
        assert await reports(driver, FLOWS[0], OTHER_FRAME) == [NONE, NONE], "to begin with, no type is enabled"
        assert await command(driver, 2, hash_config(TCPV4)) == OK
        assert await reports(driver, *FLOWS) == [(HashType.TCPV4 + 1, value) for _, value in EXAMPLES]
        assert await reports(driver, OTHER_FRAME) == [NONE]
        assert await command(driver, 2, hash_config(1 << HashType.IPV4, reserved=b"\xff" * 8)) == OK
        assert await reports(driver, FLOWS[0]) == [(HashType.IPV4 + 1, 0x323E8FC2)], "reserved fields are ignored"
        for data in (hash_config(1 << 9), hash_config(2, bytes(41)), hash_config(2)[:-1], hash_config(2) + b"\0", b""):
            assert await command(driver, 2, data) == ERR
        assert await reports(driver, FLOWS[0]) == [(HashType.IPV4 + 1, 0x323E8FC2)]
        assert await command(driver, 2, hash_config(0, b"")) == OK
        assert await reports(driver, FLOWS[0]) == [NONE]


@pytest.mark.virtio("NET-DEV-64")
async def test_parameters_of_receive_side_scaling_are_those_of_reports() -> None:
    async with open_pair(BOTH) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await start(driver, REPORTED)
        assert await command(driver, 1, rss((0,)).emit()) == OK
        assert await reports(driver, *FLOWS) == [(HashType.TCPV4 + 1, value) for _, value in EXAMPLES]
        offer(driver, 1, 2)
        assert await command(driver, 1, rss((1, 2)).emit()) == OK
        assert await pairs_of(driver, *FLOWS) == [1 + value % 2 for _, value in EXAMPLES]
        assert await command(driver, 2, hash_config(TCPV4)) == OK
        assert pair.plug.bound is not None
        assert pair.plug.bound.rss is None, "automatic steering"


@pytest.mark.virtio("NET-DEV-14")
async def test_the_bit_is_offered_on_request_and_only_with_a_control_queue() -> None:
    for options, wanted in (
        (ALONE, True),
        (attrs.evolve(ALONE, features_on=()), False),
        (Options(features_on=("HASH_REPORT",)), False),
    ):
        async with open_pair(options) as pair:
            assert bool(pair.vhost.device_features >> F.HASH_REPORT & 1) is wanted
            assert pair.virtio.has(F.HASH_REPORT) is wanted


async def test_a_driver_s_frame_has_the_longer_header_too() -> None:
    async with open_pair(ALONE) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await start(driver, REPORTED & ~mask({F.RSS}))
        for head, size in enumerate((20, 1, 12, 19)):
            data = bytes(12) + b"\xee" * 8 + FRAME
            first = driver.put(data[:size])
            driver.send(Desc(first, size), Desc(driver.put(data[size:]), len(data) - size), head=2 * head, queue=1)
            await trio.testing.wait_all_tasks_blocked()
            assert pair.device_port.receive_nowait() == (bytes(12), FRAME)
        before = pair.plug.figures.pairs[0].received.drops.total()
        for head, size in enumerate((0, 11, 12, 19, 20, 33)):
            driver.send(Desc(driver.put(bytes(size)), size), head=8 + head, queue=1)
        await trio.testing.wait_all_tasks_blocked()
        drops = pair.plug.figures.pairs[0].received.drops
        assert drops == {"used_length": 1, "short_header": 4, "short_frame": 1}
        assert drops.total() - before == 6


# Our driver


@pytest.mark.every_transport
async def test_frames_cross_with_the_longer_header() -> None:
    async with open_pair(ALONE) as pair, unharmed(pair):
        assert pair.virtio.has(F.HASH_REPORT)
        await until(lambda: pair.plug.bound is not None and pair.plug.bound.report_types == HASH_TYPES)
        for frame in (*FLOWS, OTHER_FRAME):
            assert pair.device_port.inject(frame)
            assert (await pair.driver_port.receive())[1] == frame
        await trio.testing.wait_all_tasks_blocked()
        seen = sum(dict(p.reports).get("tcpv4", 0) for p in pair.settings.figures.pairs)
        assert seen == len(FLOWS)
        await pair.transfer(1 << 18)
        await pair.reset()
        await pair.transfer(1 << 16)


@pytest.mark.parametrize("ring", ["split", "packed"])
@pytest.mark.parametrize("options", [BOTH, attrs.evolve(BOTH, rx_buffer=300), ONE])
async def test_large_frames_cross_in_one_buffer_or_in_several(
    ring: Literal["split", "packed"], options: Options
) -> None:
    with over("pci", ring):
        async with open_pair(options) as pair, unharmed(pair):
            await pair.transfer(1 << 18)
            for side in (pair.settings.figures, pair.plug.figures):
                assert not any(each.sent.drops or each.received.drops for each in side.pairs)
            await pair.settings.resize(32)
            await pair.transfer(1 << 16)
            await pair.settings.resize(None)


@pytest.mark.virtio("NET-DRV-63")
async def test_the_length_of_the_header_follows_from_the_features() -> None:
    for options, length in ((ONE, 20), (attrs.evolve(ONE, features_on=()), 12)):
        lengths: list[int] = []
        async with open_pair(options) as pair, unharmed(pair):
            flow = pair.plug.bound.flows(0) if pair.plug.bound is not None else None
            assert flow is not None
            inner = flow[0].queue.ring.getdescs  # type: ignore[union-attr]

            def getdescs(limit: int) -> list[Chain]:
                chains = inner(limit)  # noqa: B023
                lengths.extend(sum(map(len, chain[1])) for chain in chains)  # noqa: B023
                return chains

            flow[0].queue.ring.getdescs = getdescs  # type: ignore[union-attr, method-assign]
            flow[0].queue.ring.getplain = lambda *_: (memoryview(b""), ())  # type: ignore[union-attr, method-assign]
            assert pair.driver_port.inject(FRAME)
            assert (await pair.device_port.receive())[1] == FRAME
        assert lengths[0] == length + len(FRAME)


@pytest.mark.virtio("NET-DRV-60", "NET-DRV-61")
@pytest.mark.parametrize(
    ("off", "rx_buffer", "size"),
    [(("MRG_RXBUF",), None, 65609), (("MRG_RXBUF", "GUEST_CSUM", "MTU"), None, 1534), ((), 64, 72)],
)
async def test_receive_buffers_have_room_for_the_report(off: tuple[str, ...], rx_buffer: int | None, size: int) -> None:
    options = attrs.evolve(ONE, features_off=off, rx_buffer=rx_buffer)
    async with open_pair(options) as pair, hostile_device(pair) as device:
        ring = device.rings[0]
        assert {ring.read(ring.entry(at)).size for at in range(16)} == {size}


@pytest.mark.parametrize("count", [0, 1, 2, 0xFFFF])
async def test_a_report_of_any_kind_does_no_harm(count: int) -> None:
    """Frames of few bytes, and reports that no type has; ``count`` is the number of buffers that the device says."""
    async with open_pair(ONE) as pair, unharmed(pair), hostile_device(pair) as device:
        data = HEADER.pack(0, 0, 0, 0, 0, 0, count, 0xFFFF_FFFF, 77, 0xFFFF) + FRAME
        for size in (len(data), 0, 1, 12, 19, 20, 33, 34):
            device.deliver(data, size)
        await trio.testing.wait_all_tasks_blocked()
        figures = pair.settings.figures.pairs[0]
        assert (figures.received.packets, figures.reports["unknown"]) == ((2, 2) if count < 2 else (0, 0))
        assert figures.received.drops.total() >= 1


@pytest.mark.virtio("NET-DRV-88")
async def test_the_driver_leaves_reserved_fields_empty_and_keeps_to_the_types_of_the_device(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    commands: list[bytes] = []
    inner: Callable[..., int] = VhostNetControlFlow._answer_command

    def answer(flow: VhostNetControlFlow, chain: Chain) -> int:
        commands.append(b"".join(map(bytes, chain[1])))
        return inner(flow, chain)

    monkeypatch.setattr(VhostNetControlFlow, "_answer_command", answer)
    async with open_pair(ALONE) as pair, unharmed(pair):
        await pair.settings.change(NetRequest(hash_types=TCPV4, hash_key=bytes(range(40))))
        sent = [data for data in commands if data[:2] == b"\4\2"]
        assert sent == [b"\4\2" + hash_config(HASH_TYPES), b"\4\2" + hash_config(TCPV4, bytes(range(40)))]
        assert HashConfig.parse(sent[-1][2:]) == HashConfig(TCPV4, bytes(range(40)))
        await pair.settings.change(NetRequest())


async def test_parameters_of_hashes_need_one_of_both_features() -> None:
    async with open_pair(attrs.evolve(SEVERAL, features_on=())) as pair:
        with pytest.raises(CommandRefused, match="neither RSS nor HASH_REPORT was negotiated"):
            await pair.settings.change(NetRequest(hash_types=TCPV4))
        assert PAIRS == len(pair.plug.figures.pairs)
