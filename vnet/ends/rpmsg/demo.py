"""Demonstration of rpmsg: the sample client of the 2020 RFC, then messages one way and as round trips."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import trio

from drivers.devices.rpmsg import Endpoint
from vnet.ends.rpmsg.end import RpmsgEnd
from vnet.ends.rpmsg.spec import RpmsgSpec
from vnet.ends.running import Demo, DemoSettings, RunningDevice, Sections
from vnet.traffic.kernel import Plan, TextResult
from vnet.traffic.rpmsg import one_way, round_trip

__all__ = ["DEMO"]

HELLO, TIMES = b"hello world!", 100
"""Message of the sample client, and how often it is sent."""
COMPARED = 2000
"""Messages with random bytes and sizes that are compared."""
SIZE = 64
"""Bytes of a message in timed runs."""
PER_SECOND = 20_000
"""Messages per second of length of a one-way run."""
TRIPS = 2000
"""Round trips of a run."""


def keys(settings: DemoSettings) -> str:
    """Return the keys of a device with a channel that echoes messages."""
    return 'device = { channels = [{ name = "echo", surface = "echo" }] }'


@asynccontextmanager
async def plan(
    running: RunningDevice[RpmsgSpec, tuple[RpmsgEnd, RpmsgEnd]], settings: DemoSettings
) -> AsyncIterator[Sections]:
    """Plan runs between endpoints on both hosts, without other programs."""
    first, _ = running.ends
    driver, device = running.hosts
    ends = [end.bus.create("one way") for end in running.ends]
    for end in ends:
        await end.wait_bound()
    messages = round(settings.seconds * PER_SECOND)
    yield {
        "sample": [Plan(f'"{HELLO.decode()}" {TIMES} times', driver, device, partial(_sample, first))],
        "one way": [
            Plan(f"{COMPARED} messages of any size, compared", driver, device, partial(_compare, ends)),
            Plan(f"{SIZE} bytes, one way", driver, device, partial(_rate, ends, messages)),
            Plan(f"{SIZE} bytes, one way", device, driver, partial(_rate, ends[::-1], messages)),
        ],
        "round trip": [Plan(f"{SIZE} bytes, round trip", driver, device, partial(_trip, first))],
    }
    for end in ends:
        end.close()


async def _sample(end: RpmsgEnd) -> TextResult:
    endpoint, echoed = end.bus.create("echo"), 0
    await endpoint.wait_bound()
    for _ in range(TIMES):
        await endpoint.send(HELLO)
        echoed += await endpoint.receive() == HELLO
    endpoint.close()
    return TextResult(
        f"{echoed} of {TIMES} back", {"sent": TIMES, "back": echoed}, "" if echoed == TIMES else "some were lost"
    )


async def _compare(ends: list[Endpoint]) -> TextResult:
    source, sink = ends
    dice = random.Random(1)
    sent = [dice.randbytes(dice.randint(1, source.max_payload)) for _ in range(COMPARED)]

    async def send() -> None:
        for message in sent:
            await source.send(message)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        received = [await sink.receive() for _ in sent]
    figures = {"messages": COMPARED, "bytes": sum(map(len, sent))}
    if received != sent:
        return TextResult(f"{COMPARED} messages", figures, "the messages received differ from those sent")
    return TextResult("all arrived, in order", figures)


async def _rate(ends: list[Endpoint], messages: int) -> TextResult:
    rate = await one_way(ends, messages, bytes(SIZE))
    return TextResult(f"{rate:,.0f} messages/s", {"messages_per_second": rate})


async def _trip(end: RpmsgEnd) -> TextResult:
    seconds = await round_trip(end.bus.create("echo"), TRIPS, bytes(SIZE))
    return TextResult(f"{seconds * 1e6:.0f} us, the median of {TRIPS}", {"median_us": seconds * 1e6})


DEMO = Demo("messages by the Python API", "messages", plan, keys)
