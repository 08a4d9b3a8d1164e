"""A front end stops rings of a running device and starts them again: each device type goes on where it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing

from drivers.devices.blk import BlkPlug
from drivers.errors import ProbeError
from drivers.transports.vhost_user.constants import FrontendRequest
from drivers.transports.vhost_user.front import VhostUserFront
from drivers.transports.vhost_user.front_rings import USER_BASE
from drivers.transports.vhost_user.payloads import MemRegion, MemTable, VringFd, VringState
from rings.status import Status
from support.rigs.vhost_user import open_bench
from vnet.testing import FRAME, NetPair, Options, open_pair, over, until
from vnet.testing.blk import StubbornStore, open_blk_pair
from vnet.testing.rpmsg import open_rpmsg_pair
from vnet.testing.scsi import open_scsi_pair

R = FrontendRequest


async def again(pair: NetPair) -> None:
    """Say of the memory what was said of it before: rings stand still for that, and go on."""
    front = pair.virtio.ops
    assert isinstance(front, VhostUserFront)
    [region] = front._socket.regions
    table = MemTable((MemRegion(region.addr, region.size, USER_BASE + region.addr, 0),))
    assert front._connection is not None
    await front._connection.send(R.SET_MEM_TABLE, table, [region.handle])


async def restart(pair: NetPair) -> None:
    """Stop every ring but the first, and start it where it stood: with the last one the device would stop, too."""
    front = pair.virtio.ops
    assert isinstance(front, VhostUserFront)
    assert front._connection is not None
    for ring in front._rings._rings[1:]:
        stood = await front._connection.query(R.GET_VRING_BASE, VringState, VringState(ring.index, 0))
        await front._connection.send(R.SET_VRING_BASE, stood)
        await front._connection.send(R.SET_VRING_KICK, VringFd(ring.index), (ring.kick,))


async def enable(pair: NetPair, index: int, on: bool) -> None:
    front = pair.virtio.ops
    assert isinstance(front, VhostUserFront)
    assert front._connection is not None
    await front._connection.send(R.SET_VRING_ENABLE, VringState(index, int(on)))


@pytest.mark.parametrize("open_some", [open_pair, open_blk_pair, open_scsi_pair, open_rpmsg_pair])
async def test_rings_go_on_in_other_memory_and_after_a_stop(open_some: Callable[..., Any]) -> None:
    with over("vhost_user"):
        async with open_some() as pair:
            for _ in range(3):
                await pair.transfer(1 << 16)
                await trio.testing.wait_all_tasks_blocked()
                await again(pair)
                await pair.transfer(1 << 16)
                await restart(pair)
            await pair.transfer(1 << 16)


async def test_chains_of_a_disabled_ring_are_thrown_away() -> None:
    with over("vhost_user"):
        async with open_pair(Options()) as pair:
            pair.driver_port.inject(FRAME)
            assert (await pair.device_port.receive())[1] == FRAME
            await enable(pair, 1, False)
            pair.driver_port.inject(FRAME)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(trio.WouldBlock):
                pair.device_port.receive_nowait()
            await enable(pair, 1, True)
            pair.driver_port.inject(FRAME)
            assert (await pair.device_port.receive())[1] == FRAME


async def test_no_ring_is_so_long_that_one_batch_of_it_stops_all_others() -> None:
    with over("vhost_user"):
        async with open_pair() as pair:
            front = pair.virtio.ops
            assert isinstance(front, VhostUserFront)
            assert front._connection is not None
            await front._connection.query(R.GET_VRING_BASE, VringState, VringState(1, 0))
            with pytest.raises(ProbeError, match="refused SET_VRING_NUM"):
                await front._connection.send(R.SET_VRING_NUM, VringState(1, 2048))
            await front._connection.send(R.SET_VRING_NUM, VringState(1, 1024))


async def test_a_ring_that_broke_is_stopped_at_once() -> None:
    """The chain that broke it is neither given back nor waited for."""
    async with open_bench(BlkPlug(StubbornStore(1 << 20))) as bench, bench.front() as front:
        await front.bring_up()
        [ring] = front.rings
        no_status = front.buffer(bytes(16))
        ring.queue.add([(no_status.addr, 16)], [], 0)
        ring.queue.publish()
        ring.kick()
        await until(lambda: bool(bench.back.device.status & Status.NEEDS_RESET))
        with trio.fail_after(1):
            await front.ask(R.GET_VRING_BASE, VringState(0, 0))


async def test_memory_is_given_back_only_when_the_device_is_done_with_it() -> None:
    """A store that does not answer: once the driver is gone, its rings are not written any more."""
    with over("vhost_user"):
        async with open_blk_pair() as pair, trio.open_nursery() as nursery:
            await pair.disk.wait_online()
            store, bus = pair.store, pair.rc.virtio
            store.at_once, store.gate = False, trio.Event()
            nursery.start_soon(pair.disk.read, 0, 4096)
            await until(lambda: bool(store.inside))
            driver = bus.match(pair.virtio)
            assert driver is not None
            await bus.unregister_driver(driver)
            assert not pair.vhost.queues[0].live
            store.gate.set()
            bus.register_driver(driver)
            nursery.cancel_scope.cancel()
