"""The stream of a hostile vfio-user client: headers, descriptors, and commands in any order."""

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
from support.rigs.vfio_user import C, Client, open_bench, plug
from support.rigs.vfio_user_hostile import closes, refuses
from vnet.vfio_user.accesses import RegionWrite
from vnet.vfio_user.constants import FDS_MAX, HeaderFlag
from vnet.vfio_user.messages import emit

NO_REPLY = HeaderFlag.NO_REPLY


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
