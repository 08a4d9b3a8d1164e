"""rpmsg messages that a hostile end writes by hand."""

from __future__ import annotations

import struct

import trio
import trio.testing

from drivers.devices.rpmsg import Endpoint
from drivers.devices.rpmsg.layout import (
    HEADER,
)
from drivers.errors import NoBuffer
from vnet.testing.rpmsg import RpmsgOptions, RpmsgPair

SMALL = RpmsgOptions(queue_size=16)
HELLO = b"hello world!"


def message(dst: int, data: bytes = HELLO, *, src: int = 5000, length: int | None = None) -> bytes:
    return HEADER.pack(src, dst, 0, len(data) if length is None else length, 0) + data


SERVICES = {"both services": (), "no address service": ("AS",)}


async def ping_pong(first: Endpoint, second: Endpoint, count: int = 100, seconds: float = 1) -> None:
    """``count`` messages each way, each answered before the next. Raises trio.TooSlowError."""
    with trio.fail_after(seconds):
        for _ in range(count):
            await first.send(HELLO)
            assert await second.receive() == HELLO
            await second.send(HELLO)
            assert await first.receive() == HELLO


async def settled() -> None:
    await trio.testing.wait_all_tasks_blocked()


def balance(pair: RpmsgPair) -> None:
    """Each message sent by one side was received or dropped by the other, and counted."""
    for source, sink in (pair.buses, pair.buses[::-1]):
        assert source.sent.packets == sink.received.packets + sum(sink.received.drops.values())


async def fill(source: Endpoint) -> int:
    """Send until no buffer is free, and none comes free; how many messages that took."""
    count = tries = 0
    while tries < 2:
        try:
            source.send_nowait(struct.pack("<I", count))
        except NoBuffer:
            tries += 1
            await settled()
        else:
            count, tries = count + 1, 0
    return count
