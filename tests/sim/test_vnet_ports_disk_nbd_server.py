"""The NBD server towards clients that know the protocol well, badly, or not at all."""

from __future__ import annotations

import errno
import os
import socket
import struct
from typing import NoReturn

import pytest
import trio
import trio.testing

from support.rigs.nbd import (
    CACHE,
    DF,
    DISC,
    FLUSH,
    FUA,
    KIB,
    MIB,
    NO_HOLE,
    OK,
    READ,
    SIZE,
    STATUS,
    TRIM,
    WRITE,
    ZEROES,
    connected,
    serving,
)
from vnet.nbd import NbdError
from vnet.ports.disk.nbd_connection import BYTES_MAX, COMMANDS_MAX
from vnet.testing.blk import BlkOptions
from vnet.testing.checks import until


@pytest.mark.parametrize("structured", [True, False])
@pytest.mark.parametrize("size", [512, 4096, 300 * KIB, 3 * MIB + 512])
async def test_data_of_any_size_go_there_and_back(structured: bool, size: int) -> None:
    data = os.urandom(size)
    async with serving() as (pair, server), connected(server, structured=structured) as client:
        assert await client.do(WRITE, 1024, data=data) == OK
        assert pair.store.data[1024 : 1024 + size] == data
        assert await client.read(1024, size) == data
        assert await client.do(FLUSH) == OK
        assert await client.do(ZEROES, 1024, size) == OK
        assert await client.do(TRIM, 1024, size) == OK
        assert await client.read(1024, size) == bytes(size)


async def test_a_large_read_comes_in_pieces_the_last_of_which_says_so() -> None:
    async with serving() as (_pair, server), connected(server) as client:
        await client.ask(READ, 3, 0, 5 * MIB)
        chunks = [await client.chunk() for _ in range(5)]
        assert [chunk.done for chunk in chunks] == [False] * 4 + [True]
        assert sorted(chunk.offset for chunk in chunks) == [i * MIB for i in range(5)]
        await client.ask(READ, 4, 0, MIB, DF)
        chunk = await client.chunk()
        assert (len(chunk.data), chunk.done) == (MIB, True)
        assert await client.do(READ, 0, MIB + 512, DF) == NbdError.OVERFLOW


@pytest.mark.parametrize("structured", [True, False])
@pytest.mark.parametrize(
    ("kind", "offset", "size", "flags", "error"),
    [
        (READ, SIZE, 512, 0, NbdError.INVAL),
        (READ, SIZE - 512, 1024, 0, NbdError.INVAL),
        (READ, (1 << 64) - 512, 512, 0, NbdError.INVAL),
        (READ, 1, 512, 0, NbdError.INVAL),
        (READ, 0, 100, 0, NbdError.INVAL),
        (READ, 0, 512, 1 << 15, NbdError.INVAL),
        (WRITE, SIZE, 512, 0, NbdError.NOSPC),
        (WRITE, 0, 513, 0, NbdError.INVAL),
        (TRIM, SIZE, 512, 0, NbdError.INVAL),
        (ZEROES, 0, 0xFFFF_FE00, 0, NbdError.NOSPC),
        (CACHE, 0, 512, 0, NbdError.INVAL),
        (STATUS, 0, 512, 0, NbdError.INVAL),
        (99, 0, 0, 0, NbdError.INVAL),
    ],
)
async def test_an_impossible_command_has_its_error_and_the_next_one_is_understood(
    structured: bool, kind: int, offset: int, size: int, flags: int, error: NbdError
) -> None:
    async with serving() as (_pair, server), connected(server, structured=structured) as client:
        data = bytes(size) if kind == WRITE else b""
        assert await client.do(kind, offset, size, flags, data) == error
        assert await client.read(0, 512) == bytes(512)
        assert server.statistics.errors == 1


async def test_a_read_only_disk_is_not_written_to() -> None:
    async with serving(BlkOptions(read_only=True)) as (_pair, server), connected(server) as client:
        assert await client.do(WRITE, 0, data=bytes(3 * MIB)) == NbdError.PERM
        assert await client.do(TRIM, 0, 512) == NbdError.PERM
        assert await client.read(0, 512) == bytes(512)


@pytest.mark.parametrize(("kind", "data"), [(WRITE, bytes(512)), (ZEROES, b""), (TRIM, b"")])
async def test_with_fua_it_is_flushed_before_it_is_answered(kind: int, data: bytes) -> None:
    async with serving() as (pair, server), connected(server) as client:
        pair.store.gate = trio.Event()
        await client.ask(kind, 1, 0, 512, FUA, data)
        with trio.move_on_after(1) as scope:
            await client.chunk()
        assert scope.cancelled_caught
        pair.store.gate.set()
        assert (await client.chunk()).error == OK
        assert pair.store.log[-1] == "flush"


async def test_a_device_without_its_own_zeroes_is_given_them() -> None:
    async with serving(BlkOptions(features_off=("WRITE_ZEROES",))) as (_pair, server), connected(server) as client:
        await client.do(WRITE, 0, data=b"x" * 8192)
        assert await client.do(ZEROES, 4096, 4096, NO_HOLE) == OK
        assert await client.read(0, 8192) == b"x" * 4096 + bytes(4096)


async def test_commands_that_came_together_reach_the_device_together() -> None:
    async with serving() as (pair, server), connected(server) as client:
        before = pair.virtio.queues[0].statistics().notifications
        requests = b"".join(struct.pack(">IHHQQI", 0x25609513, 0, READ, i, i * 512, 512) for i in range(64))
        await client.stream.send_all(requests)
        assert {(await client.chunk()).cookie for _ in range(64)} == set(range(64))
        assert pair.virtio.queues[0].statistics().notifications - before <= 4


@pytest.mark.parametrize("structured", [True, False])
async def test_a_command_that_the_disk_refuses_is_an_error_of_that_command_alone(structured: bool) -> None:
    async with serving() as (pair, server), connected(server, structured=structured) as client:
        pair.store.at_once = False
        pair.store.errors["read"] = OSError(errno.EIO, "broken")
        assert await client.do(READ, 0, 3 * MIB) == NbdError.IO
        assert await client.do(WRITE, 0, data=bytes(512)) == OK
        pair.store.errors = {"write": OSError(errno.ENOSPC, "full"), "flush": OSError(errno.EIO, "broken")}
        assert await client.do(WRITE, 0, data=bytes(3 * MIB)) == NbdError.IO
        assert await client.do(FLUSH) == NbdError.IO
        pair.store.errors.clear()
        assert await client.read(0, 512) == bytes(512)


async def test_over_a_link_flap_a_client_waits_and_then_goes_on() -> None:
    async with serving() as (pair, server), connected(server) as client:
        data = os.urandom(2 * MIB)
        pair.link.bring_down()
        async with trio.open_nursery() as nursery:

            async def write() -> None:
                assert await client.do(WRITE, 0, data=data) == OK

            nursery.start_soon(write)
            await trio.sleep(20)
            pair.link.bring_up()
        assert await client.read(0, len(data)) == data


async def test_a_client_that_hangs_up_in_the_middle_of_a_write_has_written_nothing() -> None:
    async with serving() as (pair, server):
        async with connected(server) as client:
            await client.ask(WRITE, 1, 0, 512 * KIB, 0, b"x" * 300 * KIB)
            await trio.testing.wait_all_tasks_blocked(0.01)
        assert pair.store.data[: 512 * KIB] == bytes(512 * KIB)
        assert server.statistics.clients == 0


async def test_a_client_that_hangs_up_with_commands_under_way_leaves_no_buffer_behind() -> None:
    async with serving() as (pair, server):
        pair.store.at_once, pair.store.gate = False, trio.Event()
        async with connected(server) as client:
            for i in range(20):
                await client.ask(READ, i, 0, 4096)
                await client.ask(WRITE, i, 0, 4096, FUA, bytes(4096))
            await until(lambda: pair.store.inside == 4)
            client.stream.socket.close()
            pair.store.gate.set()
        async with connected(server) as client:
            assert await client.read(0, 512) == bytes(512)


async def test_requests_made_before_the_end_are_answered() -> None:
    async with serving() as (pair, server), connected(server) as client:
        pair.store.at_once = False
        await client.ask(WRITE, 1, 0, 512, 0, b"w" * 512)
        await client.ask(READ, 2, 4096, 3 * MIB, DF * 0)
        await client.ask(DISC)
        actual = [await client.chunk() for _ in range(4)]
        assert {chunk.cookie for chunk in actual} == {1, 2}
        await client.hung_up()
        assert pair.store.data[:512] == b"w" * 512


async def test_a_client_that_reads_no_replies_is_not_listened_to_for_ever_and_others_are() -> None:
    async with serving() as (pair, server), connected(server) as deaf, connected(server) as client:
        sent = 0
        with trio.move_on_after(1):
            while True:
                await deaf.ask(READ, sent, 0, MIB)
                sent += 1
        assert pair.disk._buffers._taken * MIB <= BYTES_MAX + MIB  # type: ignore[union-attr]
        assert server.statistics.commands <= COMMANDS_MAX
        assert await client.read(0, 3 * MIB) == bytes(3 * MIB)
        await deaf.stream.aclose()


@pytest.mark.parametrize("garbage", [b"GET / HTTP/1.1\r\nHost: disk0\r\n\r\n", bytes(100), b"\xff" * 65536])
async def test_a_connection_that_is_no_nbd_is_closed(garbage: bytes) -> None:
    async with serving() as (_pair, server):
        async with connected(server, begin=False) as client:
            await client.stream.send_all(garbage)
            await client.hung_up()
        async with connected(server) as client:
            await client.stream.send_all(garbage)
            await client.hung_up()
        async with connected(server) as client:
            assert await client.read(0, 512) == bytes(512)


async def test_a_write_that_is_larger_than_any_is_hung_up_on() -> None:
    async with serving() as (_pair, server), connected(server) as client:
        await client.ask(WRITE, 1, 0, 64 * MIB)
        await client.hung_up()


async def test_a_client_whose_buffers_cannot_be_enlarged_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> NoReturn:
        raise OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS))

    async with serving() as (_, server):
        monkeypatch.setattr(socket.socket, "setsockopt", fail)
        async with connected(server) as client:
            assert await client.do(FLUSH) == OK
        assert server.statistics.clients == 0
