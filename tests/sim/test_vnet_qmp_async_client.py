"""The client of the control socket: which connection it keeps, and what it makes of a system that misbehaves."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MemorySendStream, memory_stream_pair

from support.rigs.web import open_web
from vnet.errors import ControlError
from vnet.qmp.async_client import PATIENCE, Control, Refusal

GREETING = b'{"QMP": {"version": {}, "capabilities": []}}\r\n{"return": {}}\r\n'


@asynccontextmanager
async def scripted(*scripts: bytes, end: bool = False) -> AsyncIterator[tuple[Control, list[bytes]]]:
    """A client whose connections get these bytes each, and those that are left; ``end`` ends them behind the bytes."""
    left = list(scripts)
    theirs: list[trio.abc.Stream] = []

    async def dial() -> trio.abc.Stream:
        ours, other = memory_stream_pair()
        theirs.append(other)
        await other.send_all(left.pop(0))
        if end:
            assert isinstance(other.send_stream, MemorySendStream)
            await other.send_stream.aclose()
        return ours

    control = Control("t", dial)
    yield control, left
    await control.aclose()
    for stream in theirs:
        await trio.aclose_forcefully(stream)


async def test_looks_share_a_connection_and_actions_do_not() -> None:
    async with open_web() as rig:
        for _ in range(3):
            await rig.control.look("query-status")
        assert rig.connections == 1
        await rig.control.act("set_link", {"name": "pcie0", "up": True})
        assert rig.connections == 2
        await rig.control.look("query-status")
        assert rig.connections == 2


async def test_a_refusal_keeps_the_connection() -> None:
    async with open_web() as rig:
        with pytest.raises(Refusal, match="The command moon has not been found"):
            await rig.control.look("moon")
        await rig.control.look("query-status")
        assert rig.connections == 1


async def test_a_look_that_was_cancelled_leaves_no_reply_for_the_next_one() -> None:
    async with scripted(GREETING, GREETING + b'{"return": 2}\r\n') as (control, _):
        with trio.move_on_after(1) as scope:
            await control.look("a")
        assert scope.cancelled_caught
        assert await control.look("b") == 2


async def test_after_the_end_of_a_system_a_look_asks_the_next_one() -> None:
    async with scripted(GREETING + b'{"return": 1}\r\n', GREETING + b'{"return": 2}\r\n', end=True) as (control, _):
        assert [await control.look("a"), await control.look("b")] == [1, 2]


async def test_a_system_that_does_not_answer_is_given_up() -> None:
    for script in (b"", GREETING):
        async with scripted(script) as (control, left):
            start = trio.current_time()
            with pytest.raises(ControlError, match="does not answer within 5 s"):
                await control.look("query-vnet")
            assert trio.current_time() == start + PATIENCE
            assert left == []


@pytest.mark.parametrize(
    ("script", "why"),
    [
        (b'{"error": {"class": "GenericError", "desc": "there are 64 clients already"}}\r\n', "there are 64 clients"),
        (b'{"moon": 1}\r\n', "{'moon': 1}"),
        (b"moon\r\n", "unexpected data from the system: Invalid JSON syntax"),
        (GREETING, "the system closed the connection"),
        (GREETING + b"[]\r\n", "unexpected data from the system: QMP input must be a JSON object"),
    ],
)
async def test_an_answer_without_sense_is_one_line(script: bytes, why: str) -> None:
    async with scripted(script, end=True) as (control, _):
        with pytest.raises(ControlError, match=why):
            await control.look("query-vnet")


async def test_without_a_socket_the_system_does_not_run() -> None:
    with pytest.raises(ControlError, match="moon is not running; try: vnet up --name moon"):
        await Control("moon").look("query-vnet")
