"""Commands, descriptors and memory of a hostile vfio-user client: each row of the list has its outcome."""

from __future__ import annotations

import errno
import os
import socket as socket_module
import struct
from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.lowlevel
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from drivers.carriers.framing import ProtocolError
from drivers.devices.blk import BlkPlug
from drivers.errors import TransportLost
from drivers.transports.pci.back import BAR
from support.rigs.vfio_user import COMMAND_BITS, MIB, C, Client, open_bench
from vnet.pcie.config_space import COMMAND
from vnet.testing.blk import StubbornStore
from vnet.vfio_user.constants import FDS_MAX, MAPS_MAX, IrqSet, IrqType, Region
from vnet.vfio_user.messages import emit
from vnet.vfio_user.payloads import DmaMap, DmaUnmap, RegionRead, RegionWrite, Version
from vnet.vfio_user.server import MSI_AT

PAGE = 4096
TRIGGER = IrqSet.EVENTFD | IrqSet.TRIGGER


def plug() -> BlkPlug:
    return BlkPlug(StubbornStore(MIB))


async def closes(send: Callable[[Client], Awaitable[object]], *, agree: bool = True) -> None:
    """The exact outcome CLOSE: the connection ends with one typed error, everything is freed, the next may come."""
    async with open_bench(plug()) as bench:
        async with bench.client(agree=agree) as client:
            with trio.fail_after(30):
                try:
                    await send(client)
                    while True:
                        await client.receive()
                except (EOFError, TransportLost):
                    pass
        assert all(isinstance(error, ProtocolError) for error in bench.errors), bench.errors
        assert bench.server.statistics.broken == 1
        await bench.serves_another()


async def refuses(client: Client, number: int, command: C, payload: object, given: list[int] | None = None) -> None:
    answer = await client.ask(command, payload, given or [])  # type: ignore[arg-type]
    assert answer.error == number, (command, payload, answer)
    assert answer.body == b""


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


@pytest.mark.hostile("W02", "W03")
@pytest.mark.parametrize(
    ("size", "flags"), [(0, 0), (15, 0), (0xFFFFFFFF, 0), (16, 1), (16, 2), (16, 0x20), (16, 0x40)]
)
async def test_a_header_that_can_not_be(size: int, flags: int) -> None:
    await closes(lambda client: client.send(struct.pack("<HHIII", 1, C.DEVICE_RESET, size, flags, 0)))


@pytest.mark.hostile("W03")
async def test_an_unknown_command_is_refused() -> None:
    async with open_bench(plug()) as bench, bench.client() as client:
        for command in (0, 11, 12, 14, 16, 17, 18, 999):
            answer = await client.ask(command, bytes(16))
            assert answer.error == errno.EOPNOTSUPP
        assert bench.troubles[0] == "command 0 is unknown"


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


@pytest.mark.hostile("W05")
@pytest.mark.parametrize("command", sorted(set(C) - {C.VERSION}))
async def test_a_command_before_the_version(command: C) -> None:
    await closes(lambda client: client.send(emit(1, command)), agree=False)


@pytest.mark.hostile("W05")
@pytest.mark.parametrize(
    "body", [b"", bytes(3), struct.pack("<HH", 1, 0), bytes(4) + b"x\0", bytes(4) + b"[" * 4000 + b"\0"]
)
async def test_a_version_that_can_not_be(body: bytes) -> None:
    head = struct.pack("<HHIII", 1, C.VERSION, 16 + len(body), 0, 0)
    await closes(lambda client: client.send(head + body), agree=False)


@pytest.mark.hostile("W05")
async def test_a_second_version_is_refused() -> None:
    async with open_bench(plug()) as bench, bench.client() as client:
        await refuses(client, errno.EINVAL, C.VERSION, Version(0, 0))


@pytest.mark.hostile("W06")
async def test_mappings_that_can_not_be_leave_the_others() -> None:
    async with open_bench(plug()) as bench, bench.client() as client:
        await client.share()
        base, fd = client.memory.base, [client.memory.fd]
        for start, size in ((base, PAGE), (base + PAGE, PAGE), (base - PAGE, 2 * PAGE), (0, 1 << 40)):
            await refuses(client, errno.EEXIST, C.DMA_MAP, DmaMap(32, 3, 0, start, size), fd)
        for offset, size in ((MIB, PAGE), (PAGE, MIB), (1 << 62, PAGE)):
            await refuses(client, errno.EINVAL, C.DMA_MAP, DmaMap(32, 3, offset, 0, size), fd)
        await refuses(client, errno.EINVAL, C.DMA_MAP, DmaMap(32, 3, 0, MSI_AT, PAGE), fd)
        await client.bring_up()
        await client.works()


@pytest.mark.hostile("W06")
async def test_more_mappings_than_there_may_be() -> None:
    async with open_bench(plug()) as bench, bench.client() as client:
        for i in range(MAPS_MAX):
            await client.do(C.DMA_MAP, DmaMap(32, 3, 0, i * PAGE, PAGE), [client.memory.fd] if i % 2 else [])
        await refuses(client, errno.ENOSPC, C.DMA_MAP, DmaMap(32, 3, 0, MAPS_MAX * PAGE, PAGE), [client.memory.fd])
        await client.do(C.DMA_UNMAP, DmaUnmap(24, 2, 0, 0))
        assert bench.server.memory.mappings == 0


@pytest.mark.hostile("W07")
async def test_memory_of_another_kind_is_refused() -> None:
    async with open_bench(plug()) as bench, bench.client() as client:
        ours, theirs = socket_module.socketpair()
        pipe, folder, event = os.pipe(), os.open("/tmp", os.O_RDONLY), os.eventfd(0)
        unsealed = os.memfd_create("unsealed")
        os.ftruncate(unsealed, MIB)
        for fd in (folder, ours.fileno(), pipe[0], event, unsealed):
            await refuses(client, errno.EINVAL, C.DMA_MAP, client.mapping(), [fd])
        assert "not sealed against shrinking" in bench.troubles[-1]
        for fd in (*pipe, folder, event, unsealed):
            os.close(fd)
        ours.close()
        theirs.close()
        await client.share()


async def test_memory_without_a_descriptor_and_read_only_memory_are_not_written() -> None:
    async with open_bench(plug()) as bench, bench.client() as client:
        await client.do(C.DMA_MAP, client.mapping(flags=1), [client.memory.fd])
        await client.do(C.DMA_MAP, DmaMap(32, 3, 0, 0, PAGE))
        [window] = [bench.server.memory]
        assert window.view(client.memory.base, PAGE).readonly
        assert window.ranges == ((client.memory.base, MIB),)


@pytest.mark.hostile("W08")
async def test_ends_of_mappings_that_do_not_exist() -> None:
    async with open_bench(plug()) as bench, bench.client() as client:
        await client.share()
        base = client.memory.base
        for start, size in ((0, PAGE), (base, PAGE), (base + PAGE, MIB - PAGE), (base, 2 * MIB)):
            await refuses(client, errno.ENOENT, C.DMA_UNMAP, DmaUnmap(24, 0, start, size))
        await client.bring_up()
        await client.works()


@pytest.mark.hostile("W10")
async def test_reads_of_any_size_and_place_give_the_bytes_there() -> None:
    async with open_bench(plug()) as bench, bench.client() as client:
        await client.write(Region.CONFIG, COMMAND, COMMAND_BITS.to_bytes(2, "little"))
        whole = await client.read(Region.CONFIG, 0, 4096)
        for size in (1, 2, 3, 5, 8, 100):
            for offset in (0, 1, 3, 0x3F, 4096 - size):
                assert await client.read(Region.CONFIG, offset, size) == whole[offset : offset + size]
                await client.read(BAR, offset, size)
        for region, offset, size in (
            *((Region.CONFIG, 4096, 1), (Region.CONFIG, 4095, 2), (Region.CONFIG, (1 << 64) - 1, 1)),
            *((BAR, 0x4000, 1), (BAR, 0x3FFF, 2), (1, 0, 1), (Region.ROM, 0, 1), (Region.VGA, 0, 1)),
            *((9, 0, 1), (0xFFFFFFFF, 0, 1)),
        ):
            await refuses(client, errno.EINVAL, C.REGION_READ, RegionRead(offset, region, size))
            await refuses(client, errno.EINVAL, C.REGION_WRITE, RegionWrite(offset, region, bytes(size)))


@pytest.mark.hostile("W11")
async def test_interrupts_that_do_not_exist_are_refused_and_the_others_work() -> None:
    async with open_bench(plug()) as bench, bench.client() as client:
        await client.share()
        await client.bring_up()
        fd = client.call_fd
        for index, start, count, given in (
            *((IrqType.MSIX, 2, 1, [fd]), (IrqType.MSIX, 0, 3, [fd] * 3), (IrqType.MSIX, 0xFFFFFFFF, 1, [fd])),
            *((IrqType.MSIX, 1, 0xFFFFFFFF, [fd]), (IrqType.MSIX, 0, 2, [fd]), (IrqType.MSIX, 0, 1, [fd, fd])),
            *((IrqType.MSI, 0, 1, [fd]), (IrqType.ERROR, 0, 1, [fd]), (99, 0, 1, [fd]), (IrqType.INTX, 0, 2, [fd])),
            *((IrqType.MSIX, 0, 1, [client.memory.fd]), (IrqType.MSIX, 0, 0, [fd]), (IrqType.MSIX, 0, 0, [])),
        ):
            answer = await client.set_irqs(TRIGGER, index, start, count, given)
            assert answer.error == errno.EINVAL, (index, start, count)
        for action in (IrqSet.MASK, IrqSet.UNMASK):
            assert (await client.set_irqs(IrqSet.NONE | action, IrqType.MSIX, 1, 1)).error == errno.EINVAL
            assert (await client.set_irqs(IrqSet.EVENTFD | action, IrqType.INTX, 0, 1, [fd])).error == errno.EINVAL
        client.called()
        await client.works()
        assert client.called()


@pytest.mark.hostile("W12")
async def test_several_writes_stop_at_the_first_that_can_not_be() -> None:
    async with open_bench(plug()) as bench, bench.client() as client:
        for count in (1 << 32, (1 << 64) - 1):
            await refuses(client, errno.EINVAL, C.REGION_WRITE_MULTI, count.to_bytes(8, "little") + bytes(24))
        one = struct.pack("<QQIIQ", 1, 0x4000, BAR, 1, 0)
        await refuses(client, errno.EINVAL, C.REGION_WRITE_MULTI, one)


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

    await closes(nothing, agree=False)


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
