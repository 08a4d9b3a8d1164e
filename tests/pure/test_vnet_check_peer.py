"""The foreign device: its command, its connections, and the ways in which it is gone."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from vnet.check.peer import Peer, fill
from vnet.check.program import OUTPUT
from vnet.check.wire import HungUp, PeerError

LISTENS = """
import socket, sys, time
server = socket.socket(socket.AF_UNIX)
server.bind(sys.argv[1])
server.listen()
print("x" * 5000 + "listening", flush=True)
time.sleep(1000)
"""


@asynccontextmanager
async def _started(path: Path, *command: str) -> AsyncIterator[Peer]:
    peer = Peer(path, command=[*command])
    try:
        await peer.start()
        yield peer
    finally:
        await peer.stop()
        peer.close()


def test_a_command_has_the_path_as_one_word_and_the_number_of_its_worker() -> None:
    assert fill("x --at={socket} -n {worker} 'a b'", Path("/tmp/a b/s"), 3) == [
        "x",
        "--at=/tmp/a b/s",
        "-n",
        "3",
        "a b",
    ]


async def test_a_spawned_device_is_reached_measured_and_ended(tmp_path: Path) -> None:
    path = tmp_path / "s"
    async with _started(path, sys.executable, "-c", LISTENS, str(path)) as peer:
        assert peer.spawned
        (await peer.connect(20)).close()
        assert peer.alive()
        figures = peer.figures()
        assert figures is not None
        assert figures.rss > 0
        assert figures.fds >= 4  # stdin, stdout, stderr and the socket
        text = peer.output()
        assert len(text) <= OUTPUT
        assert text.endswith("xlistening")
        assert peer.output() == ""
        first = peer.pid
        peer.kill()
        assert not peer.alive()
        assert peer.end() == "was killed by SIGKILL"
        assert peer.status == -9
        assert peer.figures() is None
        with pytest.raises(HungUp, match="takes no connection"):
            await peer.connect(20)
        await peer.start()
        assert peer.alive()
        assert peer.pid != first
    assert peer.pid is None


async def test_a_device_that_ends_before_it_listens_is_named_with_its_output(tmp_path: Path) -> None:
    with pytest.raises(PeerError, match=r"ended with status 3\. Its output: no disk"):
        async with _started(tmp_path / "s", "sh", "-c", "echo no disk; exit 3"):
            raise AssertionError("it listens")


async def test_a_socket_that_is_not_there_takes_no_connection(tmp_path: Path) -> None:
    with pytest.raises(HungUp, match=f"takes no connection at {tmp_path}/s: No such file or directory"):
        await Peer(tmp_path / "s").connect(0.05)
