"""The stream of a hostile vfio-user client: bytes, descriptors, an early end, silence, and commands in any order."""

from __future__ import annotations

import errno
import struct

import pytest
import trio
import trio.lowlevel
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from drivers.transports.pci.back import BAR, NOTIFY_AT
from support.rigs.vfio_user import MIB, C, Client, open_bench, plug
from support.rigs.vfio_user_hostile import closes, refuses
from vnet.linux.ipc import FileHandle
from vnet.vfio_user.accesses import RegionWrite
from vnet.vfio_user.constants import FDS_MAX, HeaderFlag
from vnet.vfio_user.messages import emit
from vnet.vfio_user.payloads import DmaUnmap

NO_REPLY = HeaderFlag.NO_REPLY


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
        short, bell = emit(1, C.DEVICE_RESET), emit(0, C.REGION_WRITE, RegionWrite(NOTIFY_AT, BAR, bytes(2)), NO_REPLY)
        for before in (short, 2 * short, bell, bell + short):
            send(memoryview(before))
            send(memoryview(emit(2, C.DMA_MAP, client.mapping())), [FileHandle(client.memory.fd)])
            send(memoryview(emit(3, C.DMA_UNMAP, DmaUnmap(24, 0, client.memory.base, MIB))))
            for _ in range(before.count(short) + 2):
                assert not (await client.receive()).error


@pytest.mark.hostile("W05")
async def test_a_posted_doorbell_before_the_version() -> None:
    bell = emit(0, C.REGION_WRITE, RegionWrite(NOTIFY_AT, BAR, bytes(2)), NO_REPLY)
    await closes(lambda client: client.send(bell), agree=False)


@pytest.mark.hostile("W02", "W03")
@pytest.mark.parametrize(
    ("size", "flags"), [(0, 0), (15, 0), (0xFFFFFFFF, 0), (16, 1), (16, 2), (16, 0x20), (16, 0x40)]
)
async def test_a_header_that_can_not_be(size: int, flags: int) -> None:
    await closes(lambda client: client.send(struct.pack("<HHIII", 1, C.DEVICE_RESET, size, flags, 0)))


@pytest.mark.hostile("W04")
@pytest.mark.parametrize("count", [FDS_MAX + 1, 100])
async def test_too_many_file_descriptors(count: int) -> None:
    await closes(lambda client: client.send(emit(1, C.DEVICE_RESET), [client.call_fd] * count))


@pytest.mark.hostile("W04")
async def test_unexpected_and_late_file_descriptors() -> None:
    async with open_bench(plug()) as bench, bench.client() as client:
        await refuses(client, errno.EINVAL, C.DEVICE_RESET, None, [client.call_fd])
        await refuses(client, errno.EINVAL, C.DMA_MAP, client.mapping(), [client.memory.fd] * 2)

    async def late(client: Client) -> None:
        data = emit(1, C.DMA_MAP, client.mapping())
        await client.send(data[:20])
        await client.send(data[20:], [client.memory.fd])

    await closes(late)


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


COMMANDS = st.lists(st.tuples(st.sampled_from(sorted(C)), st.binary(max_size=48), st.integers(0, 2)), max_size=30)


@pytest.mark.hostile("W14")
@settings(deadline=None, max_examples=40)
@given(COMMANDS)
def test_any_commands_in_any_order_are_answered(commands: list[tuple[C, bytes, int]]) -> None:
    async def play() -> None:
        async with open_bench(plug()) as bench:
            async with bench.client() as client:
                for command, body, count in commands:
                    given = [client.memory.fd, client.call_fd][:count]
                    answer = await client.ask(command, body, given)
                    for handle in answer.handles:
                        handle.close()
            assert bench.errors == []
            await bench.serves_another()

    trio.run(play)
