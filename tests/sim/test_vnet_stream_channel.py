"""A hostile other side of a stream: a lie ends the connection with a reason, and nothing else happens."""

from __future__ import annotations

from pathlib import Path

import pytest
from trio.testing import MockClock

from support.rigs.stream import (
    BAR,
    FUNCTION,
    ROOT,
    Script,
    open_endpoint,
    started,
    works,
)
from support.rigs.two_processes import clock
from vnet.link.transaction.codec import emit
from vnet.link.transaction.fields import CompletionStatus
from vnet.link.transaction.packets import (
    Completion,
    Header,
    MemoryRead,
)
from vnet.stream.frames import Control, control
from vnet.testing import fds, until

__all__ = ["clock"]  # a fixture


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
