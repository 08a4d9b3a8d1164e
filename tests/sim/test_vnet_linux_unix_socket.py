"""Clients of a unix socket, and what keeps them out."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NoReturn

import pytest
import trio

from vnet.linux.unix_socket import BURST, RATE, Acceptor, connect, listen, remove_stale
from vnet.linux.waits import RETRY


class Refusing(socket.socket):
    """Fails with these errors before it accepts a client."""

    errors: list[int]

    def accept(self) -> tuple[socket.socket, object]:
        if self.errors:
            number = self.errors.pop(0)
            raise OSError(number, os.strerror(number))
        return super().accept()


def refusing(path: Path, *errors: int) -> Refusing:
    made = Refusing(socket.AF_UNIX, socket.SOCK_STREAM)
    made.errors = list(errors)
    made.bind(str(path))
    made.listen()
    made.setblocking(False)
    return made


async def test_a_client_waits_while_the_process_lacks_descriptors_or_memory(tmp_path: Path) -> None:
    """The shortage is reported once per client, however many attempts it takes."""
    events: list[str] = []
    errors = (errno.EMFILE, errno.ECONNABORTED, errno.ENFILE, errno.EAGAIN, errno.ENOMEM, errno.ENOBUFS)
    with refusing(tmp_path / "s", *errors) as listening, socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "s"))
        began = trio.current_time()
        with await Acceptor(listening, events.append).accept() as taken:
            assert not taken.getblocking()
        assert trio.current_time() - began == pytest.approx(4 * RETRY)
    assert events == [os.strerror(errno.EMFILE)]


async def test_a_client_waits_while_the_kernel_lacks_memory_for_the_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trio's epoll set refuses the socket twice: for lack of memory, and because the user has too many watches."""
    errors, wait, events = [errno.ENOMEM, errno.ENOSPC], trio.lowlevel.wait_readable, list[str]()

    async def fail_first(source: socket.socket) -> None:
        if errors:
            number = errors.pop(0)
            raise OSError(number, os.strerror(number))
        await wait(source)

    monkeypatch.setattr(trio.lowlevel, "wait_readable", fail_first)
    with refusing(tmp_path / "s") as listening, socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "s"))
        with await Acceptor(listening, events.append).accept():
            pass
    assert events == [os.strerror(errno.ENOMEM)]


async def test_any_other_error_is_raised(tmp_path: Path) -> None:
    with refusing(tmp_path / "s", errno.EINVAL) as listening, socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "s"))
        with pytest.raises(OSError, match=os.strerror(errno.EINVAL)):
            await Acceptor(listening).accept()


async def test_a_client_comes_through_a_real_socket(tmp_path: Path) -> None:
    kind = socket.SOCK_SEQPACKET
    with listen(tmp_path / "s", kind, 1) as listening, socket.socket(socket.AF_UNIX, kind) as client:
        client.connect(str(tmp_path / "s"))
        with await Acceptor(listening).accept():
            pass
    assert not (tmp_path / "s").exists()


async def test_a_storm_of_clients_is_accepted_at_a_limited_rate(tmp_path: Path) -> None:
    """Each costs a session: without a limit one client takes the turns of all that this process serves."""
    accepted = 0
    with listen(tmp_path / "s", socket.SOCK_STREAM, 16) as listening:
        acceptor = Acceptor(listening)

        async def take() -> None:
            nonlocal accepted
            while True:
                (await acceptor.accept()).close()
                accepted += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(take)
            for _ in range(3000):
                with suppress(BlockingIOError):  # the backlog is full
                    connect(tmp_path / "s").close()
                await trio.sleep(0.001)
            nursery.cancel_scope.cancel()
    assert BURST + 2.9 * RATE <= accepted <= BURST + 3.1 * RATE


async def test_clients_that_come_now_and_then_do_not_wait(tmp_path: Path) -> None:
    with listen(tmp_path / "s", socket.SOCK_STREAM, 16) as listening:
        acceptor, began = Acceptor(listening), trio.current_time()
        for _ in range(3):
            for _ in range(BURST):
                connect(tmp_path / "s").close()
                (await acceptor.accept()).close()
            await trio.sleep(BURST / RATE)
    assert trio.current_time() - began == pytest.approx(3 * BURST / RATE)


KINDS = (socket.SOCK_STREAM, socket.SOCK_SEQPACKET)


@contextmanager
def full(path: Path, kind: socket.SocketKind) -> Iterator[None]:
    """A socket whose owner does not accept, and whose backlog is full."""
    with ExitStack() as stack:
        owner = stack.enter_context(socket.socket(socket.AF_UNIX, kind))
        owner.bind(str(path))
        owner.listen(0)
        while True:
            client = stack.enter_context(socket.socket(socket.AF_UNIX, kind))
            client.setblocking(False)
            try:
                client.connect(str(path))
            except BlockingIOError:
                break
        yield


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("theirs", KINDS)
def test_a_socket_whose_owner_does_not_accept_is_reported_at_once(
    tmp_path: Path, kind: socket.SocketKind, theirs: socket.SocketKind
) -> None:
    """A blocking connect would stop the whole process until the owner accepts."""
    path = tmp_path / "s"
    with full(path, theirs):
        with pytest.raises(OSError, match="another program listens there already") as caught, listen(path, kind, 1):
            pass
        assert caught.value.errno == errno.EADDRINUSE
        assert path.is_socket()


@pytest.mark.parametrize("kind", KINDS)
def test_the_socket_of_a_killed_process_is_replaced(tmp_path: Path, kind: socket.SocketKind) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX, kind) as dead:
        dead.bind(str(path))
    with listen(path, kind, 1), socket.socket(socket.AF_UNIX, kind) as client:
        client.connect(str(path))


def put_link(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(f"{path}.elsewhere")
    path.symlink_to(f"{path}.elsewhere")


@pytest.mark.parametrize("put", [Path.touch, Path.mkdir, put_link])
def test_anything_but_a_socket_is_left_alone(tmp_path: Path, put: Callable[[Path], None]) -> None:
    path = tmp_path / "s"
    put(path)
    before = path.lstat()
    with pytest.raises(FileExistsError, match="is no socket; it is left alone"):
        remove_stale(path)
    assert os.path.samestat(path.lstat(), before)


def test_an_error_names_the_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(socket.socket, "listen", fail)
    with pytest.raises(OSError, match="No space left") as caught, listen(tmp_path / "s", socket.SOCK_STREAM, 1):
        pass
    assert caught.value.filename == str(tmp_path / "s")
    assert not (tmp_path / "s").exists()
