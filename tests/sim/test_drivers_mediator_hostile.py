"""The mediator while one side resets, and against hostile drivers."""

from __future__ import annotations

import struct

import pytest
import trio
import trio.testing

from drivers.contracts.ports import HEADER_SIZE
from rings.layout import WRITE
from rings.status import Status
from rings.testing import Desc
from support.rigs.frames import DROPPED, Build
from support.rigs.mediated import CSUM, HEADER, OVER, Mediated, cross, drained, large, open_mediated
from vnet.system.device import Device
from vnet.testing import FRAME, bounded, hostile_driver, until

NEEDS_CSUM = 1
MSS = 1400
TSO = ("HOST_TSO4", "HOST_TSO6", "HOST_USO", "GUEST_TSO4", "GUEST_TSO6", "GUEST_USO4", "GUEST_USO6")

# Resets


async def rebind(device: Device) -> None:
    bus, virtio = device.driver_host.virtio, device.virtio
    assert virtio is not None
    await bus.rebind(virtio)


@OVER
@pytest.mark.parametrize("which", [0, 1], ids=["remote", "local"])
async def test_a_reset_of_one_side_is_a_link_that_goes_down_and_comes_up_for_the_other(which: int) -> None:
    async with open_mediated() as pair:
        devices, before = (pair.device, pair.local), pair.footprint()
        reset, other = devices[which], devices[1 - which]
        port = pair.ports[1 - which]
        assert port.carrier
        seen: list[bool] = []

        def set_carrier(up: bool) -> None:
            seen.append(up)
            port.carrier = up

        port.set_carrier = set_carrier  # type: ignore[method-assign]

        async def load() -> None:
            while True:
                for end in pair.ports:
                    end.inject(FRAME)
                    end._outbound.clear()  # it never is full
                await trio.sleep(0.0001)

        resets = other.vhost.resets
        async with trio.open_nursery() as nursery:
            nursery.start_soon(load)
            for _ in range(5):
                await trio.sleep(0.005)
                seen.clear()
                await rebind(reset)
                await pair.world.wait_up()
                await until(lambda: port.carrier and seen[-1:] == [True])
                assert False in seen
            nursery.cancel_scope.cancel()
        assert other.vhost.resets == resets, "the other side was not reset"
        await drained(pair.ports[0])
        await drained(pair.ports[1])
        for way in (0, 1):
            assert await cross(pair, way) == (HEADER, FRAME)
        assert pair.footprint().within(before)


@pytest.mark.parametrize("transport", ["pci", "epf_mailbox"], indirect=True)
async def test_a_link_that_goes_down_under_load_is_no_fault_of_the_other_side() -> None:
    async with open_mediated() as pair:

        async def load() -> None:
            while True:
                for end in pair.ports:
                    end.inject(FRAME)
                    end._outbound.clear()
                await trio.sleep(0.0001)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(load)
            for _ in range(5):
                await trio.sleep(0.005)
                pair.link.bring_down()
                await trio.sleep(0.005)
                assert not pair.device_port.carrier
                pair.link.bring_up()
                await pair.world.wait_up()
            nursery.cancel_scope.cancel()
        assert (pair.local.vhost.resets, list(pair.local.vhost.failures)) == (1, [])
        await pair.transfer()


# Hostile drivers


@OVER
@pytest.mark.parametrize("queue", [0, 1], ids=["receiveq", "transmitq"])
@pytest.mark.hostile("R01")
async def test_a_driver_that_breaks_its_ring_breaks_its_own_device_alone(queue: int) -> None:
    async with open_mediated() as pair:
        async with hostile_driver(pair) as driver:
            await driver.start()
            driver.rings[queue].offer(9999)
            driver.kick(queue)
            pair.device_port.inject(FRAME)  # looks at the receiveq
            await until(lambda: pair.vhost.status & Status.NEEDS_RESET)
            assert not pair.local.vhost.status & Status.NEEDS_RESET
            assert pair.local.vhost.resets == 1
            assert not pair.local.vhost.failures
        await drained(pair.device_port)
        for way in (0, 1):
            await drained(pair.ports[1 - way])
            assert await cross(pair, way) == (HEADER, FRAME)


async def test_buffers_that_no_driver_should_give_come_back_empty_and_hold_nothing_up() -> None:
    async with open_mediated() as pair, hostile_driver(pair) as driver:
        await driver.start()
        received = driver.alloc(4096)
        driver.send(Desc(driver.put(FRAME), len(FRAME)), head=0, queue=0)
        driver.send(Desc(received, 4096, WRITE), head=1, queue=0)
        driver.send(Desc(driver.alloc(64), 64, WRITE), head=0)
        driver.send(Desc(driver.put(HEADER + FRAME), HEADER_SIZE + len(FRAME)), head=1)
        with bounded():
            assert (await pair.device_port.receive())[1] == FRAME
        pair.device_port.inject(FRAME)
        await until(lambda: driver.rings[0].used_idx == 2)
        assert driver.get(received + HEADER_SIZE, len(FRAME)) == FRAME  # type: ignore[arg-type]
        assert pair.statistics(0).drops == {"writable": 1}
        assert not pair.vhost.status & Status.NEEDS_RESET


@pytest.mark.parametrize("start", [35, 4000, 65_000])
async def test_a_header_that_points_anywhere_costs_its_own_frame(start: int) -> None:
    """Also one that says the transport header is where the frame ends."""
    names = tuple(name for name in CSUM if name.startswith("GUEST"))
    async with open_mediated(Mediated(local_features_off=names)) as pair, hostile_driver(pair) as driver:
        await driver.start()
        _, frame = large("tso4", max(0, start + 2 - 54))
        bad = struct.pack("<BBHHHHH", NEEDS_CSUM, 1, 0, MSS, start, 0, 0) + frame[: start + 2]
        driver.send(Desc(driver.put(bad), len(bad)), head=0)
        driver.send(Desc(driver.put(HEADER + FRAME), HEADER_SIZE + len(FRAME)), head=1)
        with bounded():
            assert (await pair.device_port.receive())[1] == FRAME
        assert pair.statistics(0).drops == {"bad_gso": 1}


@pytest.mark.hostile("N01", "N02", "N03", "N04", "N05")
@pytest.mark.parametrize("off", [(), CSUM], ids=["to one that finishes frames", "to one that does not"])
@pytest.mark.parametrize(("row", "cause", "build"), DROPPED.values(), ids=[f"{v[0]} {k}" for k, v in DROPPED.items()])
async def test_a_bad_frame_is_dropped_and_counted_once_and_both_devices_go_on(
    row: str, cause: str, build: Build, off: tuple[str, ...]
) -> None:
    guest = tuple(name for name in off if name.startswith("GUEST"))
    async with open_mediated(Mediated(local_features_off=guest)) as pair, hostile_driver(pair) as driver:
        await driver.start()
        descs = build(driver)
        for turn in range(2):
            driver.send(*descs)
            with bounded():
                await trio.testing.wait_all_tasks_blocked()
            drops = pair.statistics(0).drops
            assert list(drops.values()) == [turn + 1]
            assert set(drops) <= set(cause.split())
            assert driver.rings[1].elem(turn) == (0, 0)
        driver.send(Desc(driver.put(HEADER + FRAME), HEADER_SIZE + len(FRAME)), head=8)
        with bounded():
            assert (await pair.device_port.receive())[1] == FRAME
