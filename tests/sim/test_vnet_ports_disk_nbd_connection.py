"""The NBD server and clients that are silent, deaf, or ask for much: what each costs the others."""

from __future__ import annotations

import errno
import os
import struct
from pathlib import Path

import attrs
import pytest
import trio

from drivers.devices.blk.driver.geometry import Geometry
from drivers.devices.blk.layout import SECTOR, BlkConfigField, BlkFeature
from rings.features import mask
from support.rigs.nbd import DF, KIB, MIB, READ, TRIM, USUAL, WRITE, ZEROES, connected, serving
from vnet.nbd import NbdError
from vnet.ports.disk.nbd_connection import BYTES_MAX, HANDSHAKE_TIMEOUT
from vnet.ports.disk.nbd_server import CLIENTS_MAX
from vnet.testing.blk import BlkOptions
from vnet.testing.checks import until


async def test_clients_that_never_finish_the_handshake_are_hung_up_on(tmp_path: Path) -> None:
    async with serving() as (_pair, server), trio.open_nursery() as nursery:
        path = tmp_path / "nbd.sock"
        await nursery.start(server.serve, path)
        silent = [await trio.open_unix_socket(path) for _ in range(CLIENTS_MAX)]
        await until(lambda: server.statistics.clients == CLIENTS_MAX)
        async with await trio.open_unix_socket(path) as late:
            assert await late.receive_some() == b"", "one too many"
        await silent[0].send_all(struct.pack(">I", 3) + b"IHAVEOPT")  # a byte now and then does not help
        await trio.sleep(HANDSHAKE_TIMEOUT + 1)
        await until(lambda: not server.statistics.clients)
        assert server.statistics.refused == CLIENTS_MAX + 1
        async with await trio.open_unix_socket(path) as client:
            assert len(await client.receive_some()) == 18
        for stream in silent:
            await stream.aclose()
        nursery.cancel_scope.cancel()


async def test_a_client_that_has_chosen_may_be_silent_for_as_long_as_it_likes() -> None:
    async with serving() as (_pair, server), connected(server) as client:
        await trio.sleep(10 * HANDSHAKE_TIMEOUT)
        assert await client.read(0, 512) == bytes(512)


@pytest.mark.parametrize("structured", [True, False])
async def test_a_large_read_that_is_not_taken_pins_no_more_than_a_clients_share(structured: bool) -> None:
    async with serving(attrs.evolve(USUAL, size=64, buffers=40)) as (pair, server):
        before = pair.disk.figures[0].bytes
        async with connected(server, structured=structured) as deaf, connected(server) as client:
            await deaf.ask(READ, 1, 0, 32 * MIB)
            await trio.sleep(1)
            read = pair.disk.figures[0].bytes - before
            assert read <= 8 * MIB + 2 * BYTES_MAX, "what the socket took, and what waits for it"
            assert await client.read(0, 3 * MIB) == bytes(3 * MIB)


@pytest.mark.parametrize("size", [3 * MIB + 512, 32 * MIB])
async def test_a_simple_read_comes_whole_and_replies_of_others_commands_not_in_it(size: int) -> None:
    async with (
        serving(attrs.evolve(USUAL, size=64)) as (pair, server),
        connected(server, structured=False) as client,
    ):
        data = os.urandom(size)
        pair.store.data[:size] = data
        pair.store.at_once = False
        requests = ((1, 512), (2, size), (3, 512), (4, size), (5, 4096))
        for cookie, part in requests:
            await client.ask(READ, cookie, 0, part)
        sizes = dict(requests)
        for _ in requests:
            chunk = await client.chunk()
            assert chunk.error == 0
            assert chunk.data == data[: sizes.pop(chunk.cookie)]
        assert not sizes


async def test_an_error_behind_the_header_of_a_simple_reply_ends_the_connection() -> None:
    async with serving(attrs.evolve(USUAL, size=64)) as (pair, server):
        async with connected(server, structured=False) as client:
            await client.ask(READ, 1, 0, 8 * MIB)
            assert struct.unpack(">IIQ", await client.exactly(16)) == (0x67446698, 0, 1)
            pair.store.errors["preadv"] = OSError(errno.EIO, "broken")
            await client.hung_up()
        pair.store.errors.clear()
        async with connected(server) as client:
            assert await client.read(0, 512) == bytes(512)


async def test_a_read_of_64_kib_comes_in_one_piece_however_small_the_devices_requests_are() -> None:
    async with serving(BlkOptions(queue_size=4)) as (pair, server), connected(server) as client:
        pair.disk.transfer_max = 4 * KIB
        data = os.urandom(64 * KIB)
        assert await client.do(WRITE, 0, data=data) == NbdError.OK
        await client.ask(READ, 3, 0, 64 * KIB, DF)
        chunk = await client.chunk()
        assert (chunk.data, chunk.done, chunk.offset) == (data, True, 0)
        assert await client.do(READ, 0, 64 * KIB + 512, DF) == NbdError.OVERFLOW
        pair.store.errors["preadv"] = OSError(errno.EIO, "broken")
        assert await client.do(READ, 0, 64 * KIB, DF) == NbdError.IO


async def test_a_command_that_was_not_offered_is_an_invalid_argument() -> None:
    async with serving(BlkOptions(features_off=("DISCARD",))) as (_pair, server), connected(server) as client:
        assert await client.do(TRIM, 0, 512) == NbdError.INVAL
        assert await client.do(ZEROES, 0, 512) == NbdError.OK


@pytest.mark.hostile("D07")
@pytest.mark.parametrize("blocks", [0, 1, 3, 3072, 131072, 0x800000, 0xFFFF_FFFF])
@pytest.mark.parametrize("block", [512, 65536])
async def test_block_sizes_are_powers_of_two_in_order_with_any_configuration(block: int, blocks: int) -> None:
    fields = dict.fromkeys(BlkConfigField, 0)
    fields |= {BlkConfigField.CAPACITY: 1 << 20, BlkConfigField.BLK_SIZE: block, BlkConfigField.OPT_IO_SIZE: blocks}
    geometry = Geometry.check("disk0", mask((BlkFeature.BLK_SIZE, BlkFeature.TOPOLOGY)), fields)
    assert geometry.size == SECTOR << 20
    async with serving() as (pair, server):
        pair.disk.set_geometry(geometry)
        export = server.export()
        for size in (export.block_min, export.block_preferred):
            assert not size & size - 1
        assert export.block_min <= export.block_preferred <= export.block_max
        async with connected(server) as client:
            assert await client.read(0, 0) == b""  # its handshake was answered
