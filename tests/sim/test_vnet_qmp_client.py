"""The client of the control socket: one line for any other answer, and an end to its patience."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
import trio

from vnet.errors import ControlError
from vnet.linux.unix_socket import connect
from vnet.qmp import client
from vnet.qmp.client import Connection, ask
from vnet.qmp.server import ControlServer
from vnet.system.state import socket_path
from vnet.system.world import World, open_world
from vnet.topology import DEFAULT, parse

NAME = "t-client"
in_thread = trio.to_thread.run_sync


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with open_world(parse(DEFAULT.replace('"tun"', '"memory"')), NAME) as world:
        await world.wait_up()
        yield world


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "PATIENCE", 0.2)


async def talk(server: Callable[[trio.abc.Stream], Awaitable[None]], command: str = "query-vnet") -> object:
    """The helper's result against that server, or its error."""
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(theirs))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server, stream)
        result: object
        try:
            result = await in_thread(Connection(ours).ask, command)
        except ControlError as error:
            result = error
        nursery.cancel_scope.cancel()
    ours.close()
    theirs.close()
    return result


async def test_the_helper_returns_what_the_server_returns_and_raises_what_it_refuses(world: World) -> None:
    actual = await talk(ControlServer(world).converse)
    assert isinstance(actual, dict)
    assert actual["name"] == NAME
    refusal = await talk(ControlServer(world).converse, "frob")
    assert isinstance(refusal, ControlError)
    assert str(refusal) == "The command frob has not been found"


@pytest.mark.parametrize("words", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b'{"QMP": {}}\n{"error": 3}\n'])
async def test_the_helper_makes_one_line_of_any_other_answer(words: bytes) -> None:
    async def other(stream: trio.abc.Stream) -> None:
        if words:
            await stream.send_all(words)
        await stream.aclose()

    error = await talk(other)
    assert isinstance(error, ControlError)
    assert "\n" not in str(error)


def test_a_server_whose_backlog_is_full_is_given_up(made_run_dir: Path, impatient: None) -> None:
    with ExitStack() as stack:
        silent = stack.enter_context(socket.socket(socket.AF_UNIX))
        silent.bind(str(socket_path(NAME)))
        silent.listen(0)
        stack.enter_context(connect(socket_path(NAME)))
        with pytest.raises(BlockingIOError):
            connect(socket_path(NAME))
        with pytest.raises(ControlError, match=f"{NAME} does not answer within 0.2 s"):
            ask(NAME, "query-vnet")


def test_a_server_that_does_not_answer_is_given_up(made_run_dir: Path, impatient: None) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(socket_path(NAME)))
        silent.listen()
        with pytest.raises(ControlError, match=f"{NAME} does not answer within 0.2 s"):
            ask(NAME, "query-vnet")


async def test_a_connection_takes_one_command_after_another(world: World) -> None:
    ours, theirs = socket.socketpair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ControlServer(world).converse, trio.SocketStream(trio.socket.from_stdlib_socket(theirs)))
        connection = Connection(ours, timeout=60)
        for _ in range(3):
            actual = await in_thread(connection.ask, "query-vnet")
            assert isinstance(actual, dict)
            assert actual["name"] == NAME
        with pytest.raises(ControlError, match="has not been found"):
            await in_thread(connection.ask, "moon")
        assert await in_thread(connection.ask, "query-commands")
        nursery.cancel_scope.cancel()
    theirs.close()
    with pytest.raises(ControlError, match="reply to query-vnet"):
        await in_thread(connection.ask, "query-vnet")
    ours.close()
