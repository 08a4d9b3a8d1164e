"""The load of an rpmsg device: numbered messages between two endpoints, in both directions."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from random import Random

import trio

from drivers.devices.rpmsg import Endpoint
from drivers.errors import MessageTooLong, SendTimeout
from vnet.ends.load import Load, Loads, Streams
from vnet.ends.rpmsg.end import RpmsgEnd
from vnet.ends.rpmsg.spec import RpmsgSpec
from vnet.ends.running import RunningDevice

__all__ = ["LOADS"]

NAME = "load"
"""Name of the channel."""
BURST = 12
"""Most messages of one direction in a round."""
PATIENCE = 1.0
"""Seconds after which a message that did not arrive counts as lost."""
COUNT_SIZE = 8
"""Bytes of the number at the start of a message."""


class _Way:
    """One direction: the messages that were sent, and those that have arrived."""

    def __init__(self, source: Endpoint, sink: Endpoint, rng: Random) -> None:
        self.source, self.sink, self.rng = source, sink, rng
        self.serial = 0
        self.last = -1
        """Number of the last message that arrived."""
        self.sent: dict[int, bytes] = {}
        """Messages of this round by number that did not arrive yet."""
        self.arrival = trio.Event()


class RpmsgLoad(Load):
    """Messages between two endpoints."""

    def __init__(self, device: str, ends: tuple[Endpoint, Endpoint], streams: Streams) -> None:
        super().__init__("rpmsg", device)
        numbered = enumerate((ends, ends[::-1]))
        self._ways = [_Way(source, sink, streams(f"rpmsg {number}")) for number, (source, sink) in numbered]

    async def round(self) -> None:
        async with trio.open_nursery() as nursery:
            for way in self._ways:
                nursery.start_soon(self._send, way)
        self.figures.rounds += 1

    async def finish(self) -> None:
        for way in self._ways:
            with trio.move_on_after(PATIENCE):
                await way.source.wait_bound()
        await self.round_without_loss("messages")

    async def receive(self) -> None:
        """Take the messages of both directions until cancelled. Raises LoadError."""
        async with trio.open_nursery() as nursery:
            for way in self._ways:
                nursery.start_soon(self._receive, way)

    async def _send(self, way: _Way) -> None:
        way.sent = {}
        for _ in range(way.rng.randint(1, BURST)):
            size = way.rng.randint(0, way.source.max_payload - COUNT_SIZE)
            message = way.serial.to_bytes(COUNT_SIZE, "big") + way.rng.randbytes(size)
            way.sent[way.serial] = message
            way.serial += 1
            try:
                await way.source.send(message, timeout=PATIENCE)
            except (SendTimeout, MessageTooLong):  # the device is away, or came back with smaller buffers
                self.figures.retries += 1
        with trio.move_on_after(PATIENCE):
            while way.sent:
                way.arrival = trio.Event()
                await way.arrival.wait()
        self.figures.lost += len(way.sent)

    async def _receive(self, way: _Way) -> None:
        while True:
            message = await way.sink.receive()
            number = int.from_bytes(message[:COUNT_SIZE], "big")
            if number <= way.last:
                raise self.error(f"message {number} of {way.source.name} arrived after message {way.last}")
            way.last = number
            if number in way.sent and way.sent.pop(number) != message:
                raise self.error(f"message {number} of {len(message)} bytes has other data than were sent")
            if number >= way.serial:
                raise self.error(f"message {number} arrived, which was never sent")
            self.figures.bytes += len(message)
            if not way.sent:
                way.arrival.set()


@asynccontextmanager
async def open_loads(
    device: RunningDevice[RpmsgSpec, tuple[RpmsgEnd, RpmsgEnd]], names: Sequence[str], streams: Streams
) -> AsyncIterator[Sequence[Load]]:
    if not names:
        yield []
        return
    first, second = (end.bus.create(NAME) for end in device.ends)
    load = RpmsgLoad(device.name, (first, second), streams)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(load.receive)
        yield [load]
        nursery.cancel_scope.cancel()
    for end in (first, second):
        end.close()


LOADS = Loads(("rpmsg",), open_loads)
