"""The control socket: QMP that stock tools speak, clients that can't hurt each other, files that say who runs."""

from __future__ import annotations

import errno
import os
import random
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from support.rigs.qmp import Client, open_client
from support.rigs.run_dir import contents, put_stale_socket
from vnet.errors import ControlError
from vnet.qmp import server
from vnet.qmp.client import ask
from vnet.qmp.commands import COMMANDS, Context
from vnet.qmp.qapi import Empty
from vnet.qmp.server import ControlServer
from vnet.qmp.session import MESSAGE_MAX
from vnet.system.claim import claim
from vnet.system.state import socket_path, state_path
from vnet.system.world import World, open_world
from vnet.topology import DEFAULT, parse

IN_MEMORY = parse(DEFAULT.replace('"tun"', '"memory"'))
NAME = "t-control"

in_thread = trio.to_thread.run_sync


def refused(desc: str, kind: str = "GenericError") -> dict[str, object]:
    return {"error": {"class": kind, "desc": desc}}


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with open_world(IN_MEMORY, NAME) as world:
        await world.wait_up()
        yield world


# One conversation


async def test_a_conversation_goes_as_qemus_does(world: World) -> None:
    async with open_client(ControlServer(world)) as client:
        assert "QMP" in await client.read()
        expected = refused("Expecting capabilities negotiation with 'qmp_capabilities'", "CommandNotFound")
        assert await client.say({"execute": "query-vnet"}) == expected
        assert await client.say({"execute": "qmp_capabilities", "id": 1}) == {"return": {}, "id": 1}
        again = await client.say({"execute": "qmp_capabilities"})
        assert again == refused("Capabilities negotiation is already complete, command ignored", "CommandNotFound")
        assert await client.say({"execute": "frob", "id": ["x"]}) == {
            **refused("The command frob has not been found", "CommandNotFound"),
            "id": ["x"],
        }
        commands = await client.say({"execute": "query-commands"})
        assert commands == {"return": [{"name": name} for name in COMMANDS]}
        reply = await client.say({"execute": "query-vnet"})
        assert isinstance(reply["return"], dict)
        assert reply["return"]["name"] == NAME


async def test_a_link_is_taken_down_and_up_by_name(world: World) -> None:
    async with open_client(ControlServer(world)) as client:
        await client.shake_hands()
        for up in (False, False, True):
            down = {"execute": "set_link", "arguments": {"name": "pcie0", "up": up}}
            assert await client.say(down) == {"return": {}}
            assert world.links["pcie0"].up is up
        unknown = {"execute": "set_link", "arguments": {"name": "x", "up": True}}
        assert await client.say(unknown) == refused("link 'x': must be one of pcie0", "DeviceNotFound")
        await world.wait_up()
    assert world.links["pcie0"].epoch == 2


async def test_a_device_is_reset_from_its_drivers_side_and_comes_up_again(world: World) -> None:
    device = world.devices["net0"]
    before = device.vhost.resets
    async with open_client(ControlServer(world)) as client:
        await client.shake_hands()
        assert await client.say({"execute": "device-reset", "arguments": {"name": "net0"}}) == {"return": {}}
        unknown = {"execute": "device-reset", "arguments": {"name": "x"}}
        assert await client.say(unknown) == refused("device 'x': must be one of net0", "DeviceNotFound")
    await world.wait_up()
    assert device.vhost.resets > before
    world.memory_port("net0", "driver").inject(bytes(60))
    assert (await world.memory_port("net0", "device").receive())[1] == bytes(60)


async def test_quit_is_answered_before_anything_ends(world: World) -> None:
    server = ControlServer(world)
    async with open_client(server) as client:
        await client.shake_hands()
        assert not server.quit.is_set()
        assert await client.say({"execute": "quit"}) == {"return": {}}
        with trio.fail_after(1):
            await server.quit.wait()


# Clients that behave badly


async def test_garbage_is_refused_and_the_conversation_goes_on(world: World) -> None:
    async with open_client(ControlServer(world)) as client:
        await client.shake_hands()
        for garbage in (b"\xff\xfe\n", b"{{{\n", b"[]\n", b'{"execute": \n', b"[" * 60000 + b"\n", b"1" * 5000 + b"\n"):
            assert "error" in await client.say(garbage)
        assert "return" in await client.say({"execute": "query-vnet"})


async def test_random_bytes_get_only_errors(world: World) -> None:
    dice = random.Random(2)
    async with open_client(ControlServer(world)) as client:
        await client.shake_hands()
        for size in (1, 10, 100, 1000, 10000):
            await client.stream.send_all(dice.randbytes(size) + b"\n")
        reply = await client.say({"execute": "query-commands", "id": "last"})
        while reply.get("id") != "last":
            assert "error" in reply
            reply = await client.read()


@pytest.mark.parametrize("message", [b"x" * (MESSAGE_MAX + 1), b'{"a": "' + b"x" * MESSAGE_MAX + b'"}'])
async def test_a_message_without_end_is_refused_and_the_connection_closed(world: World, message: bytes) -> None:
    async with open_client(ControlServer(world)) as client:
        await client.shake_hands()
        assert await client.say(message) == refused(f"a message may have at most {MESSAGE_MAX} bytes")
        with pytest.raises(EOFError):
            await client.read()


async def test_a_client_that_sends_half_a_command_or_does_not_read_holds_up_no_other(world: World) -> None:
    server = ControlServer(world)
    async with trio.open_nursery() as nursery, open_client(server) as half, open_client(server) as good:
        blocked = BlockedStream()
        nursery.start_soon(server.converse, blocked)
        await half.shake_hands()
        await half.stream.send_all(b'{"execute": "que')
        await good.shake_hands()
        assert "return" in await good.say({"execute": "query-vnet"})
        assert await half.say(b'ry-commands"}') == await good.say({"execute": "query-commands"})
        assert blocked.waiting
        nursery.cancel_scope.cancel()


class BlockedStream(trio.abc.Stream):
    """A client whose buffers are full."""

    waiting = False

    async def send_all(self, data: object) -> None:
        self.waiting = True
        await trio.sleep_forever()

    async def wait_send_all_might_not_block(self) -> None:
        await trio.sleep_forever()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.sleep_forever()
        raise AssertionError

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


async def test_a_client_that_leaves_in_the_middle_is_forgotten(world: World) -> None:
    server = ControlServer(world)
    async with open_client(server) as client:
        await client.shake_hands()
        await client.stream.send_all(b'{"execute": "query-vnet"}' * 10 + b'{"exec')
    async with open_client(server) as client:
        await client.shake_hands()
        assert "return" in await client.say({"execute": "query-vnet"})


# Sockets and files


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@asynccontextmanager
async def serving(world: World, name: str = NAME) -> AsyncIterator[ControlServer]:
    server = ControlServer(world)
    with claim(name, IN_MEMORY):
        async with trio.open_nursery() as nursery:
            await nursery.start(server.serve, socket_path(name))
            yield server
            nursery.cancel_scope.cancel()


@pytest.mark.hostile("X04")
async def test_a_socket_is_for_its_owner_only_and_gone_afterwards(world: World, run_dir: Path) -> None:
    async with serving(world):
        assert [mode(path) for path in (socket_path(NAME), state_path(NAME), run_dir)] == [0o600, 0o600, 0o700]
        actual = await in_thread(ask, NAME, "query-vnet")
        assert isinstance(actual, dict)
        assert actual["name"] == NAME
    assert contents(run_dir) == []
    with pytest.raises(ControlError, match=f"{NAME} is not running; try: vnet up"):
        await in_thread(ask, NAME, "query-vnet")


@pytest.mark.hostile("X04")
async def test_another_users_process_gets_no_answer(
    world: World, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "owner_uid", lambda _: os.geteuid() + 1)
    async with serving(world):
        with pytest.raises(ControlError, match="closed the connection"):
            await in_thread(ask, NAME, "query-vnet")


async def test_one_client_too_many_is_hung_up_on_until_another_leaves(
    world: World, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "CLIENTS_MAX", 1)
    async with serving(world):
        async with await trio.open_unix_socket(socket_path(NAME)) as stream:
            await Client(stream).shake_hands()
            with pytest.raises(ControlError, match="there are 1 clients already"):
                await in_thread(ask, NAME, "query-vnet")
        await wait_all_tasks_blocked()
        await in_thread(ask, NAME, "query-vnet")


async def test_clients_wait_while_the_process_lacks_descriptors(
    world: World, run_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One line tells the shortage. (`trio.serve_listeners` would log a traceback ten times a second.)"""
    refused = 0
    real = socket.socket.accept

    def accept(listening: socket.socket) -> tuple[socket.socket, object]:
        nonlocal refused
        if refused < 4:
            refused += 1
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return real(listening)

    monkeypatch.setattr(socket.socket, "accept", accept)
    async with serving(world):
        await in_thread(ask, NAME, "query-vnet")
    assert refused == 4
    assert [record.getMessage() for record in caplog.records] == [
        f"cannot accept clients at {socket_path(NAME)} for now: Too many open files"
    ]


async def test_an_error_of_the_kernel_is_the_commands_reply(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(_: Context, __: Empty) -> object:
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV), "vnet0")

    monkeypatch.setitem(COMMANDS, "query-vnet", attrs.evolve(COMMANDS["query-vnet"], run=fail))
    async with open_client(ControlServer(world)) as client:
        await client.shake_hands()
        assert await client.say({"execute": "query-vnet"}) == refused("vnet0: No such device")


@pytest.mark.hostile("X04")
async def test_a_stale_socket_is_replaced(world: World, made_run_dir: Path) -> None:
    put_stale_socket(socket_path(NAME))
    async with serving(world):
        await in_thread(ask, NAME, "query-vnet")


@pytest.mark.hostile("X04")
def test_a_socket_that_answers_is_left_alone(made_run_dir: Path) -> None:
    with socket.socket(socket.AF_UNIX) as alive:
        alive.bind(str(socket_path(NAME)))
        alive.listen()
        with pytest.raises(ControlError, match="already used by another process"), claim(NAME, IN_MEMORY):
            pass
        assert socket_path(NAME).is_socket()
