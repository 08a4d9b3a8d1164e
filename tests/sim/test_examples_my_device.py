"""The example of a device type in one file: entropy, on every transport, over resets, and among hostile ends."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing

from rings.layout import WRITE
from rings.status import Status
from rings.testing import Desc
from support.paths import MY_DEVICE
from vnet.ends import DEVICE_TYPES
from vnet.system.snapshot import take_snapshot
from vnet.system.world import open_world
from vnet.testing import Pair, hostile_device, hostile_driver, unharmed, until
from vnet.testing.pair import carried
from vnet.topology.extensions import load_extension, temporarily
from vnet.views.plain import to_plain

pytestmark = pytest.mark.every_transport
LIMIT = 64 << 10
KIB = 1 << 10


@pytest.fixture(autouse=True)
def example() -> Iterator[Any]:
    """The file, as `vnet --load` runs it."""
    with temporarily():
        yield load_extension(MY_DEVICE)


class EntropyPair(Pair):
    @property
    def entropy(self) -> Any:
        return self.device.driver_end.settings

    @property
    def traffic(self) -> Any:
        return self.device.device_end.settings.traffic  # type: ignore[attr-defined]

    async def transfer(self, size: int = 256 * KIB, device: str = "") -> None:
        """Bytes arrive at one end as they entered at the other, in order."""
        self.device.device_end.settings.source = random.Random(size).randbytes  # type: ignore[attr-defined]
        model = random.Random(size)
        with trio.fail_after(60):
            for part in (1, 1000, LIMIT, LIMIT):
                assert await self.entropy.read(part) == model.randbytes(part)


@asynccontextmanager
async def open_entropy_pair(queue_size: int = 64, **keys: Any) -> AsyncIterator[EntropyPair]:
    spec = DEVICE_TYPES["entropy"].spec(type="entropy", queue_size=queue_size, **keys)
    async with open_world(carried({"entropy0": spec}), "test") as world:
        await world.wait_up()
        yield EntropyPair(world)


async def test_random_bytes_come_across() -> None:
    async with open_entropy_pair() as pair, unharmed(pair):
        await pair.transfer()
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(pair.entropy.read, 100_000)
        row = to_plain(take_snapshot(pair.world))["devices"]["entropy0"]
        requests, answered = row["driver"]["queues"][0], row["device"]["queues"][0]
        assert requests["packets"] == answered["packets"]
        assert requests["bytes"] == answered["bytes"] == 1 + 1000 + 2 * LIMIT + 20 * 100_000


async def test_a_packed_ring_does_as_well() -> None:
    async with open_entropy_pair(ring="packed") as pair:
        await pair.transfer()


@pytest.mark.parametrize("size", [2, 4])
async def test_the_smallest_rings_do(size: int) -> None:
    async with open_entropy_pair(queue_size=size) as pair:
        await pair.transfer()


@pytest.mark.hostile("Q01")
async def test_a_request_gets_64_kib_at_most() -> None:
    async with open_entropy_pair() as pair, unharmed(pair), hostile_driver(pair) as driver:
        pair.device.device_end.settings.source = bytes  # type: ignore[attr-defined]
        await driver.start(queues=1)
        ring, largest = driver.rings[0], 512 * KIB
        at = driver.alloc(largest)
        for head in range(8):
            ring.chain(head, Desc(at, largest, WRITE))
            ring.offer(head)
        driver.kick(0)
        await until(lambda: ring.used_idx == 8)
        assert [ring.elem(i)[1] for i in range(8)] == [LIMIT] * 8
        assert pair.traffic.bytes == 8 * LIMIT
        driver.send(Desc(at, 2 << 30, WRITE), queue=0)  # more than there is
        await until(lambda: driver.status & Status.NEEDS_RESET)
        assert pair.traffic.bytes == 8 * LIMIT


async def test_a_buffer_that_is_not_writable_gets_nothing_and_is_counted() -> None:
    async with open_entropy_pair() as pair, unharmed(pair), hostile_driver(pair) as driver:
        await driver.start(queues=1)
        ring = driver.rings[0]
        at = driver.put(bytes(64))
        driver.send(Desc(at, 64), queue=0)
        driver.send(Desc(at, 32), Desc(driver.put(bytes(32)), 32, WRITE), head=4, queue=0)
        driver.send(Desc(driver.put(bytes(32)), 32, WRITE), head=8, queue=0)
        await until(lambda: ring.used_idx == 3)
        assert [ring.elem(i) for i in range(3)] == [(0, 0), (4, 0), (8, 32)]
        assert driver.get(at, 64) == bytes(64)
        assert pair.traffic.drops == {"not_writable": 2}


async def test_a_device_that_gives_nothing_is_an_error_and_one_that_lies_about_it_too(example: Any) -> None:
    async with open_entropy_pair() as pair:
        pair.device.device_end.settings.limit = 0  # type: ignore[attr-defined]
        with pytest.raises(example.EntropyError):
            await pair.entropy.read(16)
        pair.device.device_end.settings.limit = LIMIT  # type: ignore[attr-defined]
        async with hostile_device(pair) as device:
            device.rings[0].give(60, 1 << 20)  # a head that was never offered
            device.call(0)
            await until(lambda: pair.virtio.restarts and pair.device.up)
        await pair.transfer()


async def test_requests_outlive_a_reset_and_a_cancelled_one_is_forgotten() -> None:
    async with open_entropy_pair() as pair:
        await pair.transfer()
        pair.vhost.disable_queue(0)  # answers nothing any more
        entropy, got = pair.entropy, []

        async def read(size: int) -> None:
            got.append(len(await entropy.read(size)))

        async with trio.open_nursery() as nursery:
            for size in range(1, 5):
                nursery.start_soon(read, size)
            await trio.testing.wait_all_tasks_blocked()
            with trio.move_on_after(0.5):
                await entropy.read(10)  # one more than can be under way
            assert not entropy.questions.waiting
            assert not got
            await pair.reset()
        assert sorted(got) == [1, 2, 3, 4]
