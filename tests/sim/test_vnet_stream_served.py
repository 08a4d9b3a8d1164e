"""Requests over a stream that are damaged or refused fail alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from trio.testing import MockClock

from support.rigs.stream import (
    BAR,
    ROOT,
    WRITE,
    Script,
    open_endpoint,
    started,
)
from support.rigs.two_processes import clock
from vnet.link.transaction.codec import emit
from vnet.link.transaction.fields import CompletionStatus
from vnet.link.transaction.packets import (
    Completion,
    ConfigRead,
    Header,
    MemoryRead,
    MemoryWrite,
    Tlp,
)
from vnet.link.wire.completer import requester_of

__all__ = ["clock"]  # a fixture


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
