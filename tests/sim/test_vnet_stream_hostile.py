"""A hostile other side of a stream: its link goes down with a reason, or one access fails, and nothing else happens."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.lowlevel
from trio.testing import MockClock

from rings.errors import MemoryFault
from rings.memory import Addr
from support.rigs.stream import BAR, KEY, MEMORY, RAM, Script, StreamScene, open_endpoint, open_root
from support.rigs.two_processes import clock
from vnet.errors import CompleterAbort, LinkDown, PoisonedData, UnsupportedRequest
from vnet.link.base import Direction
from vnet.link.transaction.codec import emit
from vnet.link.transaction.fields import CompletionStatus, MessageCode
from vnet.link.transaction.fragments import completions, failed
from vnet.link.transaction.packets import (
    Completion,
    ConfigRead,
    ConfigWrite,
    Header,
    MemoryRead,
    MemoryWrite,
    Message,
    Tlp,
)
from vnet.link.wire.completer import requester_of
from vnet.linux import patience
from vnet.stream import channel, peer
from vnet.stream.frames import Control, control
from vnet.stream.handshake import StreamIdentity
from vnet.testing import fds, until

__all__ = ["clock"]  # a fixture

ROOT = Header(0, 7)
FUNCTION = requester_of(0)
WRITE = MemoryWrite(header=ROOT, address=BAR, data=b"\1\2\3\4")


def config(register: int, data: bytes) -> ConfigWrite:
    return ConfigWrite(header=ROOT, target=FUNCTION, register=register, data=data)


def enable(other: Script) -> Script:
    """Place BAR 0, and let the function be accessed and access memory."""
    for register, data in ((0x10, b"\0\0\0\0"), (0x14, b"\x10\0\0\0"), (0x04, b"\6\0\0\0")):
        other.send(config(register, data))
        assert isinstance(other.packet(), Completion)
    return other


def started(other: Script) -> Script:
    return enable(other.greet().ready())


def works(other: Script) -> bool:
    """Registers are written and read."""
    started(other)
    other.send(WRITE)
    other.send(MemoryRead(header=ROOT, address=BAR, length=1))
    packet = other.packet()
    return isinstance(packet, Completion) and packet.data == WRITE.data


def credits_of(flow: int, packets: int, data: int) -> bytes:
    body = bytes((flow, 0, 0, 0)) + packets.to_bytes(4, "big") + data.to_bytes(8, "big")
    return control(Control.CREDITS, body)


crossing = bytearray(emit(MemoryRead(header=ROOT, address=BAR, length=2, last=0xF)))
crossing[-2:] = b"\x0f\xfc"
LIES: dict[str, tuple[bytes, str]] = {
    "a read across 4 KiB": (bytes(crossing), "malformed TLP"),
    "a prefix": (b"\x80" + bytes(15), "malformed TLP: Fmt 4"),
    "a packet that there is not": (b"\x1f\0\0\0" + bytes(8), "malformed TLP"),
    "a completion never asked for": (
        emit(Completion(header=Header(FUNCTION, 3), completer=0, data=b"abcd")),
        "unexpected completion: tag 3",
    ),
    "a failed one never asked for": (
        emit(Completion(header=Header(FUNCTION, 9), completer=0, status=CompletionStatus.COMPLETER_ABORT)),
        "unexpected completion: tag 9",
    ),
    "a frame that there is not": (b"\xef\0\0\0", "a frame of kind 15"),
    "a frame that is too long": (b"\xe4\0\xff\xff", "a frame of 65535 bytes"),
    "a second handshake": (control(Control.HELLO, b"{}"), "HELLO after the handshake"),
    "credits of no flow": (credits_of(2, 1, 1), "credits of flow 2"),
    "credits taken back": (credits_of(0, 0, 0), "flow control protocol error"),
    "more credits than there can be": (credits_of(1, 1 << 20, 1 << 20), "flow control protocol error"),
    "short credits": (control(Control.CREDITS, b"\0"), "credits of 1 bytes"),
}


@pytest.mark.hostile("L04", "L06", "L08", "T03")
@pytest.mark.parametrize("name", LIES)
async def test_a_lie_is_a_link_event_and_the_next_connection_works(name: str, tmp_path: Path, clock: MockClock) -> None:
    lie, reason = LIES[name]

    def tell(other: Script) -> None:
        started(other).send(lie)
        while other.frame():
            pass

    before = fds()
    async with open_endpoint(tmp_path) as scene:
        await scene.play(tell)
        await scene.trouble(reason)
        await until(lambda: not scene.link.up, 30)
        assert await scene.play(works)
        assert scene.link.epoch == 2
    assert fds() <= before


@pytest.mark.hostile("L07", "L08", "L09")
async def test_damaged_and_unsupported_packets_fail_alone(tmp_path: Path, clock: MockClock) -> None:
    def script(other: Script) -> list[Tlp]:
        started(other)
        poisoned = MemoryWrite(header=Header(0, 1, poisoned=True), address=BAR, data=b"\xff" * 4)
        damaged = emit(MemoryWrite(header=Header(0, 1, digest=True), address=BAR, data=b"\xff" * 4))
        io_read = b"\2\0\0\1" + bytes((0, 0, 5, 15)) + bytes(4)
        for packet in (WRITE, emit(poisoned), damaged[:-1] + bytes((damaged[-1] ^ 1,)), io_read):
            other.send(packet)
        answers: list[Tlp] = [other.packet()]
        for request in (
            MemoryRead(header=ROOT, address=BAR, length=1),
            MemoryRead(header=ROOT, address=BAR + (1 << 30), length=1),
            ConfigRead(header=ROOT, target=requester_of(5), register=0),
        ):
            other.send(request)
            answers.append(other.packet())
        return answers

    async with open_endpoint(tmp_path) as scene:
        refused, read, outside, absent = await scene.play(script)
        assert isinstance(refused, Completion)
        assert refused.status is CompletionStatus.UNSUPPORTED_REQUEST
        assert [getattr(each, "data", None) for each in (read, outside, absent)] == [
            WRITE.data,
            b"\xff" * 4,
            b"\xff" * 4,
        ]
        assert scene.peer.errors == {"poisoned TLP received": 1, "ECRC error": 1, "unsupported request": 1}
        assert scene.link.epoch == 1


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


def answers(request: Tlp, **changed: Any) -> list[bytes]:
    """Return what a root complex with other ideas answers to a read."""
    assert isinstance(request, MemoryRead)
    [right] = completions(request, bytes(range(16)), 0, 4096)
    return [emit(attrs.evolve(right, **changed))]


ANSWERS: dict[str, tuple[Callable[[MemoryRead], list[bytes]], type[MemoryFault] | None, bool]] = {
    "in two parts": (
        lambda request: [emit(each) for each in completions(request, bytes(range(16)), 0, 128, 64)],
        None,
        True,
    ),
    "unsupported": (
        lambda request: [emit(failed(request, 0, CompletionStatus.UNSUPPORTED_REQUEST))],
        UnsupportedRequest,
        True,
    ),
    "aborted": (lambda request: [emit(failed(request, 0, CompletionStatus.COMPLETER_ABORT))], CompleterAbort, True),
    "poisoned": (
        lambda request: answers(request, header=Header(FUNCTION, request.header.tag, poisoned=True)),
        PoisonedData,
        True,
    ),
    "of another tag": (lambda request: answers(request, header=Header(FUNCTION, 200)), LinkDown, False),
    "of another requester": (lambda request: answers(request, header=Header(5, request.header.tag)), LinkDown, False),
    "of another address": (lambda request: answers(request, lower_address=64), LinkDown, False),
    "with too few bytes": (lambda request: answers(request, byte_count=4, data=b"abcd"), LinkDown, False),
    "without data": (lambda request: answers(request, data=b""), LinkDown, False),
    "none": (lambda request: [], LinkDown, False),
    "none but a hang-up": (lambda request: [b"\xe5\0\0\3bye"], LinkDown, False),
}


def dma(scene: StreamScene, address: int = RAM + 0x100) -> bytes:
    window = scene.link.map(Direction.UPSTREAM, RAM, MEMORY)
    return bytes(window.view(Addr(address), 16))


@pytest.mark.hostile("L05", "L06", "L07")
@pytest.mark.parametrize("name", ANSWERS)
async def test_an_answer_to_a_read_of_memory_is_right_or_an_error_of_that_read(
    name: str, tmp_path: Path, clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, error, stays = ANSWERS[name]
    if name == "none":
        monkeypatch.setattr(patience, "EACH", 0.2)

    def script(other: Script) -> None:
        other.greet().ready()
        request = other.packet()
        assert isinstance(request, MemoryRead)
        assert (request.start, request.size) == (RAM + 0x100, 16)
        for answer in make(request):
            other.send(answer)
        while other.frame():
            pass

    async with open_endpoint(tmp_path) as scene, trio.open_nursery() as nursery:
        nursery.start_soon(scene.play, script)
        await scene.up()
        if error is None:
            assert dma(scene) == bytes(range(16))
        else:
            with pytest.raises(error):
                dma(scene)
        await trio.lowlevel.checkpoint()
        if stays:
            assert scene.link.up
        else:
            await until(lambda: not scene.link.up, 30)
        scene.link.bring_down()


@pytest.mark.hostile("L12", "L15", "T06")
async def test_functions_access_memory_within_it_and_as_bus_masters_alone(tmp_path: Path, clock: MockClock) -> None:
    def endpoint(other: Script) -> list[object]:
        """A function that enumerates, and then accesses memory with and without permission."""
        other.greet()
        other.send(control(Control.READY))
        other.grant()
        answers: list[object] = []
        master = False
        while len(answers) < 4:
            packet = other.packet()
            if isinstance(packet, ConfigRead):
                present = packet.target == FUNCTION
                data = {0: b"\xf4\x1a\x41\x10"}.get(packet.register, bytes(4)) if present else b"\xff" * 4
                other.send(Completion(header=packet.header, completer=FUNCTION, data=data))
            elif isinstance(packet, ConfigWrite):
                other.send(Completion(header=packet.header, completer=FUNCTION))
                if packet.register == 4 and packet.data[0] & 4 and not master:
                    master = True
                    for function, address in ((0, RAM + 4), (0, RAM + MEMORY), (0, 0xFEE0_0000), (3, RAM)):
                        other.send(MemoryRead(header=Header(requester_of(function), 1), address=address, length=1))
            elif isinstance(packet, Completion):
                answers.append(packet.data or packet.status)
        other.send(Message(header=Header(FUNCTION), code=MessageCode.ASSERT_INTA))
        return answers

    async with open_root(tmp_path) as scene:
        scene.memory.view(Addr(RAM + 4), 4, True)[:] = b"here"
        refusal = CompletionStatus.UNSUPPORTED_REQUEST
        assert await scene.play(endpoint) == [b"here", refusal, refusal, refusal]
        assert scene.peer.errors["unsupported request"] == 3
