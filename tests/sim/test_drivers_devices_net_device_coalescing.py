"""Notification coalescing: a device that calls after so many packets or so much time, and a driver that asks for it."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Literal

import attrs
import pytest
import trio
import trio.testing

from drivers.devices.net.coalescing import MAX_USECS, Coalescing, Direction
from drivers.devices.net.device.control import VhostNetControlFlow
from drivers.devices.net.driver.station import NetRequest
from drivers.errors import CommandRefused
from drivers.transports.pci.registers import Common
from rings.chain import Chain
from rings.features import RingFeature, mask
from rings.layout import NO_INTERRUPT, WRITE
from rings.testing import Desc
from support.rigs.net_control import ERR, FRAMES, OK, WITH, ask, start
from vnet.testing import FRAME, OFFERED, HostileDriver, NetPair, Options, hostile_driver, open_pair, over, unharmed

FLAGS_ONLY = OFFERED & ~mask({RingFeature.EVENT_IDX})
"""Features of a driver that suppresses calls by a flag."""
RX, TX, CONTROL = range(3)
"""Indices of the queues."""
VECTOR = 1
"""Vector of the receive queue."""
SECOND = 1_000_000


async def set_all(driver: HostileDriver[NetPair], command: int, packets: int, usecs: int) -> bytes:
    return await ask(driver, struct.pack("<BBII", 6, command, packets, usecs))


async def set_one(driver: HostileDriver[NetPair], index: int, packets: int, usecs: int, reserved: int = 0) -> bytes:
    return await ask(driver, struct.pack("<BBHHII", 6, 2, index, reserved, packets, usecs))


async def parameters(
    driver: HostileDriver[NetPair], index: int, reserved: int = 0, room: int = 9
) -> bytes | tuple[int, ...]:
    """The parameters of a queue, or the answer if the device refuses."""
    answer, data = driver.put(b"\xee" * room), driver.put(struct.pack("<BBHH", 6, 3, index, reserved))
    ring = driver.rings[CONTROL]
    driver.send(Desc(data, 6), Desc(answer, room, WRITE), head=0, queue=CONTROL)
    await trio.testing.wait_all_tasks_blocked()
    got = driver.get(answer, ring.elem((ring.used_idx - 1) % ring.num)[1])
    return struct.unpack("<II", got[1:]) if got[:1] == OK else got


def offer(driver: HostileDriver[NetPair], count: int = 12) -> None:
    """Offer buffers in the receive queue."""
    for head in range(count):
        driver.send(Desc(driver.alloc(2048), 2048, WRITE), head=head, queue=RX)
    driver.calls.clear()


async def receive(driver: HostileDriver[NetPair], count: int = 1) -> int:
    """Let frames arrive one by one. Returns the calls that the driver gets for them."""
    before = len(driver.calls), driver.rings[RX].used_idx
    for _ in range(count):
        assert driver.pair.device_port.inject(FRAMES["own"])
        await trio.testing.wait_all_tasks_blocked()
    assert driver.rings[RX].used_idx == before[1] + count, "used buffers are shown at once"
    return len(driver.calls) - before[0]


# The device


@pytest.mark.every_transport
@pytest.mark.virtio("NET-DEV-120")
async def test_the_device_calls_after_so_many_packets_or_so_long_after_the_first() -> None:
    async with open_pair(WITH) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await start(driver, FLAGS_ONLY)
        offer(driver)
        assert await receive(driver, 2) == 2
        assert await set_all(driver, 1, 3, SECOND // 2) == OK
        assert [await receive(driver) for _ in range(5)] == [0, 0, 1, 0, 0]
        began = trio.current_time()
        count = len(driver.calls)
        await trio.sleep(0.3)
        assert await receive(driver) == 1, "the third packet"
        assert await receive(driver) == 0
        count, began = len(driver.calls), trio.current_time()
        await trio.sleep(0.49)
        assert len(driver.calls) == count
        await trio.sleep(0.02)
        assert len(driver.calls) == count + 1
        await trio.sleep(2)
        assert len(driver.calls) == count + 1, "nothing waits for a call"
        for packets, usecs in ((0, SECOND), (3, 0), (0, 0)):
            assert await set_all(driver, 1, packets, usecs) == OK
            assert await receive(driver) == 1
        assert began


@pytest.mark.virtio("NET-DEV-120")
async def test_a_transmit_queue_counts_its_own_packets() -> None:
    async with open_pair(WITH) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await start(driver, FLAGS_ONLY)
        assert await set_all(driver, 0, 2, SECOND) == OK
        offer(driver, 2)
        assert await receive(driver, 2) == 2, "the other direction is as it was"
        calls = []
        for head in range(4):
            before = len(driver.calls)
            driver.send(Desc(driver.put(bytes(12) + FRAME), 12 + len(FRAME)), head=head, queue=TX)
            await trio.testing.wait_all_tasks_blocked()
            calls.append(len(driver.calls) - before)
        assert calls == [0, 1, 0, 1]


@pytest.mark.virtio("NET-DEV-121")
async def test_new_parameters_apply_at_once_to_packets_that_wait() -> None:
    async with open_pair(WITH) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await start(driver, FLAGS_ONLY)
        offer(driver)
        for packets, usecs in ((2, SECOND), (0, 0)):
            assert await set_all(driver, 1, 100, SECOND) == OK
            assert await receive(driver, 2) == 0
            before = driver.calls.count(VECTOR)
            assert await set_all(driver, 1, packets, usecs) == OK
            assert driver.calls.count(VECTOR) == before + 1
        assert await set_all(driver, 1, 100, SECOND) == OK
        assert await receive(driver) == 0
        assert await set_all(driver, 1, 100, SECOND // 4) == OK
        before = driver.calls.count(VECTOR)
        await trio.sleep(0.2)
        assert driver.calls.count(VECTOR) == before
        await trio.sleep(0.06)
        assert driver.calls.count(VECTOR) == before + 1


@pytest.mark.virtio("NET-DEV-118")
async def test_a_driver_that_suppresses_calls_is_not_called_when_time_is_up() -> None:
    async with open_pair(WITH) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await start(driver, FLAGS_ONLY)
        offer(driver)
        assert await set_all(driver, 1, 3, SECOND) == OK
        for suppressed in (NO_INTERRUPT, 0):
            assert await receive(driver, 2) == 0
            driver.rings[RX].avail_flags = suppressed
            before = driver.calls.count(VECTOR)
            await trio.sleep(1.1)
            assert driver.calls.count(VECTOR) - before == (not suppressed)
            assert await receive(driver, 3) == (not suppressed)


@pytest.mark.every_transport
@pytest.mark.virtio("NET-DEV-112", "NET-DEV-113", "NET-DEV-114", "NET-DEV-115")
@pytest.mark.hostile("N07")
async def test_a_command_that_can_not_be_applied_is_refused_and_reserved_fields_are_ignored() -> None:
    async with open_pair(WITH) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await start(driver)
        assert await parameters(driver, RX) == (0, 0)
        assert await set_one(driver, RX, 16, 50, reserved=0xFFFF) == OK
        assert await parameters(driver, RX, reserved=0xFFFF) == (16, 50)
        for usecs in (MAX_USECS + 1, 0xFFFF_FFFF):
            assert await set_one(driver, RX, 1, usecs) == ERR
            assert await set_all(driver, 1, 1, usecs) == ERR
        for index in (CONTROL, 3, 0xFFFF):
            assert await set_one(driver, index, 1, 1) == ERR
            assert await parameters(driver, index) == ERR
        assert await parameters(driver, RX, room=8) == ERR, "no room for the result"
        assert [await parameters(driver, index) for index in (RX, TX)] == [(16, 50), (0, 0)]
        assert await set_all(driver, 0, 0xFFFF_FFFF, MAX_USECS) == OK
        assert await parameters(driver, TX) == (0xFFFF_FFFF, MAX_USECS)


@pytest.mark.every_transport
@pytest.mark.virtio("NET-DEV-119")
async def test_a_reset_ends_coalescing() -> None:
    async with open_pair(WITH) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await start(driver)
        assert await set_all(driver, 1, 8, 100) == OK
        assert await set_one(driver, TX, 9, 101) == OK
        await start(driver, FLAGS_ONLY)
        assert [await parameters(driver, index) for index in (RX, TX)] == [(0, 0)] * 2
        offer(driver)
        assert await receive(driver) == 1


@pytest.mark.virtio("NET-DEV-115", "NET-DEV-116", "NET-DEV-117")
async def test_a_queue_that_is_enabled_again_has_the_parameters_of_its_direction() -> None:
    async with open_pair(WITH) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await start(driver, OFFERED | 1 << RingFeature.RING_RESET)

        async def enable_again(index: int) -> bytes | tuple[int, ...]:
            driver.write(Common.QUEUE_SELECT, index)
            driver.write(Common.QUEUE_RESET, 1)
            assert await parameters(driver, index) == ERR, "it is not enabled"
            driver.rings[index] = driver.set_up(index)
            await trio.testing.wait_all_tasks_blocked()
            return await parameters(driver, index)

        for index, command in ((RX, 1), (TX, 0)):
            assert await set_one(driver, index, 7, 70) == OK
            assert await enable_again(index) == (0, 0)
            assert await set_all(driver, command, 5, 50) == OK
            assert await set_one(driver, index, 7, 70) == OK
            assert await enable_again(index) == (5, 50)


@pytest.mark.parametrize(("index", "command"), [(RX, 1), (TX, 0)])
async def test_a_command_counts_that_comes_before_the_task_of_a_queue_has_seen_its_ring(
    index: int, command: int
) -> None:
    async with open_pair(WITH) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await start(driver, OFFERED | 1 << RingFeature.RING_RESET)
        assert await set_all(driver, command, 5, 50) == OK
        for change in (False, True):
            driver.write(Common.QUEUE_SELECT, index)
            driver.write(Common.QUEUE_RESET, 1)
            driver.rings[index] = driver.set_up(index)
            if change:
                assert await set_one(driver, index, 7, 70) == OK
            assert await parameters(driver, index) == ((7, 70) if change else (5, 50))


# The driver


Request = Mapping[tuple[Direction, int | None], Coalescing]
SOME, OTHERS = Coalescing(16, 300), Coalescing(2, 40)


def coalesced(pair: NetPair) -> Mapping[int, Coalescing]:
    """The coalesced queues, on which both sides agree."""
    assert pair.settings.bound is not None
    assert pair.settings.bound.station is not None
    assert pair.plug.bound is not None
    assert pair.settings.bound.station.coalescing == pair.plug.bound.coalescers.by_queue
    return pair.plug.bound.coalescers.by_queue


@pytest.mark.every_transport
@pytest.mark.virtio("NET-DRV-98")
async def test_the_driver_has_queues_coalesced_also_after_a_reset() -> None:
    async with open_pair(attrs.evolve(WITH, pairs=2, queue_size=32)) as pair, unharmed(pair):
        rows: list[tuple[Request, Mapping[int, Coalescing]]] = [
            ({(Direction.RX, None): SOME}, {0: SOME, 2: SOME}),
            ({(Direction.RX, None): SOME, (Direction.TX, 1): OTHERS}, {0: SOME, 2: SOME, 3: OTHERS}),
            ({(Direction.RX, None): SOME, (Direction.RX, 0): OTHERS}, {0: OTHERS, 2: SOME}),
            ({(Direction.TX, None): SOME, (Direction.TX, 1): Coalescing()}, {1: SOME}),
        ]
        for request, wanted in rows:
            await pair.settings.change(NetRequest(coalescing=request))
            assert coalesced(pair) == wanted
            await pair.transfer(1 << 14)
        await pair.reset()
        await trio.testing.wait_all_tasks_blocked()
        assert coalesced(pair) == wanted
        with pytest.raises(CommandRefused, match="there is no queue pair 3: the device has 2"):
            await pair.settings.change(NetRequest(coalescing={(Direction.RX, 2): SOME}))
        with pytest.raises(CommandRefused, match="the device refused it"):
            await pair.settings.change(NetRequest(coalescing={(Direction.RX, None): Coalescing(1, MAX_USECS + 1)}))
        assert coalesced(pair) == wanted
        await pair.settings.change(NetRequest())
        assert coalesced(pair) == {}


@pytest.mark.parametrize("ring", ["split", "packed"])
async def test_a_resized_queue_is_coalesced_as_before(ring: Literal["split", "packed"]) -> None:
    with over("pci", ring):
        async with open_pair(WITH) as pair:
            request: Request = {(Direction.RX, None): SOME, (Direction.TX, 0): OTHERS}
            await pair.settings.change(NetRequest(coalescing=request))
            await pair.settings.resize(8)
            assert coalesced(pair) == {0: SOME, 1: OTHERS}
            await pair.transfer(1 << 16)


@pytest.mark.virtio("NET-DRV-99", "NET-DRV-100")
@pytest.mark.parametrize(
    ("off", "request_", "wanted", "why"),
    [
        (("NOTF_COAL",), {(Direction.RX, None): SOME}, {0: SOME}, ""),
        (("VQ_NOTF_COAL",), {(Direction.RX, None): SOME}, {0: SOME}, ""),
        (("VQ_NOTF_COAL",), {(Direction.RX, 0): SOME}, {}, "VQ_NOTF_COAL was not negotiated"),
        (("NOTF_COAL", "VQ_NOTF_COAL"), {(Direction.RX, None): SOME}, {}, "NOTF_COAL was not negotiated"),
    ],
    ids=["by queue", "all", "not by queue", "none"],
)
async def test_the_driver_sends_only_commands_whose_feature_was_negotiated(
    off: tuple[str, ...],
    request_: Request,
    wanted: Mapping[int, Coalescing],
    why: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    commands: list[bytes] = []
    inner: Callable[..., int] = VhostNetControlFlow._answer_command

    def answer(flow: VhostNetControlFlow, chain: Chain) -> int:
        commands.append(bytes(chain[1][0][:2]))
        return inner(flow, chain)

    monkeypatch.setattr(VhostNetControlFlow, "_answer_command", answer)
    async with open_pair(attrs.evolve(WITH, features_off=off)) as pair, unharmed(pair):
        if why:
            with pytest.raises(CommandRefused, match=why):
                await pair.settings.change(NetRequest(coalescing=request_))
        else:
            await pair.settings.change(NetRequest(coalescing=request_))
        assert coalesced(pair) == wanted
        assert pair.plug.figures.control.refused == 0
    if "NOTF_COAL" in off:
        assert not {b"\6\0", b"\6\1"} & {*commands}
    if "VQ_NOTF_COAL" in off:
        assert not {b"\6\2", b"\6\3"} & {*commands}


@pytest.mark.virtio("NET-DRV-101")
async def test_parameters_behind_a_refusal_are_disregarded(monkeypatch: pytest.MonkeyPatch) -> None:
    inner: Callable[..., int] = VhostNetControlFlow._answer_command

    def answer(flow: VhostNetControlFlow, chain: Chain) -> int:
        written = inner(flow, chain)
        if bytes(chain[1][0][:2]) == b"\6\3":
            chain[2][0][:9] = ERR + struct.pack("<II", 99, 99)
        return written

    monkeypatch.setattr(VhostNetControlFlow, "_answer_command", answer)
    async with open_pair(WITH) as pair, unharmed(pair):
        await pair.settings.change(NetRequest(coalescing={(Direction.RX, 0): SOME}))
        assert pair.settings.bound is not None
        assert pair.settings.bound.station is not None
        assert pair.settings.bound.station.coalescing == {0: SOME}


async def test_a_queue_with_coalescing_is_not_lent_to_c() -> None:
    async with open_pair(Options(queue_size=16, control=True)) as pair:
        assert pair.plug.bound is not None
        flows = pair.plug.bound.flows(0)
        assert flows is not None
        await pair.settings.change(NetRequest(coalescing={(Direction.RX, None): SOME, (Direction.TX, None): SOME}))
        assert [flow.lend() for flow in flows] == [None, None]
