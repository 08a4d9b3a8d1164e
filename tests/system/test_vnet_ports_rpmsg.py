"""Channels as terminals and sockets, for programs that know nothing of rpmsg. No privileges are needed."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

from drivers.devices.rpmsg import RpmsgBus
from support.machine import RequireTool
from support.paths import TOPOLOGIES, VNET
from vnet.ends.rpmsg import ChannelSpec, RpmsgEnd
from vnet.errors import ConfigError
from vnet.testing.rpmsg import RpmsgOptions, RpmsgPair, open_rpmsg_pair

CHANNEL = "rpmsg-client-sample"


@asynccontextmanager
async def surface(kind: str, path: Path, *, inbox: int = 256) -> AsyncIterator[RpmsgPair]:
    """The channel at the driver's end surfaces, and the device's end is the test's."""
    channel = ChannelSpec(CHANNEL, surface=kind, path=str(path), inbox=inbox)  # type: ignore[arg-type]
    async with open_rpmsg_pair(RpmsgOptions(driver=(channel,))) as pair:
        yield pair


def drops(pair: RpmsgPair, end: int = 0) -> dict[str, int]:
    actual: RpmsgEnd = pair.ends[end]
    return actual.channels[0].surface.drops


def deaf(bus: RpmsgBus) -> dict[str, int]:
    return dict(bus.endpoints[0].statistics().drops)


async def run(*command: str, data: bytes = b"") -> bytes:
    with trio.fail_after(60):
        done = await trio.run_process(command, stdin=data, capture_stdout=True)
    return done.stdout


# A terminal


async def test_echo_writes_and_cat_reads_at_the_terminal(tmp_path: Path, require_tool: RequireTool) -> None:
    require_tool("cat", "sh")
    path = tmp_path / "tty"
    async with surface("pty", path) as pair:
        end = pair.buses[1].create(CHANNEL)
        await run("sh", "-c", f"echo hello world! > {path}")
        with trio.fail_after(60):
            assert await end.receive() == b"hello world!\n"
        await end.send(b"back\r\n")
        assert await run("head", "-c", "6", str(path)) == b"back\r\n"
        await run("sh", "-c", f"printf again > {path}")
        with trio.fail_after(60):
            assert await end.receive() == b"again", "programs come and go, the terminal stays"
        assert not drops(pair)


async def test_cat_shows_the_sent_messages(tmp_path: Path, require_tool: RequireTool) -> None:
    """Every byte as it is, from \\0 to \\xff, in both directions; nothing is echoed."""
    require_tool("head", "sh")
    path = tmp_path / "tty"
    data = bytes(range(256)) * 40
    async with surface("pty", path) as pair:
        end = pair.buses[1].create(CHANNEL)
        shown = bytearray()

        async def show() -> None:
            shown.extend(await run("head", "-c", str(len(data)), str(path)))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(show)
            for at in range(0, len(data), 100):
                await end.send(data[at : at + 100])
        assert shown == data
        file = tmp_path / "data"
        file.write_bytes(data)
        await run("sh", "-c", f"cat {file} > {path}")
        received = bytearray()
        with trio.fail_after(60):
            while len(received) < len(data):
                message = await end.receive()
                assert 0 < len(message) <= 496
                received += message
        assert received == data
        assert not drops(pair)


async def test_a_waiting_terminal_costs_nothing(tmp_path: Path) -> None:
    """A slave stays open: else the last program to leave makes the master read as broken, again and again."""
    path = tmp_path / "tty"
    async with surface("pty", path):
        os.close(os.open(path, os.O_RDWR | os.O_NOCTTY))
        before = time.process_time()
        await trio.sleep(0.5)
        assert time.process_time() - before < 0.1


async def test_an_unread_terminal_holds_up_the_other_channels_only_for_a_moment(tmp_path: Path) -> None:
    path = tmp_path / "tty"
    async with surface("pty", path, inbox=16) as pair:
        deaf_end, other = pair.buses[1].create(CHANNEL), pair.buses[1].create("other")
        sink = pair.buses[0].create("other")
        with trio.fail_after(60):  # a terminal that held up the others for ever would
            for _ in range(1000):
                await deaf_end.send(bytes(400))
            await other.send(b"hello")
            assert await sink.receive() == b"hello"
        assert deaf(pair.buses[0])["inbox_full"] > 0
        # A later reader gets the messages that the terminal and the inbox kept, and all new ones.
        lost = deaf(pair.buses[0])["inbox_full"]
        kept = 400 * (1000 - lost)
        assert len(await run("head", "-c", str(kept), str(path))) == kept
        await trio.sleep(0.1)
        await deaf_end.send(b"now")
        assert await run("head", "-c", "3", str(path)) == b"now"


async def test_a_terminal_is_found_through_a_link_that_goes_with_it(tmp_path: Path) -> None:
    path = tmp_path / "tty"
    path.symlink_to("/dev/pts/99999")  # left by one that was killed
    async with surface("pty", path):
        assert path.readlink().is_char_device()
        terminal = os.open(path, os.O_RDWR | os.O_NOCTTY)
        assert os.isatty(terminal)
        os.close(terminal)
    assert not path.is_symlink()


@pytest.mark.parametrize("kind", ["pty", "socket"])
async def test_an_existing_file_is_left_alone(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "file"
    path.write_text("mine")
    with pytest.raises(ConfigError) as caught:
        async with surface(kind, path):
            pass
    assert caught.value.path == "devices.rpmsg0.driver.channels[0].path"
    assert path.read_text() == "mine"


# A socket


def connect(path: Path) -> socket.socket:
    client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    client.settimeout(5)
    client.connect(str(path))
    return client


async def test_a_packet_is_a_message_in_both_directions(tmp_path: Path) -> None:
    path = tmp_path / "channel"
    async with surface("socket", path) as pair:
        assert path.stat().st_mode & 0o777 == 0o600
        end = pair.buses[1].create(CHANNEL)
        await end.send(b"before a program came")
        with connect(path) as client:
            receive = partial(trio.to_thread.run_sync, client.recv, 1000, abandon_on_cancel=True)
            assert await receive() == b"before a program came"
            for size in (1, 100, 496):
                client.send(bytes(size))
                with trio.fail_after(60):
                    assert await end.receive() == bytes(size)
                await end.send(bytes(size))
                assert await receive() == bytes(size)
            client.send(bytes(497))
            client.send(b"small again")
            with trio.fail_after(60):
                assert await end.receive() == b"small again"
            assert drops(pair) == {"too_long": 1}
    assert not path.exists()


async def test_one_program_has_the_channel_until_it_hangs_up(tmp_path: Path) -> None:
    path = tmp_path / "channel"
    async with surface("socket", path) as pair:
        end = pair.buses[1].create(CHANNEL)
        with connect(path) as first, connect(path) as second:
            second.send(b"second")
            first.send(b"first")
            with trio.fail_after(60):
                assert await end.receive() == b"first"
                first.close()
                assert await end.receive() == b"second"


async def test_an_unconnected_channel_costs_others_nothing(tmp_path: Path) -> None:
    path = tmp_path / "channel"
    async with surface("socket", path, inbox=8) as pair:
        alone, other = pair.buses[1].create(CHANNEL), pair.buses[1].create("other")
        sink = pair.buses[0].create("other")
        for i in range(100):
            await alone.send(str(i).encode())
        await other.send(b"hello")
        with trio.fail_after(60):
            assert await sink.receive() == b"hello"
        assert deaf(pair.buses[0]) == {"inbox_full": 92}
        with connect(path) as client:
            for i in range(8):
                assert await trio.to_thread.run_sync(client.recv, 100) == str(i).encode()


async def test_a_program_that_does_not_receive_is_waited_for_only_for_a_moment(tmp_path: Path) -> None:
    path = tmp_path / "channel"
    async with surface("socket", path, inbox=8) as pair:
        end, other = pair.buses[1].create(CHANNEL), pair.buses[1].create("other")
        sink = pair.buses[0].create("other")
        with connect(path) as client:
            client.send(b"here")
            with trio.fail_after(60):
                await end.receive()
                for _ in range(2000):
                    await end.send(bytes(496))
                await other.send(b"hello")
                assert await sink.receive() == b"hello"
            assert deaf(pair.buses[0])["inbox_full"] > 0


# As a user does it


@pytest.mark.parametrize(("example", "chats"), [("rpmsg_tty", True), ("rpmsg_mediated", False)])
async def test_vnet_up_shows_how_to_reach_a_channel(
    example: str, chats: bool, tmp_path: Path, privileged: None
) -> None:
    """The example's topology, from a folder of its own, since its paths are relative."""
    name = f"rpmsgtest{os.getpid()}"
    path = tmp_path / "rpmsg-sample.tty"
    command = [VNET, "up", "--name", name, str(TOPOLOGIES / f"{example}.toml")]
    child = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=tmp_path)
    try:
        assert child.stdout is not None
        output = b""
        with trio.fail_after(60):
            while b"ends it" not in output:
                more = await child.stdout.receive_some()
                assert more, output.decode()
                output += more
        assert f"screen {path}" in output.decode()
        async with trio.open_nursery() as nursery:
            shown = bytearray()

            async def show() -> None:
                shown.extend(await run("head", "-c", "6", str(path)))

            nursery.start_soon(show)
            await run("sh", "-c", f"echo hello > {path}")
        assert shown == b"hello\n", "the other host sends it back"
        if chats:
            with connect(tmp_path / "rpmsg-chat.sock") as client:
                await run("sh", "-c", f"printf hi > {tmp_path / 'rpmsg-chat.tty'}")
                assert await trio.to_thread.run_sync(client.recv, 100) == b"hi"
    finally:
        child.terminate()
        with trio.fail_after(60):
            await child.wait()
    assert not list(tmp_path.iterdir())  # noqa: ASYNC240
