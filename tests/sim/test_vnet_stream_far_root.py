"""Answers of the root complex behind a stream: right, or an error of the access that they answer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.lowlevel
from trio.testing import MockClock

from rings.errors import MemoryFault
from rings.memory import Addr
from support.rigs.stream import FUNCTION, MEMORY, RAM, Script, StreamScene, open_endpoint
from support.rigs.two_processes import clock
from vnet.errors import CompleterAbort, LinkDown, PoisonedData, UnsupportedRequest
from vnet.link.base import Direction
from vnet.link.transaction.codec import emit
from vnet.link.transaction.fields import CompletionStatus
from vnet.link.transaction.fragments import completions, failed
from vnet.link.transaction.packets import (
    Header,
    MemoryRead,
    Tlp,
)
from vnet.linux import patience
from vnet.testing import until

__all__ = ["clock"]  # a fixture


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
