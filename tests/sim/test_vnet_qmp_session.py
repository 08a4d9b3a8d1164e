"""A conversation goes as QEMU's does, and a client that behaves badly is told so and disturbs no other."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import AsyncIterator

import attrs
import pytest
import trio

from support.rigs.qmp import open_client
from vnet.qmp.commands import COMMANDS, Context
from vnet.qmp.qapi import Empty
from vnet.qmp.server import ControlServer
from vnet.qmp.session import MESSAGE_MAX, PATIENCE
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


async def test_an_error_of_the_kernel_is_the_commands_reply(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(_: Context, __: Empty) -> object:
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV), "vnet0")

    monkeypatch.setitem(COMMANDS, "query-vnet", attrs.evolve(COMMANDS["query-vnet"], run=fail))
    async with open_client(ControlServer(world)) as client:
        await client.shake_hands()
        assert await client.say({"execute": "query-vnet"}) == refused("vnet0: No such device")


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


async def test_a_message_that_is_never_completed_ends_the_connection(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_client(ControlServer(world)) as client:
        await client.shake_hands()
        await trio.sleep(2 * PATIENCE)
        await client.stream.send_all(b'{"execute": "que')
        for part in b"ry-":
            await trio.sleep(PATIENCE / 4)
            await client.stream.send_all(bytes([part]))
        assert await client.read() == refused("a message must be complete within 30 s")
        with pytest.raises(EOFError):
            await client.read()


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
