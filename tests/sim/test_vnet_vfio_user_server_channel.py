"""The connection of a vfio-user client: messages and doorbells in any parts, an early end, silence."""

from __future__ import annotations

import os
from collections.abc import Sequence

import pytest
import trio
import trio.lowlevel
import trio.testing

from drivers.transports.pci.back import BAR, COMMON_AT, NOTIFY_AT
from drivers.transports.pci.registers import Common
from support.rigs.vfio_user import COMMAND_BITS, MIB, C, Client, open_bench, plug
from support.rigs.vfio_user_hostile import closes
from vnet.linux.ipc import FileHandle
from vnet.pcie.config_space import COMMAND
from vnet.vfio_user.accesses import RegionWrite
from vnet.vfio_user.constants import HeaderFlag, Region
from vnet.vfio_user.messages import emit
from vnet.vfio_user.payloads import DmaUnmap

NO_REPLY = HeaderFlag.NO_REPLY


def posted(offset: int, data: bytes) -> bytes:
    return emit(0, C.REGION_WRITE, RegionWrite(offset, BAR, data), NO_REPLY)


@pytest.mark.hostile("W01")
async def test_a_message_byte_by_byte_and_two_at_once() -> None:
    async with open_bench(plug()) as bench, bench.client() as client:
        for byte in emit(1, C.DEVICE_RESET):
            await client.send(bytes((byte,)))
            await trio.testing.wait_all_tasks_blocked()
        assert not (await client.receive()).error
        await client.send(2 * emit(1, C.DEVICE_RESET))
        assert not (await client.receive()).error
        assert not (await client.receive()).error


@pytest.mark.hostile("W01")
async def test_a_command_with_file_descriptors_may_follow_short_ones_at_once() -> None:
    async with open_bench(plug()) as bench, bench.client() as client:
        send = client.socket.instant.send
        short, bell = emit(1, C.DEVICE_RESET), posted(NOTIFY_AT, bytes(2))
        for before in (short, 2 * short, bell, bell + short):
            send(memoryview(before))
            send(memoryview(emit(2, C.DMA_MAP, client.mapping())), [FileHandle(client.memory.fd)])
            send(memoryview(emit(3, C.DMA_UNMAP, DmaUnmap(24, 0, client.memory.base, MIB))))
            for _ in range(before.count(short) + 2):
                assert not (await client.receive()).error


@pytest.mark.hostile("W13")
@pytest.mark.parametrize("part", [1, 15, 16, 40])
async def test_a_client_that_is_gone_in_the_middle_of_a_message(part: int) -> None:
    async with open_bench(plug()) as bench:
        async with bench.client() as client:
            await client.share()
            await client.bring_up()
            await client.send(emit(1, C.DMA_MAP, client.mapping())[:part], [client.memory.fd])
        assert bench.server.statistics.broken == 1
        await bench.serves_another()


@pytest.mark.hostile("W13")
async def test_a_silent_client_is_hung_up_on(autojump_clock: trio.testing.MockClock) -> None:
    async def nothing(client: Client) -> None:
        await trio.lowlevel.checkpoint()

    await closes(nothing, agree=False, at_once=False)


async def test_a_posted_doorbell_rings_alone_among_others_and_in_parts() -> None:
    async with open_bench(plug()) as bench, bench.client() as client:
        await client.share()
        await client.bring_up()
        send, bell = client.socket.instant.send, posted(NOTIFY_AT, bytes(2))
        other = posted(COMMON_AT + Common.QUEUE_SELECT, b"\1\0")
        kicks: list[Sequence[bytes]] = [
            [bell],
            [3 * bell],
            [bell + other],
            [other, bell],
            [bell[:20], bell[20:] + bell[:1], bell[1:]],
        ]
        for parts in kicks:
            before, data = bench.server.statistics.messages, os.urandom(4096)

            def kick(parts: Sequence[bytes] = parts) -> None:
                for part in parts:
                    send(memoryview(part))

            assert await client.request(data, kick) == data + b"\0"
            assert bench.server.statistics.messages == before + len(b"".join(parts)) // len(bell)
        assert await client.get(Common.QUEUE_SELECT) == 1
        assert not bench.troubles


async def test_a_posted_write_of_two_bytes_elsewhere_is_a_write() -> None:
    async with open_bench(plug()) as bench, bench.client() as client:
        await client.write(Region.CONFIG, COMMAND, COMMAND_BITS.to_bytes(2, "little"))
        await client.send(posted(COMMON_AT + Common.QUEUE_SELECT, b"\3\0"))
        assert await client.get(Common.QUEUE_SELECT) == 3
        assert not bench.troubles
        await client.send(posted(1 << 30, bytes(2)))
        await client.get(Common.QUEUE_SELECT)
        assert len(bench.troubles) == 1
