"""Clients of a unix socket, and what keeps them out."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

import pytest
import trio

from vnet.ports.listen import RETRY, accept, listen


class Refusing(socket.socket):
    """Fails with these before it lets anybody in."""

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


async def test_whoever_can_not_be_let_in_now_waits_and_is_let_in_later(tmp_path: Path) -> None:
    """A process without descriptors left goes on with the clients it has."""
    told: list[str] = []
    errors = (errno.EMFILE, errno.ECONNABORTED, errno.ENFILE, errno.EAGAIN, errno.ENOMEM)
    with refusing(tmp_path / "s", *errors) as listening, socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "s"))
        began = trio.current_time()
        with await accept(listening, told.append) as taken:
            assert not taken.getblocking()
        assert trio.current_time() - began == pytest.approx(3 * RETRY)
    assert told == [os.strerror(number) for number in (errno.EMFILE, errno.ENFILE, errno.ENOMEM)]


async def test_any_other_error_is_raised(tmp_path: Path) -> None:
    with refusing(tmp_path / "s", errno.EINVAL) as listening, socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "s"))
        with pytest.raises(OSError, match=os.strerror(errno.EINVAL)):
            await accept(listening)


async def test_a_client_comes_through_a_real_socket(tmp_path: Path) -> None:
    kind = socket.SOCK_SEQPACKET
    with listen(tmp_path / "s", kind, 1) as listening, socket.socket(socket.AF_UNIX, kind) as client:
        client.connect(str(tmp_path / "s"))
        with await accept(listening):
            pass
    assert not (tmp_path / "s").exists()
