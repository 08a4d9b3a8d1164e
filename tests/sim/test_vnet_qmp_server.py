"""The control socket: for its owner only, for so many clients, and gone afterwards."""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from support.rigs.qmp import Client
from support.rigs.run_dir import contents, put_stale_socket
from vnet.errors import ControlError
from vnet.qmp import server
from vnet.qmp.client import ask
from vnet.qmp.server import ControlServer
from vnet.system.claim import claim
from vnet.system.state import socket_path, state_path
from vnet.system.world import World, open_world
from vnet.topology import DEFAULT, parse

IN_MEMORY = parse(DEFAULT.replace('"tun"', '"memory"'))
NAME = "t-control"

in_thread = trio.to_thread.run_sync


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with open_world(IN_MEMORY, NAME) as world:
        await world.wait_up()
        yield world


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
