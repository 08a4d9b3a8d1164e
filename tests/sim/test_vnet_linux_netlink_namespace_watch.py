"""A namespace's watch, with a socket's other end in the kernel's place; and queues that can't be opened."""

from __future__ import annotations

import errno
import os
import socket
import struct
import threading
from collections.abc import Iterator

import attrs
import pytest
import trio
import trio.testing

from vnet.linux.netlink.link_table import InterfaceState
from vnet.linux.netlink.namespace_watch import DATAGRAMS_PER_TURN, NamespaceWatch
from vnet.linux.netlink.rtnetlink import Type, messages
from vnet.ports.packet import open as interface
from vnet.ports.packet.open import PortConfig, make_port, make_queues
from vnet.ports.packet.pytun_device import TunTapDevice


class Near(socket.socket):
    """A watch's end; with ``full`` it says once that messages were lost, as a netlink socket does."""

    full = False

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        if self.full:
            self.full = False
            raise OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS))
        return super().recv(size, flags)


@attrs.define
class Kernel:
    """The other end of a watch's socket, ``near``."""

    socket: socket.socket
    near: Near

    def requests(self) -> list[tuple[int, int]]:
        """(type, serial) of the requests since the last call."""
        actual = []
        while True:
            try:
                actual += [(m.type, m.serial) for m in messages(self.socket.recv(65536))]
            except BlockingIOError:
                return actual

    def say(self, kind: int, body: bytes = b"", serial: int = 0) -> None:
        self.socket.send(struct.pack("=IHHII", 16 + len(body), kind, 0, serial, 0) + body)

    def link(self, index: int, name: str, kind: int = Type.NEW_LINK) -> None:
        content = name.encode() + b"\0"
        attribute = struct.pack("=HH", 4 + len(content), 3) + content + bytes(-len(content) % 4)
        self.say(kind, struct.pack("=BxHiII", 0, 1, index, 0, 0) + attribute)

    def end_dump(self, watch: NamespaceWatch) -> None:
        """Answer both dumps with the messages sent before."""
        for expected in (Type.GET_LINK, Type.GET_ADDRESS):
            [(kind, serial)] = self.requests()
            assert kind == expected
            self.say(Type.DONE, serial=serial)
            watch.read()


@attrs.define
class Recorder:
    """An interface that keeps what it is told."""

    rereads: bool = False
    states: list[InterfaceState] = attrs.field(factory=list)
    missed: int = 0

    def update(self, state: InterfaceState) -> None:
        self.states.append(state)

    def missing(self) -> None:
        self.missed += 1


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    far, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with far, Near(fileno=other.detach()) as near:
        for end in (far, near):
            end.setblocking(False)
        yield Kernel(far, near)


async def test_an_interface_is_notified_of_its_own_changes_only(kernel: Kernel) -> None:
    watch, this = NamespaceWatch(kernel.near), Recorder()
    kernel.link(2, "vnet0")
    kernel.end_dump(watch)
    watch.add(2, this)
    kernel.link(3, "eth0")
    kernel.link(2, "vnet0")
    watch.read()
    kernel.link(2, "eth1")
    watch.read()
    assert [state.name for state in this.states] == ["vnet0", "eth1"]
    kernel.link(3, "eth0", Type.DEL_LINK)
    watch.read()
    assert this.missed == 0
    kernel.link(2, "eth1", Type.DEL_LINK)
    watch.read()
    assert this.missed == 1


async def test_the_number_of_dumps_and_of_threads_is_constant_in_the_number_of_interfaces_and_their_changes(
    kernel: Kernel,
) -> None:
    watch, watched = NamespaceWatch(kernel.near), [Recorder() for _ in range(20)]
    for index in range(len(watched)):
        kernel.link(2 + index, f"vnet{index}")
    kernel.end_dump(watch)
    threads = threading.active_count()
    for index, each in enumerate(watched):
        watch.add(2 + index, each)
    for round_number in range(20):
        for index in range(len(watched)):
            kernel.link(2 + index, f"r{round_number}.{index}")
            watch.read()
    assert kernel.requests() == []
    assert threading.active_count() == threads
    assert {len(each.states) for each in watched} == {21}


async def test_an_interface_that_went_while_messages_were_lost_is_missed_when_all_is_read(kernel: Kernel) -> None:
    watch, this = NamespaceWatch(kernel.near), Recorder()
    kernel.link(2, "vnet0")
    kernel.end_dump(watch)
    watch.add(2, this)
    kernel.near.full = True
    watch.read()
    assert this.missed == 0
    kernel.end_dump(watch)
    assert this.missed == 1


async def test_only_silent_changes_that_matter_are_requested(kernel: Kernel) -> None:
    watch, this = NamespaceWatch(kernel.near), Recorder()
    kernel.link(2, "vnet0")
    kernel.end_dump(watch)
    watch.add(2, this)
    await watch.reread()
    assert kernel.requests() == []
    this.rereads = True
    await watch.reread()
    assert kernel.requests() == [(Type.GET_LINK, 0)]


async def test_a_closed_watch_ends_its_tasks_and_reads_nothing(kernel: Kernel) -> None:
    watch = NamespaceWatch(kernel.near)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch.run)
            await trio.testing.wait_all_tasks_blocked()
            watch.close()
            watch.read()
            await watch.reread()


async def test_a_flood_of_messages_is_read_in_turns(kernel: Kernel) -> None:
    watch = NamespaceWatch(kernel.near)
    kernel.end_dump(watch)
    for index in range(DATAGRAMS_PER_TURN + 2):
        kernel.link(2 + index, "x0")
    watch.read(DATAGRAMS_PER_TURN)
    this = Recorder()
    watch.interfaces[DATAGRAMS_PER_TURN + 3] = this
    assert this.states == []
    watch.read(DATAGRAMS_PER_TURN)
    assert [state.name for state in this.states] == ["x0"]


class Device:
    """A descriptor of /dev/net/tun that only counts how many of it are open."""

    opened = 0

    def __init__(self) -> None:
        Device.opened += 1

    def fileno(self) -> int:
        return -1

    def close(self) -> None:
        Device.opened -= 1


@pytest.fixture
def devices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only two queues of an interface can be opened."""
    Device.opened = 0

    def open_device(kind: str, ifname: str, *, multi: bool = False) -> TunTapDevice:
        if Device.opened == 2:
            raise OSError(errno.E2BIG, os.strerror(errno.E2BIG))
        return Device()

    monkeypatch.setattr(interface, "open_device", open_device)
    monkeypatch.setattr(interface, "set_up_interface", lambda *args, **settings: None)


@pytest.mark.usefixtures("devices")
def test_queues_are_closed_if_a_later_one_can_not_be_opened() -> None:
    with pytest.raises(OSError, match="too long"):
        make_queues(PortConfig(kind="tap", queues=3))
    assert Device.opened == 0


@pytest.mark.usefixtures("devices")
def test_queues_are_closed_if_a_later_one_makes_no_port(monkeypatch: pytest.MonkeyPatch) -> None:
    made = 0

    def port(device: TunTapDevice, ifname: str, **settings: object) -> object:
        nonlocal made
        made += 1
        if made == 2:
            raise OSError(errno.EBADFD, os.strerror(errno.EBADFD))
        return object()

    monkeypatch.setattr(interface, "TapPort", port)
    config = PortConfig(kind="tap", queues=2)
    queues = make_queues(config)
    assert Device.opened == 2
    with pytest.raises(OSError, match="bad state"):
        make_port(queues, config)
    assert Device.opened == 0
