"""A disk between two hosts: geometry, and reads and writes against a bytearray."""

from __future__ import annotations

import os

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from drivers.devices.blk import BlkStatus, DiskError, DiskRequest, RequestType
from drivers.devices.blk.layout import BlkFeature
from support.rigs.blk import exercise
from vnet.spec import LinkSpec
from vnet.system.snapshot import take_snapshot
from vnet.testing.blk import BlkOptions, open_blk_pair
from vnet.testing.checks import until
from vnet.testing.pair import ENDPOINT, ROOT
from vnet.views.plain import to_plain

KIB, MIB = 1 << 10, 1 << 20
SIZE = 8 * MIB
F = BlkFeature

# What it is


@pytest.mark.every_transport
async def test_every_request_works_on_every_transport() -> None:
    async with open_blk_pair() as pair:
        await exercise(pair.disk)
        await pair.transfer()
        [driver], [device] = pair.disk.figures, pair.plug.figures
        assert (driver.taken, driver.done, driver.errors) == (device.taken, device.done, device.errors)
        assert driver.taken == driver.done
        assert driver.bytes == device.bytes


@pytest.mark.parametrize(
    "link",
    [
        LinkSpec(root=ROOT, endpoint=ENDPOINT, generation=1, lanes=1, read_latency_ns=1000),
        LinkSpec(root=ROOT, endpoint=ENDPOINT, generation=3, lanes=4),
    ],
)
async def test_on_a_link_that_takes_time_data_take_the_time_of_their_bytes(link: LinkSpec) -> None:
    async with open_blk_pair(BlkOptions(link=link)) as pair:
        began = trio.current_time()
        await pair.transfer(4 * MIB)
        taken = trio.current_time() - began
        rate = {1: 0.25e9, 3: 3.94e9}[link.generation or 0]
        assert 2 * 4 * MIB / rate < taken < 4 * 4 * MIB / rate


@pytest.mark.parametrize("bit", [f.name for f in BlkFeature if f is not F.RO] + ["INDIRECT_DESC", "EVENT_IDX"])
async def test_each_feature_can_be_switched_off(bit: str) -> None:
    async with open_blk_pair(BlkOptions(features_off=(bit,), queues=2)) as pair:
        assert bit not in pair.vhost.table.describe(pair.vhost.features)
        geometry = await pair.disk.wait_online()
        if geometry.discard_max:
            await exercise(pair.disk)
        else:
            with pytest.raises(DiskError) as caught:
                await pair.disk.discard(0, 512)
            assert caught.value.status is BlkStatus.UNSUPP
        await pair.transfer()


@pytest.mark.parametrize("num", [4, 8])
@pytest.mark.parametrize("off", [(), ("INDIRECT_DESC",)])
async def test_the_smallest_rings_do_with_many_requests_at_once(num: int, off: tuple[str, ...]) -> None:
    async with open_blk_pair(BlkOptions(queue_size=num, features_off=off)) as pair:
        await exercise(pair.disk)
        async with trio.open_nursery() as nursery:
            for i in range(20):
                nursery.start_soon(pair.disk.write, i * 64 * KIB, bytes([i]) * 64 * KIB)
        for i in range(20):
            assert await pair.disk.read(i * 64 * KIB, 64 * KIB) == bytes([i]) * 64 * KIB


async def test_a_ring_that_no_request_fits_is_refused() -> None:
    from drivers.errors import ProbeError

    with pytest.raises(ProbeError, match="no request fits a queue of 2 descriptors"):
        async with open_blk_pair(BlkOptions(queue_size=2)):
            pass


async def test_several_queues_share_the_work() -> None:
    async with open_blk_pair(BlkOptions(queues=3)) as pair:
        assert pair.vhost.features >> F.MQ & 1
        async with trio.open_nursery() as nursery:
            for i in range(30):
                nursery.start_soon(pair.disk.write, i * 512, bytes([i]) * 512)
        assert [figures.done for figures in pair.disk.figures] == [10, 10, 10]
        assert [figures.done for figures in pair.plug.figures] == [10, 10, 10]


async def test_the_system_describes_it() -> None:
    async with open_blk_pair() as pair:
        await pair.disk.write(0, bytes(4096))
        actual = to_plain(take_snapshot(pair.world))["devices"]["disk0"]
        assert actual["driver"]["port"]["disk"]["size"] == SIZE
        assert actual["driver"]["queues"][0]["bytes"] == actual["device"]["queues"][0]["bytes"] == 4096
        assert actual["device"]["port"]["kind"] == "memory"


# Against a model


OFFSETS = st.integers(0, 63)
SIZES = st.sampled_from([1, 1, 2, 3, 8, 9])
OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), OFFSETS, SIZES, st.integers(1, 255)),
        st.tuples(st.sampled_from(["read", "zeroes", "discard", "flush", "reset"]), OFFSETS, SIZES, st.just(0)),
    ),
    max_size=25,
)


@settings(max_examples=25)
@given(OPERATIONS, st.booleans(), st.sampled_from([512, 4096]), st.sampled_from([(), ("WRITE_ZEROES",), ("FLUSH",)]))
def test_it_is_what_a_bytearray_would_be(
    operations: list[tuple[str, int, int, int]], at_once: bool, block: int, off: tuple[str, ...]
) -> None:
    async def run() -> None:
        async with open_blk_pair(BlkOptions(block_size=block, features_off=off, size=1, buffers=1)) as pair:
            pair.store.at_once = at_once
            model, disk = bytearray(MIB), pair.disk
            for what, start, count, value in operations:
                offset, size = start * block, count * block
                if what == "write":
                    await disk.write(offset, bytes([value]) * size, fua=value % 2 == 0)
                    model[offset : offset + size] = bytes([value]) * size
                elif what == "read":
                    assert await disk.read(offset, size) == model[offset : offset + size]
                elif what == "zeroes":
                    await disk.write_zeroes(offset, size, unmap=start % 2 == 0)
                    model[offset : offset + size] = bytes(size)
                elif what == "discard":
                    await disk.discard(offset, size)
                    model[offset : offset + size] = await disk.read(offset, size)
                elif what == "flush":
                    await disk.flush()
                else:
                    await pair.reset()
            assert await disk.read(0, MIB) == model

    trio.run(run, clock=trio.testing.MockClock(autojump_threshold=0))


async def test_many_requests_are_under_way_and_each_gets_its_own_answer() -> None:
    async with open_blk_pair() as pair:
        pair.store.at_once = False
        disk = pair.disk
        wanted = {i: bytes([i]) * 4096 for i in range(100)}

        async def both(i: int) -> None:
            await disk.write(i * 4096, wanted[i])
            assert await disk.read(i * 4096, 4096) == wanted[i]

        async with trio.open_nursery() as nursery:
            for i in wanted:
                nursery.start_soon(both, i)
        assert disk.figures[0].done == 200


async def test_programs_that_want_speed_submit_several_and_tell_the_device_once() -> None:
    async with open_blk_pair() as pair:
        disk = pair.disk
        ended: list[DiskRequest] = []
        for i in range(32):
            buffer = disk.take(4096)
            assert buffer is not None
            buffer.views[0][:] = bytes([i]) * 4096
            disk.submit(DiskRequest(RequestType.OUT, ended.append, i * 4096, 4096, buffer))
        before = pair.virtio.queues[0].statistics()
        disk.kick()
        await until(lambda: len(ended) == 32)
        after = pair.virtio.queues[0].statistics()
        assert after.notifications - before.notifications == 1
        assert pair.vhost.queues[0].statistics().notifications <= 1 + 1
        for request in ended:
            assert request.buffer is not None
            request.buffer.free()


async def test_more_than_the_buffers_hold_is_done_in_turns() -> None:
    async with open_blk_pair(BlkOptions(buffers=1)) as pair:
        data = os.urandom(4 * MIB)
        async with trio.open_nursery() as nursery:
            for i in range(4):
                nursery.start_soon(pair.disk.write, i * MIB, data[i * MIB : (i + 1) * MIB])
        assert await pair.disk.read(0, 4 * MIB) == data
        with pytest.raises(ValueError, match="no buffer of"):
            await pair.disk.buffer(2 * MIB)


async def test_a_partial_block_is_our_own_mistake() -> None:
    async with open_blk_pair(BlkOptions(block_size=4096)) as pair:
        for offset, size in ((512, 4096), (0, 512), (-4096, 4096)):
            with pytest.raises(ValueError, match="whole blocks of 4096"):
                await pair.disk.read(offset, size)
        assert pair.plug.figures[0].taken == 0


@pytest.mark.parametrize("at_once", [True, False])
async def test_a_cancelled_read_writes_nothing_to_its_buffer_later(at_once: bool) -> None:
    async with open_blk_pair() as pair:
        pair.store.data[:4096] = b"x" * 4096
        pair.store.at_once = at_once
        free = len(pair.disk._buffers._small)  # type: ignore[union-attr]
        into = bytearray(4096)
        with trio.CancelScope() as scope:
            scope.cancel()
            await pair.disk.read_into(0, memoryview(into))
        assert scope.cancelled_caught
        then = bytes(into)
        await trio.sleep(1)
        assert into == then
        assert len(pair.disk._buffers._small) == free  # type: ignore[union-attr]
