"""Memory that a vfio-user client does not share: our device reads and writes it by messages."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest
import trio
from trio.testing import MockClock

from drivers.carriers.framing import ProtocolError
from drivers.errors import TransportLost
from drivers.transports.pci.back import BAR, NOTIFY_AT
from drivers.transports.pci.registers import Common
from rings.memory import Addr
from rings.status import Status
from support.rigs.two_processes import clock
from support.rigs.vfio_user import MIB, Bench, C, Client, open_bench, plug
from support.rigs.vfio_user_dma import PrivateClient, with_private_client
from vnet.linux import patience
from vnet.linux.ipc import socket_pair
from vnet.vfio_user.accesses import DmaAccess, DmaData, RegionWrite
from vnet.vfio_user.constants import MESSAGE_MAX, HeaderFlag, Region
from vnet.vfio_user.messages import Message, emit, error, reply
from vnet.vfio_user.payloads import DeviceInfo, DmaMap, DmaUnmap

__all__ = ["clock"]  # a fixture

POSTED_QUESTION = emit(9, C.DEVICE_GET_INFO, DeviceInfo(16, 0, 0, 0), HeaderFlag.NO_REPLY)
DOORBELL = emit(77, C.REGION_WRITE, RegionWrite(NOTIFY_AT, BAR, bytes(2)), HeaderFlag.NO_REPLY)


def violations(bench: Bench) -> list[Exception]:
    """Return the errors of connections, but for ends of clients that had not answered each request."""
    return [error for error in bench.errors if not isinstance(error, TransportLost)]


async def use_disk(client: PrivateClient) -> None:
    await client.share()
    await client.bring_up()
    await client.works()


async def test_a_disk_works_in_memory_that_the_client_keeps(clock: MockClock) -> None:
    async def work(client: PrivateClient) -> None:
        await use_disk(client)
        assert {C.DMA_READ, C.DMA_WRITE} == {*client.requests}
        assert client.called()

    async with open_bench(plug()) as bench:
        await with_private_client(bench, work)
        assert not violations(bench)
        await bench.serves_another()


async def test_rings_in_shared_memory_and_buffers_in_memory_that_is_kept(clock: MockClock) -> None:
    async def work(client: PrivateClient) -> None:
        half = MIB // 2
        await client.do(C.DMA_MAP, client.mapping(0, half), [client.memory.fd])
        await client.share(half, half)
        await client.bring_up()
        client.memory.alloc(half)  # buffers come after the rings
        await client.works()
        assert {C.DMA_READ, C.DMA_WRITE} == {*client.requests}

    async with open_bench(plug()) as bench:
        await with_private_client(bench, work)
        assert not violations(bench)


async def test_rings_outlive_kept_memory_that_is_mapped_again(clock: MockClock) -> None:
    async def work(client: PrivateClient) -> None:
        await use_disk(client)
        half = MIB // 2
        for parts in [((0, half), (half, half)), ((0, MIB),)] * 3:
            await client.do(C.DMA_UNMAP, DmaUnmap(24, 2, 0, 0))
            for start, size in parts:
                await client.share(start, size)
            await client.works()
        assert not await client.get(Common.DEVICE_STATUS) & Status.NEEDS_RESET

    async with open_bench(plug()) as bench:
        await with_private_client(bench, work)
        assert not violations(bench)


async def test_doorbells_directly_behind_replies_lose_nothing(clock: MockClock) -> None:
    """The call that receives a reply takes the first byte of the next message with it."""
    left = 5

    def ring_again(_: Message, data: bytes) -> bytes:
        nonlocal left
        left -= left > 0
        return data + DOORBELL if left else data

    async def work(client: PrivateClient) -> None:
        await client.share()
        await client.bring_up()
        client.lie = ring_again
        for _ in range(3):
            await client.send(DOORBELL)
        await client.works()
        assert not left

    async with open_bench(plug()) as bench:
        await with_private_client(bench, work)
        assert not violations(bench)


async def test_commands_are_served_while_a_request_waits(clock: MockClock) -> None:
    """QEMU answers no request while it waits for the reply to a read."""
    held: list[tuple[Message, bytes]] = []

    def hold(message: Message, data: bytes) -> bytes | None:
        held.append((message, data))
        return None

    async def work(client: PrivateClient) -> None:
        await client.share()
        await client.bring_up()
        client.lie = hold
        await client.send(DOORBELL)
        for _ in range(3):
            assert await client.get(Common.NUM_QUEUES) >= 1
        client.lie = None
        for _, data in held:
            await client.send(data)
        await client.works()

    async with open_bench(plug()) as bench:
        await with_private_client(bench, work)
        assert not violations(bench)


async def test_commands_for_another_function_are_served_while_a_request_waits(clock: MockClock) -> None:
    """QEMU answers no request while it waits for the reply of another function's server, which may be this process."""
    ours, theirs = socket_pair()

    async def work(client: PrivateClient) -> None:
        held: list[bytes] = []
        await client.share()
        await client.bring_up()
        client.lie = lambda _, data: held.append(data)
        await client.send(DOORBELL)
        while not held:  # noqa: ASYNC110  as a driver that polls
            await trio.sleep(0.01)
        second = Client(ours)
        await second.agree()
        assert await second.read(Region.CONFIG, 0, 2) == b"\xf4\x1a"
        client.lie = None
        for data in held:
            await client.send(data)
        await client.works()
        second.close()

    async with open_bench(plug()) as bench, open_bench(plug()) as other:
        other.nursery.start_soon(other.converse, theirs)
        await with_private_client(bench, work)
        assert not violations(bench)
        while other.server.connected:  # noqa: ASYNC110  there is nothing else to wait for
            await trio.sleep(0.01)


async def test_a_function_is_reset_while_a_request_waits(clock: MockClock) -> None:
    held: list[bytes] = []

    def hold(_: Message, data: bytes) -> bytes | None:
        held.append(data)
        return None

    async def work(client: PrivateClient) -> None:
        await client.share()
        await client.bring_up()
        client.lie = hold
        await client.send(DOORBELL)
        assert not (await client.ask(C.DEVICE_RESET)).error
        assert not (await client.ask(C.DMA_UNMAP, DmaUnmap(24, 2, 0, 0))).error
        client.lie = None
        for data in held:
            await client.send(data)
        await use_disk(client)

    async with open_bench(plug()) as bench:
        await with_private_client(bench, work)
        assert not violations(bench)


@pytest.mark.hostile("W22")
async def test_a_client_that_refuses_breaks_its_rings_until_a_reset(clock: MockClock) -> None:
    async def work(client: PrivateClient) -> None:
        await client.share()
        await client.bring_up()
        client.lie = lambda message, _: error(message, errno.EFAULT)
        while not await client.get(Common.DEVICE_STATUS) & Status.NEEDS_RESET:
            await client.ring_doorbell()
        client.lie = None
        await client.bring_up()
        await client.works()

    async with open_bench(plug()) as bench:
        await with_private_client(bench, work)
        assert not violations(bench)


def _access(message: Message) -> DmaAccess:
    return DmaAccess.parse(message.body[:16])


def _data(message: Message, *, more: int = 0, at: int = 0) -> bytes:
    access = _access(message)
    return reply(message, DmaData(access.address + at, bytes(access.count + more)).emit())


LIES: dict[str, Callable[[Message, bytes], bytes | None]] = {
    "another number": lambda _, data: bytes((data[0] ^ 1,)) + data[1:],
    "another command": lambda message, _: reply(Message(message.number, C.DMA_WRITE, 0, b"", []), message.body[:16]),
    "more data": lambda message, _: _data(message, more=1),
    "less data": lambda message, _: _data(message, more=-1),
    "another address": lambda message, _: _data(message, at=4096),
    "a size that is not that of the data": lambda message, _: reply(message, DmaAccess(0, 1 << 40).emit()),
    "no body": lambda message, _: reply(message),
    "two replies": lambda _, data: 2 * data,
    "a size of 4 GiB": lambda _, data: data[:4] + b"\xff" * 4 + data[8:],
    "flags that are not known": lambda _, data: data[:8] + b"\x03" + data[9:],
    "a long body": lambda message, _: reply(message, bytes(MESSAGE_MAX - 16)),
    "commands without end": lambda _, __: (
        1100 * emit(9, C.DEVICE_GET_INFO, DeviceInfo(16, 0, 0, 0), HeaderFlag.NO_REPLY)
    ),
}


@pytest.mark.hostile("W22")
@pytest.mark.parametrize("lie", LIES)
async def test_a_wrong_reply_ends_the_connection_and_nothing_else(lie: str, clock: MockClock) -> None:
    async def work(client: PrivateClient) -> None:
        await client.share()
        await client.bring_up()
        client.lie = LIES[lie]
        try:
            while True:
                await client.ring_doorbell()
        except (EOFError, TransportLost):
            pass

    async with open_bench(plug()) as bench:
        await with_private_client(bench, work)
        [problem] = bench.errors
        assert isinstance(problem, ProtocolError)
        assert "takes too long" not in str(problem), "the reply itself is refused"
        await bench.serves_another()


@pytest.mark.hostile("W22")
async def test_a_reply_that_no_request_waits_for_ends_the_connection(clock: MockClock) -> None:
    async def work(client: PrivateClient) -> None:
        await client.send(emit(1, C.DMA_READ, DmaData(0, b"x"), 1))
        with pytest.raises(EOFError):
            await client.receive()

    async with open_bench(plug()) as bench:
        await with_private_client(bench, work)
        assert "no such request waits" in str(bench.errors)


@pytest.mark.hostile("W22")
async def test_silence_ends_the_connection(clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "EACH", 0.2)

    async def work(client: PrivateClient) -> None:
        await client.share()
        await client.bring_up()
        client.lie = lambda _, __: None
        await client.send(DOORBELL)
        with pytest.raises(EOFError):
            await client.receive()

    async with open_bench(plug()) as bench:
        await with_private_client(bench, work)
        assert "the client takes too long to answer" in str(bench.errors)
        await bench.serves_another()


@pytest.mark.hostile("W22")
async def test_a_client_that_is_gone_while_a_request_waits(clock: MockClock) -> None:
    async def work(client: PrivateClient) -> None:
        await client.share()
        await client.bring_up()
        client.lie = lambda _, __: None
        await client.send(DOORBELL)

    async with open_bench(plug()) as bench:
        await with_private_client(bench, work)
        assert bench.server.memory.mappings == 0
        await bench.serves_another()


@pytest.mark.hostile("W22")
async def test_buffers_of_any_size_cost_no_memory(clock: MockClock) -> None:
    """A descriptor in memory of 1 TiB that is not shared: the chain is refused, nothing is read."""

    async def work(client: PrivateClient) -> None:
        await client.share()
        await client.do(C.DMA_MAP, DmaMap(32, 3, 0, 1 << 41, 1 << 40))
        await client.bring_up()
        header, status = client.memory.alloc(16), client.memory.alloc(1)
        client.ring.add([(header.addr, 16)], [(Addr(1 << 41), 1 << 31), (status.addr, 1)], 0)
        client.ring.publish()
        while not await client.get(Common.DEVICE_STATUS) & Status.NEEDS_RESET:
            await client.ring_doorbell()
        await client.bring_up()
        await client.works()

    async with open_bench(plug()) as bench:
        await with_private_client(bench, work)
        assert not violations(bench)
