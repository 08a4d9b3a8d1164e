"""The foreign device: its command, its process, its output, and the ways in which it is gone."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from vnet.check.peer import Peer, fill
from vnet.check.program import OUTPUT, Program
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


def test_a_process_that_is_known_by_its_id_lives_until_it_is_a_zombie() -> None:
    process = subprocess.Popen(["sleep", "1000"])
    peer = Peer(Path("s"), pid=process.pid)
    assert peer.alive()
    assert not peer.spawned
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert not peer.alive()
    process.wait()
    assert not peer.alive()
    assert peer.end() == "ended"


def test_an_unknown_process_is_taken_to_live_and_has_no_figures() -> None:
    peer = Peer(Path("s"))
    assert peer.alive()
    assert peer.figures() is None
    assert peer.output() == ""


async def test_all_that_a_program_started_ends_with_it(tmp_path: Path) -> None:
    """``timeout`` has a process group of its own."""
    place = tmp_path / "pid"
    program = Program(command=["sh", "-c", f"timeout 1000 sh -c 'echo $$ > {place}; exec sleep 1000'"])
    try:
        program.spawn()
        while not (place.exists() and place.read_text().endswith("\n")):  # noqa: ASYNC110  another process writes it
            await trio.sleep(0.01)
        child = Program(pid=int(place.read_text()))
        assert child.alive()
        await program.stop()
        while child.alive():  # noqa: ASYNC110  until init reaps it
            await trio.sleep(0.01)
    finally:
        await program.stop()
        program.close()
