"""An unprivileged process squats on a socket path: it gets no memory, and nothing of a device, unless it may."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from drivers.errors import ProbeError
from support.paths import VNET
from vnet.system.world import open_world
from vnet.topology import parse

STRANGER = 65534
SQUATTER = f"""\
import os, socket, sys
folder, name, made_by = sys.argv[1:]
os.chdir(folder)
def drop():
    os.setresgid(*[{STRANGER}] * 3)
    os.setresuid(*[{STRANGER}] * 3)
with socket.socket(socket.AF_UNIX) as listening:
    if made_by == "stranger":
        drop()
    listening.bind(name)
    if made_by == "us":
        drop()
    listening.listen()
    print("listening", flush=True)
    while True:
        client, _ = listening.accept()
        data, *_ = client.recvmsg(4096)
        print("got", len(data), flush=True)
        client.close()
"""
TOPOLOGY = """\
[hosts.rc]
[devices.disk]
type = "blk"
transport = "vhost_user"
host = "rc"
socket = "{path}"
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A path in a folder in which every user can make files, as in /tmp."""
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(0o1777)
    return folder / "disk.sock"


@contextmanager
def squatter(path: Path, made_by: str = "stranger") -> Iterator[subprocess.Popen[str]]:
    """A process of another user that listens at ``path``, and prints how many bytes each connection sent it.

    The socket is made by that user, or by ``us`` before the process gives up its rights.
    """
    argv = [sys.executable, "-I", "-c", SQUATTER, str(path.parent), path.name, made_by]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "listening\n"
            yield process
        finally:
            process.kill()


def received(process: subprocess.Popen[str]) -> list[str]:
    """A line for each connection, once the process was ended."""
    process.kill()
    assert process.stdout is not None
    return process.stdout.read().splitlines()


@pytest.mark.hostile("X04")
@pytest.mark.usefixtures("privileged")
async def test_a_driver_shares_its_memory_with_no_stranger_unless_the_user_says_so(path: Path) -> None:
    topology = TOPOLOGY.format(path=path)
    with squatter(path) as stranger:
        async with open_world(parse(topology), "squat") as world:
            with pytest.raises(ProbeError) as caught:
                await world.wait_up(timeout=1)
        assert f"{path}: a process of user {STRANGER} listens there, neither ours nor root's" in str(caught.value)
        assert f"to allow it: devices.disk.peer_uid = {STRANGER}" in str(caught.value)
        assert set(received(stranger)) <= {"got 0"}
    await trio.Path(path).unlink()
    with squatter(path) as stranger:
        async with open_world(parse(f"{topology}peer_uid = {STRANGER}"), "squat") as world:
            with pytest.raises(ProbeError):
                await world.wait_up(timeout=1)
        assert "got 12" in received(stranger), "the first message, after which it hangs up"


@pytest.mark.usefixtures("privileged")
async def test_a_program_that_gave_up_its_rights_is_trusted_by_the_owner_of_its_socket(path: Path) -> None:
    with squatter(path, made_by="us") as program:
        async with open_world(parse(TOPOLOGY.format(path=path)), "squat") as world:
            with pytest.raises(ProbeError):
                await world.wait_up(timeout=1)
        assert "got 12" in received(program), "the first message, after which it hangs up"


@pytest.mark.usefixtures("privileged")
async def test_the_owner_of_a_socket_says_nothing_if_others_can_replace_it(path: Path) -> None:
    path.parent.chmod(0o777)
    with squatter(path, made_by="us") as program:
        async with open_world(parse(TOPOLOGY.format(path=path)), "squat") as world:
            with pytest.raises(ProbeError, match="neither ours nor root's"):
                await world.wait_up(timeout=1)
        assert set(received(program)) <= {"got 0"}


@pytest.mark.hostile("X04")
@pytest.mark.usefixtures("privileged")
def test_a_device_is_served_to_no_stranger_unless_the_user_says_so(path: Path, tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    serve = [VNET, "serve", "blk", "--file", str(image), "--size", "1", "--vhost-user", str(path), "--connect"]
    for options, line in (
        ([], f"neither ours nor root's: no memory is shared with it; to allow it: --peer-uid {STRANGER}"),
        (["--peer-uid", str(STRANGER)], "a front end is connected"),
    ):
        with (
            squatter(path) as stranger,
            subprocess.Popen([*serve, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as served,
        ):
            assert served.stdout is not None
            assert served.stderr is not None
            assert line in served.stderr.readline()
            assert "Ctrl-C ends it" in served.stdout.readline()  # a signal before that is no orderly end
            served.terminate()
            assert served.wait(60) == 0
            assert set(received(stranger)) <= {"got 0"}  # a back end never speaks first
        path.unlink()
