"""The block device: requirements of the specification, and stores that wait or fail."""

from __future__ import annotations

import errno
import os
from collections.abc import Awaitable, Callable
from functools import partial

import attrs
import pytest
import trio
import trio.testing

from drivers.devices.blk import DiskError
from drivers.devices.blk.layout import BlkConfigField, BlkFeature
from drivers.storage.bounce import LARGE
from vnet.testing.blk import BlkOptions, open_blk_pair
from vnet.testing.checks import bounded

KIB, MIB = 1 << 10, 1 << 20
F = BlkFeature

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
async def test_with_a_cache_writes_do_not_wait_and_a_flush_writes_them_to_the_store() -> None:
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
    async with open_blk_pair(BlkOptions(secure_erase=True)) as pair:
        pair.store.at_once = at_once
        settings = pair.device.driver_end.settings
        settings.features &= ~(1 << F.FLUSH)  # type: ignore[attr-defined]
        await pair.reset()
        assert pair.vhost.features >> F.CONFIG_WCE & 1
        assert pair.vhost.config[32] == 0
        for change in (
            pair.disk.write(0, bytes(512)),
            pair.disk.discard(0, 512),
            pair.disk.write_zeroes(0, 512),
            pair.disk.secure_erase(0, 512),
        ):
            del pair.store.log[:]
            await change
            assert pair.store.log[-1] == "flush"
        await pair.disk.flush()  # there is nothing to do, and no device to ask
        settings.features &= ~(1 << F.CONFIG_WCE)  # type: ignore[attr-defined]
        await pair.reset()
        del pair.store.log[:]
        await pair.disk.write(0, bytes(512))
        assert pair.store.log[-1] == "flush"


@pytest.mark.hostile("B07")
@pytest.mark.parametrize("at_once", [True, False])
async def test_flushed_data_outlive_the_cache_of_the_store(at_once: bool) -> None:
    """A write and a flush are answered, by a flush or by FUA; then what was not flushed is lost."""
    async with open_blk_pair() as pair:
        store, home = pair.store, bytearray(pair.store.data)
        store.at_once = at_once
        flush = store.flush

        async def write_home() -> None:
            await flush()
            home[:] = store.data

        store.flush = write_home  # type: ignore[method-assign]
        for turn in range(1, 9):
            data = bytes((turn,)) * 4096
            await pair.disk.write(0, data, fua=turn % 2 == 0)
            if turn % 2:
                await pair.disk.flush()
            await pair.disk.write(8192, data)  # in the cache when it is lost
            store.data[:] = home
            assert await pair.disk.read(0, 4096) == data


@pytest.mark.virtio("BLK-DEV-26")
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


@pytest.mark.virtio("BLK-DEV-7")
async def test_a_disk_without_zones_shows_zeroes_in_their_place() -> None:
    async with open_blk_pair() as pair:
        assert await pair.virtio.ops.read_config(72, 24) == bytes(24)


@pytest.mark.virtio("BLK-DRV-19")
async def test_a_driver_that_turned_the_cache_off_still_asks_for_a_flush() -> None:
    async with open_blk_pair() as pair:
        await pair.virtio.ops.write_config(BlkConfigField.WRITEBACK.value[0], b"\0")
        await pair.disk.write(0, bytes(512))
        before = pair.store.log.count("flush")
        await pair.disk.flush()
        assert pair.store.log.count("flush") == before + 1


@pytest.mark.virtio("BLK-DEV-22", "BLK-DEV-23")
@pytest.mark.parametrize("unmaps", [True, False])
async def test_zeroes_are_read_where_zeroes_were_written_whether_blocks_were_given_up_or_not(unmaps: bool) -> None:
    async with open_blk_pair() as pair:
        pair.store.info = attrs.evolve(pair.store.info, unmaps=unmaps)
        pair.plug.resized()
        assert pair.vhost.config[56] == unmaps
        for unmap in (True, False):
            await pair.disk.write(0, b"x" * 64 * KIB)
            await pair.disk.write_zeroes(0, 32 * KIB, unmap=unmap)
            assert await pair.disk.read(0, 64 * KIB) == bytes(32 * KIB) + b"x" * 32 * KIB


@pytest.mark.virtio("BLK-DRV-21")
async def test_the_driver_asks_the_device_for_data_that_it_discarded() -> None:
    async with open_blk_pair() as pair:
        await pair.disk.discard(0, 64 * KIB)
        pair.store.data[: 64 * KIB] = b"x" * 64 * KIB
        assert await pair.disk.read(0, 64 * KIB) == b"x" * 64 * KIB


# A store that waits or fails


@pytest.mark.hostile("B06")
@pytest.mark.parametrize(
    ("method", "number"), [("read", errno.EIO), ("write", errno.ENOSPC), ("flush", errno.EIO), ("discard", errno.EIO)]
)
async def test_an_operation_that_the_store_refuses_is_an_error_and_the_rest_goes_on(method: str, number: int) -> None:
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
        assert pair.plug.figures[0].errors == {os.strerror(number): 1}
        store.errors.clear()
        await pair.transfer()


@pytest.mark.hostile("B06")
@pytest.mark.parametrize("method", ["preadv", "pwritev"])
async def test_an_immediate_failure_is_an_error_too(method: str) -> None:
    async with open_blk_pair() as pair:
        pair.store.errors[method] = OSError(errno.EIO, "broken")
        with pytest.raises(DiskError, match="IOERR"):
            await (pair.disk.read(0, 512) if method == "preadv" else pair.disk.write(0, bytes(512)))
        pair.store.errors.clear()
        await pair.transfer()


@pytest.mark.hostile("B06")
async def test_no_request_fails_for_a_write_merged_with_it() -> None:
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


async def test_a_few_waiting_requests_keep_no_other_from_the_cache() -> None:
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
async def test_a_request_that_the_store_half_completes_is_completed_by_a_worker(size: int) -> None:
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
