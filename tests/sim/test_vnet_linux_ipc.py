"""Objects shared by two processes: sockets that pass file descriptors, sealed memory, events."""

from __future__ import annotations

import errno
import os
import resource
import select
import socket
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import NoReturn

import pytest
import trio
import trio.testing

from drivers.contracts.ipc import Handle, Unusable
from drivers.errors import TransportLost
from vnet.linux.ipc import FileHandle, LocalIpc, connect, socket_pair
from vnet.linux.memory import HostMemory
from vnet.linux.poller import Poller
from vnet.testing import fds


def highest_fd() -> int:
    return max(int(entry.name) for entry in Path("/proc/self/fd").iterdir())


@pytest.fixture
def poller() -> Iterator[Poller]:
    poller = Poller()
    yield poller
    poller.close()


@pytest.fixture
def ipc(poller: Poller) -> LocalIpc:
    return LocalIpc(poller)


async def test_bytes_and_file_descriptors_cross_together_and_the_sender_keeps_its_own() -> None:
    before = fds()
    ours, theirs = socket_pair()
    reader, writer = map(FileHandle, os.pipe())
    await ours.send(b"header", [writer])
    data, [copy] = await theirs.receive(4)
    assert data == b"head"
    assert (await theirs.receive(4)) == (b"er", [])
    assert isinstance(copy, FileHandle)
    writer.close()
    os.write(copy.fileno(), b"through the copy")
    assert os.read(reader.fileno(), 64) == b"through the copy"
    ours.close()
    assert (await theirs.receive(1)) == (b"", [])
    with pytest.raises(TransportLost):
        await theirs.send(b"x")
    for handle in (copy, reader, theirs):
        handle.close()
        handle.close()
    assert fds() <= before, "fewer are fine: other objects were collected meanwhile"


async def test_more_bytes_than_a_socket_holds_are_sent_whole() -> None:
    ours, theirs = socket_pair()
    sent = bytes(range(256)) * 8192
    received = bytearray()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ours.send, sent)
        while len(received) < len(sent):
            received += (await theirs.receive(65536))[0]
    assert received == sent
    ours.close()
    theirs.close()


@pytest.mark.hostile("V06")
async def test_file_descriptors_that_find_no_room_are_an_error_and_none_leaks() -> None:
    ours, theirs = socket_pair()
    null = FileHandle(os.open("/dev/null", os.O_RDONLY))
    await ours.send(b"x", [null] * 8)
    before, limits = fds(), resource.getrlimit(resource.RLIMIT_NOFILE)
    gaps: list[int] = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest_fd() + 4, limits[1]))
        with pytest.raises(OSError, match="Too many"):
            gaps.extend(os.dup(0) for _ in count())
        for _ in range(3):
            os.close(gaps.pop())
        with pytest.raises(Unusable, match="no room"):
            await theirs.receive(1)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for fd in gaps:
            os.close(fd)
    assert fds() <= before, "fewer are fine: other objects were collected meanwhile"
    for handle in (ours, theirs, null):
        handle.close()


async def test_closing_a_socket_ends_who_waits_for_it() -> None:
    ours, theirs = socket_pair()
    async with trio.open_nursery() as nursery:

        async def wait() -> None:
            with pytest.raises(TransportLost):
                await ours.receive(1)

        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        ours.close()
    theirs.close()


async def test_a_listener_is_reached_at_its_path(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with pytest.raises(FileNotFoundError):
        await connect(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(str(path))
        with pytest.raises(ConnectionRefusedError):
            await connect(path)
        listening.listen(0)
        first = await connect(path)
        with pytest.raises(BlockingIOError):  # a full backlog is no connection
            await connect(path)
        first.close()


@pytest.mark.hostile("V05")
@pytest.mark.hostile("V08")
@pytest.mark.hostile("V09")
def test_only_sealed_memory_of_that_size_is_mapped(ipc: LocalIpc, poller: Poller, tmp_path: Path) -> None:
    before = fds()
    host = HostMemory(1 << 20)
    memory = FileHandle.copy(host.fd)
    shared = ipc.map(memory, 8192, 4096)
    shared.view[0] = 7
    assert host.view(host.base + 4096, 1)[0] == 7  # type: ignore[arg-type]
    shared.close()
    shared.close()
    odd = ipc.map(memory, 100, 5000)
    assert len(odd.view) == 100
    kept = odd.view[:1]
    odd.close()
    assert kept[0] == 0, "a slice that is still held keeps its memory"
    kept.release()
    for size, offset in ((1 << 20, 4096), (0, 0), (1, 1 << 63), (1 << 64, 0), (4096, 1 << 20)):
        with pytest.raises(Unusable):
            ipc.map(memory, size, offset)
    file = FileHandle(os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT))
    os.ftruncate(file.fileno(), 4096)
    with pytest.raises(Unusable, match="sealed"):
        ipc.map(file, 4096, 0)
    LocalIpc(poller, allow_unsealed=True).map(file, 4096, 0).close()
    pipe = [FileHandle(fd) for fd in os.pipe()]
    folder = FileHandle(os.open(tmp_path, os.O_RDONLY))
    read_only = FileHandle(os.open(f"/proc/self/fd/{host.fd}", os.O_RDONLY))
    for wrong in (*pipe, folder, read_only):
        with pytest.raises(Unusable):
            ipc.map(wrong, 4096, 0)
    made, handle = ipc.make(100)
    assert bytes(made.view) == bytes(100)
    again = ipc.map(handle, 100, 0)
    again.view[:3] = b"abc"
    assert bytes(made.view[:3]) == b"abc"
    things: list[Handle] = [memory, file, *pipe, folder, read_only, made, handle, again, host]
    for thing in things:
        thing.close()
    assert fds() <= before, "fewer are fine: other objects were collected meanwhile"


@pytest.mark.hostile("V18")
async def test_every_notification_arrives_once_also_an_early_one(ipc: LocalIpc, poller: Poller) -> None:
    before = fds()
    messages: list[int] = []
    event = ipc.make_event()
    assert isinstance(event, FileHandle)
    notifier = ipc.notifier(FileHandle.copy(event.fileno()))
    notifier.notify()
    watch = ipc.watch(event, lambda: messages.append(1))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(poller.run)
        for events in range(1, 5):
            await trio.testing.wait_all_tasks_blocked(0.001)
            assert len(messages) == events, "an event that stays readable is no reason to go round"
            notifier.notify()
        watch.close()
        watch.close()
        notifier.notify()
        os.eventfd_write(FileHandle.fileno(notifier), (1 << 64) - 10)  # type: ignore[arg-type]
        for _ in range(20):
            notifier.notify()  # a full one counts as notified, and no task waits
        nursery.cancel_scope.cancel()
    notifier.close()
    notifier.notify()
    assert fds() <= before, "fewer are fine: other objects were collected meanwhile"


@pytest.mark.hostile("V05")
async def test_a_descriptor_of_another_kind_is_refused_and_closed(ipc: LocalIpc, tmp_path: Path) -> None:
    before = fds()

    path = tmp_path / "disk"
    path.write_bytes(b"data")

    def wrong() -> Iterator[Handle]:
        for end in os.pipe():
            yield FileHandle(end)
        yield FileHandle(os.open(tmp_path, os.O_RDONLY))
        yield FileHandle(os.open(path, os.O_RDWR))
        with select.epoll() as epoll:  # has no file type, like an eventfd
            yield FileHandle(os.dup(epoll.fileno()))

    for handle in wrong():
        with pytest.raises(Unusable):
            ipc.notifier(handle)
    for handle in wrong():
        with pytest.raises(Unusable):
            ipc.watch(handle, lambda: None)
    datagrams = (FileHandle(end.detach()) for end in socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM))
    for handle in (*wrong(), *datagrams):
        with pytest.raises(Unusable):
            ipc.channel(handle)
    assert path.read_bytes() == b"data", "finding out what a descriptor is writes to no file"
    ours, handle = ipc.make_channel()
    theirs = ipc.channel(handle)
    await ours.send(b"hello")
    assert (await theirs.receive(5))[0] == b"hello"
    ours.close()
    theirs.close()
    assert fds() <= before, "fewer are fine: other objects were collected meanwhile"


async def test_a_wait_without_memory_for_it_tells_its_caller_to_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """A look without a wait says that the peer is there: it serves as before."""

    class Poll:
        register = staticmethod(lambda *_: None)

        def poll(self, _: float) -> NoReturn:
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    ours, theirs = socket_pair()
    monkeypatch.setattr(select, "poll", Poll)
    assert ours.instant.wait(select.POLLIN, 0.001)
    assert not ours.hung_up()
    ours.close()
    theirs.close()
