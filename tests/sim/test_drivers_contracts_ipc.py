"""Sockets that pass file descriptors, by their contract: when the peer counts as gone."""

from __future__ import annotations

import socket

from drivers.contracts.ipc import FdSocket
from vnet.linux.ipc import UnixSocket


def connected() -> tuple[FdSocket, socket.socket]:
    """Return one end of a connection and, as a bare socket, the peer's end."""
    ours, theirs = socket.socketpair()
    return UnixSocket(ours), theirs


async def test_a_peer_that_is_alive_has_not_hung_up_whether_it_sends_or_not() -> None:
    ours, theirs = connected()
    with theirs:
        assert not ours.hung_up()
        theirs.send(b"unread")
        assert not ours.hung_up()
        assert await ours.receive(64) == (b"unread", [])
        assert not ours.hung_up(), "all is read, but more may come"
        ours.close()


async def test_a_peer_that_closes_has_hung_up_though_its_bytes_still_wait() -> None:
    ours, theirs = connected()
    theirs.send(b"last words")
    theirs.close()
    assert ours.hung_up()
    assert await ours.receive(64) == (b"last words", [])
    assert await ours.receive(64) == (b"", [])
    assert ours.hung_up()
    ours.close()


async def test_a_peer_that_ends_its_half_has_hung_up_and_still_receives() -> None:
    ours, theirs = connected()
    with theirs:
        theirs.shutdown(socket.SHUT_WR)
        assert ours.hung_up()
        await ours.send(b"answer")
        assert theirs.recv(64) == b"answer"
        ours.close()


async def test_a_peer_that_reads_no_more_has_not_hung_up() -> None:
    ours, theirs = connected()
    with theirs:
        theirs.shutdown(socket.SHUT_RD)
        assert not ours.hung_up()
        ours.close()


async def test_a_socket_that_is_closed_counts_as_hung_up() -> None:
    ours, theirs = connected()
    with theirs:
        ours.close()
        ours.close()
        assert ours.hung_up()
