"""A hostile other side of a stream in its handshake, or a silent one: the link stays down, with a reason."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from trio.testing import MockClock

from support.rigs.stream import KEY, Script, open_endpoint, started, works
from support.rigs.two_processes import clock
from vnet.stream import channel, peer
from vnet.stream.frames import Control, control
from vnet.stream.handshake import StreamIdentity

__all__ = ["clock"]  # a fixture


HELLOS: dict[str, tuple[Callable[[Script], None], str]] = {
    "garbage": (lambda other: other.send(b"GET / HTTP/1.1\r\n\r\n" * 400), "instead of HELLO"),
    "no JSON": (lambda other: other.send(control(Control.HELLO, b"{")), "is no link of vnet"),
    "another frame": (lambda other: other.send(control(Control.PROOF, bytes(32))), "PROOF instead of HELLO"),
    "half a frame": (lambda other: other.send(b"\xe0"), "hung up"),
}


def say_hello(other: Script, **changed: object) -> None:
    """Say something else in the first frame."""
    hello = {**json.loads(other.handshake.hello), **changed}
    other.send(control(Control.HELLO, json.dumps(hello).encode()))


CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "version": ({"version": 2}, "version: the other side has 2, this one 1"),
    "side": ({"side": "endpoint"}, "side: both are the endpoint"),
    "identity": ({"identity": 7}, "link: the other side has null"),
    "nonce": ({"nonce": "1"}, "random number"),
    "memory, no list": ({"memory": {}}, "memory: must be a short list"),
    "memory, text": ({"memory": [["a", 1]]}, "memory: a range must be"),
    "memory, descending": ({"memory": [[4096, 4096], [0, 4096]]}, "must be ascending ranges"),
    "memory, too large": ({"memory": [[0, 1 << 65]]}, "must be ascending ranges"),
}
for name, (changed, why) in CHANGES.items():
    HELLOS[name] = partial(say_hello, **changed), why


@pytest.mark.hostile("T03", "T05")
@pytest.mark.parametrize("name", HELLOS)
async def test_a_wrong_handshake_keeps_the_link_down_with_a_reason(name: str, tmp_path: Path, clock: MockClock) -> None:
    say, reason = HELLOS[name]

    def end(other: Script) -> None:
        say(other)
        other.socket.shutdown(socket.SHUT_WR)
        while other.frame():
            pass

    async with open_endpoint(tmp_path) as scene:
        await scene.play(end)
        await scene.trouble(reason)
        assert scene.link.epoch == 0
        assert await scene.play(works)


@pytest.mark.hostile("T05")
async def test_another_key_and_another_topology_are_refused(tmp_path: Path, clock: MockClock) -> None:
    def refused(other: Script) -> str:
        try:
            other.greet()
        except Exception as error:  # noqa: BLE001  what the other side says of us
            return str(error)
        return ""

    async with open_endpoint(tmp_path) as scene:
        await scene.play(refused, key=KEY[::-1])
        await scene.trouble("key: the other side has another one")
        why = await scene.play(refused, identity=StreamIdentity("pcie0", {0: "blk over pci"}))
        assert why.startswith("functions: the other side has")
        await scene.trouble('functions: the other side has {"0": "blk over pci"}, this one {"0": "net over pci"}')
        assert scene.link.epoch == 0


@pytest.mark.hostile("T01")
async def test_a_silent_other_side_is_given_up(
    tmp_path: Path, clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel, "BEAT", 0.05)

    def silent(other: Script) -> None:
        started(other)
        while other.frame():
            pass

    async with open_endpoint(tmp_path) as scene:
        await scene.play(silent)
        await scene.trouble("the other side is silent")
        monkeypatch.setattr(peer, "DEADLINE", 0.2)
        await scene.play(lambda other: other.frame() and other.frame())
        await scene.trouble("did not finish the handshake")
