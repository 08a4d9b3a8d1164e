"""Exercise of an rpmsg device: messages between two endpoints in both directions, compared."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable

import trio

from drivers.devices.rpmsg import Endpoint, RpmsgBus
from vnet.ends.rpmsg.end import RpmsgEnd
from vnet.ends.rpmsg.spec import RpmsgSpec
from vnet.ends.running import EXERCISE_SIZE, Exercise, RunningDevice

__all__ = ["EXERCISE", "bound_pair", "send_and_compare"]

NAME = "exercise"
"""Name of the channel."""
POLL_INTERVAL = 0.001
"""Seconds between two checks of a condition."""


async def exercise(device: RunningDevice[RpmsgSpec, tuple[RpmsgEnd, RpmsgEnd]]) -> None:
    buses = device.ends[0].bus, device.ends[1].bus
    ends = await bound_pair(*buses, NAME)
    async with trio.open_nursery() as nursery:
        for source, sink in (ends, ends[::-1]):
            nursery.start_soon(send_and_compare, source, sink, EXERCISE_SIZE)
    # One after the other: if both closed at once, each would be told of an endpoint that is gone.
    ends[0].close()
    await _until(lambda: not ends[1].bound)
    ends[1].close()
    await _until(lambda: not any(NAME in bus.services.values() for bus in buses))


async def bound_pair(first: RpmsgBus, second: RpmsgBus, name: str) -> tuple[Endpoint, Endpoint]:
    """Return an endpoint of each bus, once each knows the other. Raises trio.TooSlowError."""
    ends = first.create(name), second.create(name)
    with trio.fail_after(1):
        for end in ends:
            await end.wait_bound()
    return ends


async def send_and_compare(source: Endpoint, sink: Endpoint, size: int) -> None:
    """Send ``size`` random bytes in messages. Raises AssertionError if they differ, trio.TooSlowError."""
    data = random.Random(size).randbytes(size)
    piece = source.max_payload

    async def send() -> None:
        for at in range(0, size, piece):
            await source.send(data[at : at + piece])

    received = bytearray()
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            while len(received) < size:
                received += await sink.receive()
    assert hashlib.sha256(received).digest() == hashlib.sha256(data).digest(), "the messages received differ"


async def _until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110  a bus wakes no task
        await trio.sleep(POLL_INTERVAL)


EXERCISE = Exercise(exercise)
