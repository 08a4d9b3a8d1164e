"""Accesses of functions behind a stream to the memory of the host."""

from __future__ import annotations

from pathlib import Path

import pytest
from trio.testing import MockClock

from rings.memory import Addr
from support.rigs.stream import FUNCTION, MEMORY, RAM, Script, open_root
from support.rigs.two_processes import clock
from vnet.link.transaction.fields import CompletionStatus, MessageCode
from vnet.link.transaction.packets import (
    Completion,
    ConfigRead,
    ConfigWrite,
    Header,
    MemoryRead,
    Message,
)
from vnet.link.wire.completer import requester_of
from vnet.stream.frames import Control, control

__all__ = ["clock"]  # a fixture


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
