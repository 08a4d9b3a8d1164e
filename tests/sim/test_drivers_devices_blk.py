"""A disk between two hosts: what a bytearray would be, over resets, link flaps and a store that waits or fails."""

from __future__ import annotations

import errno
import os
from collections.abc import Awaitable, Callable
from functools import partial

import attrs
import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from drivers.contracts.ports import StoreInfo
from drivers.devices.blk import BlkStatus, Disk, DiskError, DiskRequest, RequestType
from drivers.devices.blk.layout import SEGMENT, BlkConfigField, BlkFeature
from drivers.registry import TRANSPORTS
from drivers.storage.bounce import LARGE
from drivers.storage.submit import PATIENCE
from drivers.transports.pci.registers import CfgType, Common
from rings.features import RingFeature
from rings.status import Status
from vnet.spec import LinkSpec
from vnet.system.snapshot import describe
from vnet.testing.blk import BlkOptions, BlkPair, open_blk_pair
from vnet.testing.checks import bounded, until
from vnet.testing.hostile import tapped
from vnet.testing.pair import ENDPOINT, ROOT

KIB, MIB = 1 << 10, 1 << 20
SIZE = 8 * MIB
F = BlkFeature


async def exercise(disk: Disk) -> None:
    """Every request there is, once."""
    geometry = await disk.wait_online()
    block = geometry.block_size
    data = os.urandom(3 * MIB)
    await disk.write(block, data)
    assert await disk.read(block, len(data)) == data
    await disk.flush()
    if geometry.discard_max:
        await disk.discard(0, 64 * KIB)
    await disk.write_zeroes(64 * KIB, MIB, unmap=True)
    assert await disk.read(64 * KIB, MIB) == bytes(MIB)
    assert await disk.get_id() == b"disk0"


# What it is


@pytest.mark.every_transport
async def test_every_request_works_on_every_transport() -> None:
    async with open_blk_pair() as pair:
        await exercise(pair.disk)
        await pair.transfer()
        [driver], [device] = pair.disk.figures, pair.blk.figures
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
        assert [figures.done for figures in pair.blk.figures] == [10, 10, 10]


async def test_the_system_describes_it() -> None:
    async with open_blk_pair() as pair:
        await pair.disk.write(0, bytes(4096))
        found = describe(pair.world)["devices"]["disk0"]  # type: ignore[index]
        assert found["driver"]["port"]["disk"]["size"] == SIZE
        assert found["driver"]["queues"][0]["bytes"] == found["device"]["queues"][0]["bytes"] == 4096
        assert found["device"]["port"]["kind"] == "memory"


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
        before = pair.virtio.statistics(pair.virtio.queues[0])
        disk.kick()
        await until(lambda: len(ended) == 32)
        after = pair.virtio.statistics(pair.virtio.queues[0])
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


async def test_what_is_no_whole_block_is_our_own_mistake() -> None:
    async with open_blk_pair(BlkOptions(block_size=4096)) as pair:
        for offset, size in ((512, 4096), (0, 512), (-4096, 4096)):
            with pytest.raises(ValueError, match="whole blocks of 4096"):
                await pair.disk.read(offset, size)
        assert pair.blk.figures[0].taken == 0


@pytest.mark.parametrize("at_once", [True, False])
async def test_whoever_is_cancelled_gets_nothing_written_behind_its_back(at_once: bool) -> None:
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


# What the specification asks of a driver


@pytest.mark.virtio("BLK-DRV-3", "BLK-DRV-10")
async def test_the_driver_reads_no_writeback_before_features_ok_and_only_fields_it_has_features_for() -> None:
    async with open_blk_pair(BlkOptions(features_off=("TOPOLOGY", "DISCARD"))) as pair, tapped(pair) as tap:
        pair.rc.pci.register_device(tap)
        await pair.world.wait_up()
        config = tap.structures[CfgType.DEVICE]
        place, status, seen = tap.at(Common.DEVICE_STATUS), Status(0), set()
        for access in tap.log:
            if (access.bar, access.offset) == place and access.write:
                status = Status(access.value)
            elif access.bar == config.bar and config.offset <= access.offset < config.offset + config.length:
                assert status & Status.FEATURES_OK
                seen.add(access.offset - config.offset)
        without = {f.value[0] for f in BlkConfigField if f.feature in (F.TOPOLOGY, F.DISCARD, F.MQ)}
        assert not seen & without
        assert BlkConfigField.CAPACITY.value[0] in seen


@pytest.mark.virtio("BLK-DRV-10", "BLK-DEV-18", "BLK-DEV-19")
async def test_a_read_only_disk_is_read_and_nothing_else() -> None:
    async with open_blk_pair(BlkOptions(read_only=True)) as pair:
        pair.store.data[512:1024] = b"r" * 512
        assert pair.vhost.features >> F.RO & 1
        assert not pair.vhost.device_features >> F.DISCARD & 1
        assert await pair.disk.read(512, 512) == b"r" * 512
        for change in (pair.disk.write(0, b"w" * 512), pair.disk.write_zeroes(0, 512)):
            with pytest.raises(DiskError, match="IOERR"):
                await change
        assert "pwritev" not in pair.store.log
        await pair.transfer()


@pytest.mark.virtio("BLK-DRV-9")
async def test_nothing_beyond_the_end_gets_to_the_device() -> None:
    async with open_blk_pair() as pair:
        for request in (
            pair.disk.read(SIZE, 512),
            pair.disk.write(SIZE - 512, bytes(1024)),
            pair.disk.discard(SIZE, 512),
        ):
            with pytest.raises(DiskError, match="IOERR"):
                await request
        assert pair.blk.figures[0].taken == 0
        assert pair.disk.figures[0].errors == {"beyond_end": 3}


@pytest.mark.virtio(
    "BLK-DRV-1", "BLK-DRV-11", "BLK-DRV-12", "BLK-DRV-13", "BLK-DRV-14", "BLK-DRV-15", "BLK-DRV-16", "BLK-DRV-18"
)
@pytest.mark.virtio("BLK-DRV-20", "BLK-DEV-54")
async def test_every_request_has_the_shape_that_its_type_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    from drivers.devices.blk.device.request import VhostBlkRequest

    seen: list[tuple[int, int, bytes, int]] = []
    parse_request = VhostBlkRequest.parse

    def spy(chain: tuple[int, list[memoryview], list[memoryview]], limits: object) -> object:
        _, read, write = chain
        data = b"".join(read)
        kind, sector = int.from_bytes(data[:4], "little"), int.from_bytes(data[8:16], "little")
        seen.append((kind, sector, data[16:], sum(map(len, write)) - 1))
        return parse_request(chain, limits)  # type: ignore[arg-type]

    monkeypatch.setattr(VhostBlkRequest, "parse", staticmethod(spy))
    async with open_blk_pair() as pair:
        await exercise(pair.disk)
        assert await pair.disk.get_id() == b"disk0"
    kinds = {kind for kind, *_ in seen}
    assert kinds == set(RequestType)
    for kind, sector, read, write in seen:
        if kind == RequestType.FLUSH:
            assert (sector, read, write) == (0, b"", 0)
        elif kind == RequestType.GET_ID:
            assert (read, write) == (b"", 20)
        elif kind in (RequestType.IN, RequestType.OUT):
            assert len(read) % 512 == write % 512 == 0
        else:
            [(_, _, flags)] = SEGMENT.iter_unpack(read)
            assert flags == (1 if kind == RequestType.WRITE_ZEROES else 0)


@pytest.mark.virtio("BLK-DRV-8", "BLK-DEV-17", "BLK-DEV-24")
async def test_a_store_that_grows_or_shrinks_tells_the_driver() -> None:
    async with open_blk_pair() as pair:
        assert (await pair.disk.wait_online()).size == SIZE
        for size in (MIB, 2 * SIZE):
            pair.store.info = attrs.evolve(pair.store.info, size=size)
            pair.blk.resized()
            await until(lambda size=size: pair.disk.geometry.size == size)  # type: ignore[misc, union-attr]
        pair.store.data.extend(bytes(SIZE))
        await pair.disk.write(SIZE, b"new" + bytes(509))
        assert (await pair.disk.read(SIZE, 512))[:3] == b"new"
        pair.store.info = attrs.evolve(pair.store.info, unmaps=False)
        pair.blk.resized()
        await until(lambda: pair.disk.geometry is not None and not pair.disk.geometry.unmaps)


# What it asks of a device


@pytest.mark.virtio("BLK-DEV-1", "BLK-DEV-2", "BLK-DEV-5", "BLK-DEV-29")
@pytest.mark.parametrize("off", [(), ("FLUSH",), ("CONFIG_WCE",)])
async def test_a_cache_mode_is_only_offered_with_a_way_to_flush_and_no_zones_or_lifetime_at_all(
    off: tuple[str, ...],
) -> None:
    async with open_blk_pair(BlkOptions(features_off=off)) as pair:
        offered = pair.vhost.device_features
        assert offered >> F.FLUSH & 1 == ("FLUSH" not in off)
        assert offered >> F.CONFIG_WCE & 1 == (not off)
        assert not offered & (1 << 15 | 1 << 16 | 1 << 17)


@pytest.mark.virtio("BLK-DEV-27", "BLK-DRV-2")
async def test_with_a_cache_writes_wait_for_nobody_and_a_flush_brings_them_home() -> None:
    async with open_blk_pair() as pair:
        assert pair.vhost.config[32] == 1
        await pair.disk.write(0, bytes(512))
        assert "flush" not in pair.store.log
        await pair.disk.flush()
        assert pair.store.log[-1] == "flush"
        await pair.disk.write(0, bytes(512), fua=True)
        assert pair.store.log[-2:] == ["pwritev", "flush"]


@pytest.mark.virtio("BLK-DEV-3", "BLK-DEV-25", "BLK-DEV-26")
@pytest.mark.parametrize("at_once", [True, False])
async def test_without_a_way_to_flush_every_change_is_home_when_it_is_answered(at_once: bool) -> None:
    async with open_blk_pair() as pair:
        pair.store.at_once = at_once
        settings = pair.device.driver_end.settings
        settings.features &= ~(1 << F.FLUSH)  # type: ignore[attr-defined]
        await pair.reset()
        assert pair.vhost.features >> F.CONFIG_WCE & 1
        assert pair.vhost.config[32] == 0
        for change in (pair.disk.write(0, bytes(512)), pair.disk.discard(0, 512), pair.disk.write_zeroes(0, 512)):
            del pair.store.log[:]
            await change
            assert pair.store.log[-1] == "flush"
        await pair.disk.flush()  # there is nothing to do, and nobody to ask
        settings.features &= ~(1 << F.CONFIG_WCE)  # type: ignore[attr-defined]
        await pair.reset()
        del pair.store.log[:]
        await pair.disk.write(0, bytes(512))
        assert pair.store.log[-1] == "flush"


@pytest.mark.virtio("BLK-DEV-26", "BLK-DRV-19")
async def test_a_driver_chooses_the_cache_mode_while_it_runs_and_nothing_else() -> None:
    async with open_blk_pair() as pair:
        ops, at = pair.virtio.ops, BlkConfigField.WRITEBACK.value[0]
        await ops.write_config(at, b"\0")
        assert pair.vhost.config[at] == 0
        await pair.disk.write(0, bytes(512))
        assert pair.store.log[-1] == "flush"
        before = pair.vhost.config
        await ops.write_config(at, b"\2")
        await ops.write_config(0, bytes(8))
        await ops.write_config(at + 1, b"\1")
        assert pair.vhost.config == before
        await ops.write_config(at, b"\1")
        await pair.disk.write(0, bytes(512))
        assert pair.store.log[-1] == "pwritev"


@pytest.mark.virtio("BLK-DEV-22", "BLK-DEV-23", "BLK-DRV-21")
@pytest.mark.parametrize("unmaps", [True, False])
async def test_zeroes_are_read_where_zeroes_were_written_whether_blocks_were_given_up_or_not(unmaps: bool) -> None:
    async with open_blk_pair() as pair:
        pair.store.info = attrs.evolve(pair.store.info, unmaps=unmaps)
        pair.blk.resized()
        assert pair.vhost.config[56] == unmaps
        for unmap in (True, False):
            await pair.disk.write(0, b"x" * 64 * KIB)
            await pair.disk.write_zeroes(0, 32 * KIB, unmap=unmap)
            assert await pair.disk.read(0, 64 * KIB) == bytes(32 * KIB) + b"x" * 32 * KIB


# A store that waits or fails


@pytest.mark.hostile("B06")
@pytest.mark.parametrize(
    ("method", "number"), [("read", errno.EIO), ("write", errno.ENOSPC), ("flush", errno.EIO), ("discard", errno.EIO)]
)
async def test_what_the_store_can_not_do_is_an_error_and_the_rest_goes_on(method: str, number: int) -> None:
    async with open_blk_pair() as pair:
        disk, store = pair.disk, pair.store
        await disk.write(0, b"a" * 4096)
        store.at_once = False
        store.errors[method] = OSError(number, os.strerror(number))
        calls: dict[str, Callable[[], Awaitable[object]]] = {
            "read": partial(disk.read, 0, 4096),
            "write": partial(disk.write, 0, b"b" * 4096),
            "flush": disk.flush,
            "discard": partial(disk.discard, 0, 4096),
        }
        for name, call in calls.items():
            if name == method:
                with pytest.raises(DiskError, match="IOERR"):
                    await call()
            elif name != "discard":
                await call()
        assert pair.blk.figures[0].errors == {os.strerror(number): 1}
        store.errors.clear()
        await pair.transfer()


@pytest.mark.hostile("B06")
@pytest.mark.parametrize("method", ["preadv", "pwritev"])
async def test_what_fails_at_once_is_an_error_too(method: str) -> None:
    async with open_blk_pair() as pair:
        pair.store.errors[method] = OSError(errno.EIO, "broken")
        with pytest.raises(DiskError, match="IOERR"):
            await (pair.disk.read(0, 512) if method == "preadv" else pair.disk.write(0, bytes(512)))
        pair.store.errors.clear()
        await pair.transfer()


@pytest.mark.hostile("B06")
async def test_nobody_fails_for_a_write_that_went_along_with_it() -> None:
    async with open_blk_pair(BlkOptions(workers=1)) as pair:
        disk, store = pair.disk, pair.store
        store.at_once, store.gate = False, trio.Event()
        bad = 5 * 4096
        plain = type(store).write

        async def write(parts: list[tuple[int, memoryview]]) -> None:
            if any(offset <= bad < offset + len(part) for offset, part in parts):
                raise OSError(errno.ENOSPC, "full")
            await plain(store, parts)

        store.write = write  # type: ignore[method-assign, assignment]
        outcomes: dict[int, bool] = {}

        async def one(offset: int) -> None:
            try:
                await disk.write(offset, bytes([offset // 4096 + 1]) * 4096)
                outcomes[offset] = True
            except DiskError:
                outcomes[offset] = False

        async with trio.open_nursery() as nursery:
            for i in range(10):
                nursery.start_soon(one, i * 4096)
            await trio.testing.wait_all_tasks_blocked()
            store.gate.set()
        assert outcomes == {i * 4096: i * 4096 != bad for i in range(10)}
        store.at_once = True
        for i in range(10):
            assert await disk.read(i * 4096, 512) == bytes([0 if i * 4096 == bad else i + 1]) * 512


async def test_a_few_requests_that_wait_keep_nobody_else_from_the_cache() -> None:
    async with open_blk_pair(BlkOptions(workers=2)) as pair:
        store = pair.store
        await pair.disk.write(0, b"a" * 512)
        store.gate = trio.Event()
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(pair.disk.flush)
            await trio.testing.wait_all_tasks_blocked()
            assert store.inside == 2
            with bounded():
                assert await pair.disk.read(0, 512) == b"a" * 512
            store.gate.set()


@pytest.mark.parametrize("size", [512, LARGE + 512, 3 * MIB])
async def test_what_the_store_has_half_of_is_completed_by_a_worker(size: int) -> None:
    async with open_blk_pair() as pair:
        data = os.urandom(size)
        store = pair.store
        store.data[:size] = data
        whole = type(store).preadv
        store.preadv = lambda segs, offset: whole(store, [segs[0][: len(segs[0]) // 3]], offset)  # type: ignore[method-assign]
        assert await pair.disk.read(0, size) == data
        store.pwritev = lambda segs, offset: 0  # type: ignore[method-assign]
        await pair.disk.write(0, data[::-1])
        assert store.data[:size] == data[::-1]


# Resets


@pytest.mark.hostile("S09")
async def test_a_reset_reads_back_as_0_only_when_the_store_is_idle() -> None:
    async with open_blk_pair() as pair:
        store = pair.store
        store.at_once, store.gate = False, trio.Event()
        async with trio.open_nursery() as nursery:
            for i in range(8):
                nursery.start_soon(pair.disk.read, i * 4096, 4096)
            await until(lambda: store.inside == 4)
            pair.vhost.write_status(0)
            await trio.testing.wait_all_tasks_blocked()
            assert pair.vhost.status != 0
            store.gate.set()
            await trio.testing.wait_all_tasks_blocked()
            assert store.inside == 0
            store.gate = None
            # The driver notices, and brings the device up again; what was not answered is done now.
            pair.virtio.interrupt()
        assert pair.disk.figures[0].done == 8
        assert pair.disk.figures[0].queued == 8


@pytest.mark.hostile("S09")
async def test_a_hundred_resets_under_load_lose_nothing() -> None:
    async with open_blk_pair() as pair:
        store, done = pair.store, 0
        store.at_once = False

        async def work(at: int) -> None:
            nonlocal done
            while not over:
                data = os.urandom(4096)
                await pair.disk.write(at * 4096, data)
                assert await pair.disk.read(at * 4096, 4096) == data
                done += 1
                await trio.sleep(0.003)

        over = False
        before = pair.footprint()
        async with trio.open_nursery() as nursery:
            for at in range(16):
                nursery.start_soon(work, at)
            for _ in range(100):
                await trio.sleep(0.005)
                await pair.reset()
            over = True
        assert done > 100
        assert pair.disk.figures[0].errors == {}
        await trio.testing.wait_all_tasks_blocked()
        # Descriptors of earlier tests may go meanwhile.
        assert attrs.evolve(pair.footprint(), fds=before.fds) == before


async def test_a_device_that_asks_for_a_reset_gets_it_and_its_requests_again() -> None:
    async with open_blk_pair() as pair:
        store = pair.store
        store.at_once, store.gate = False, trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pair.disk.write, 0, b"w" * 4096)
            await until(lambda: store.inside == 1)
            pair.vhost.fail("a test")
            await trio.testing.wait_all_tasks_blocked()
            store.gate.set()
        assert store.data[:4096] == b"w" * 4096
        assert pair.disk.figures[0].queued == 1


# Links that flap


class Loss:
    """The device can't be reached: its link is down, or its own driver has left it where there is no link."""

    def __init__(self, pair: BlkPair) -> None:
        self.pair, self.bus = pair, pair.device.endpoint.vhost
        self.linked = TRANSPORTS[pair.device.spec.transport].on != "host"
        self.driver = self.bus.match(pair.vhost)

    async def begin(self) -> None:
        if self.linked:
            self.pair.link.bring_down()
        elif self.driver is not None:
            await self.bus.unregister_driver(self.driver)

    def end(self) -> None:
        if self.linked:
            self.pair.link.bring_up()
        elif self.driver is not None:
            self.bus.register_driver(self.driver)


@pytest.mark.every_transport
@pytest.mark.parametrize("at_once", [True, False])
async def test_over_a_link_flap_every_request_is_kept_and_done(at_once: bool) -> None:
    async with open_blk_pair() as pair:
        loss = Loss(pair)
        pair.store.at_once = at_once
        pair.store.data[:MIB] = os.urandom(MIB)
        wanted = bytes(pair.store.data[:MIB])
        found: dict[int, bytes] = {}

        async def read(at: int) -> None:
            found[at] = await pair.disk.read(at * 4096, 4096)

        async with trio.open_nursery() as nursery:
            for at in range(200):
                nursery.start_soon(read, at)
                if at % 50 == 25:
                    await trio.lowlevel.checkpoint()
                    await loss.begin()
                if at % 50 == 49:
                    loss.end()
            await trio.sleep(5)
        assert b"".join(found[at] for at in range(200)) == wanted[: 200 * 4096]
        assert pair.disk.figures[0].errors == {}


@pytest.mark.every_transport
@pytest.mark.hostile("D11")
async def test_requests_wait_30_seconds_for_a_link_and_then_end_with_an_error_each_once() -> None:
    async with open_blk_pair() as pair:
        loss = Loss(pair)
        pair.store.at_once, pair.store.gate = False, trio.Event()
        ended: list[float] = []

        async def read() -> None:
            with pytest.raises(DiskError, match="IOERR"):
                await pair.disk.read(0, 4096)
            ended.append(trio.current_time() - began)

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(read)
            await until(lambda: pair.store.inside == 4)
            began = trio.current_time()
            nursery.start_soon(loss.begin)  # which may wait for the store
            await trio.testing.wait_all_tasks_blocked()
            pair.store.gate.set()
            await trio.sleep(10)
            assert not pair.disk.online
            for _ in range(3):
                nursery.start_soon(read)
            await trio.sleep(PATIENCE - 10.1)
            assert not ended
        assert ended == pytest.approx([PATIENCE] * 5 + [PATIENCE + 10] * 3, abs=0.1)
        assert pair.disk.figures[0].errors == {"device_lost": 8}
        pair.store.gate = None
        loss.end()
        await pair.world.wait_up()
        await pair.transfer()


@pytest.mark.every_transport
async def test_a_link_that_is_back_after_29_seconds_was_not_missed() -> None:
    async with open_blk_pair() as pair:
        loss = Loss(pair)
        async with trio.open_nursery() as nursery:
            await loss.begin()
            nursery.start_soon(pair.transfer)
            await trio.sleep(29)
            loss.end()
        assert pair.disk.figures[0].errors == {}


async def test_what_was_removed_while_the_link_was_down_fails_when_it_is_back() -> None:
    async with open_blk_pair() as pair:
        pair.link.bring_down()
        await trio.sleep(0.1)
        ended: list[DiskRequest] = []
        buffer = pair.disk.take(4096)
        pair.disk.submit(DiskRequest(RequestType.IN, ended.append, SIZE - 4096, 4096, buffer))
        pair.store.info = StoreInfo(MIB)
        pair.blk.resized()
        pair.link.bring_up()
        await until(lambda: bool(ended))
        assert ended[0].status is BlkStatus.IOERR
        assert pair.blk.figures[0].taken == 0


async def test_the_rings_features_change_nothing_of_what_is_kept() -> None:
    async with open_blk_pair() as pair:
        settings = pair.device.driver_end.settings
        pair.link.bring_down()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pair.transfer)
            await trio.sleep(0.1)
            settings.features &= ~(1 << RingFeature.INDIRECT_DESC)  # type: ignore[attr-defined]
            pair.link.bring_up()
        assert not pair.vhost.features >> RingFeature.INDIRECT_DESC & 1
