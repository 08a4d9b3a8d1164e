"""Of rpmsg: the sample client of the RFC, then messages one way, and there and back."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import trio

from drivers.devices.rpmsg import Endpoint
from vnet.demo.base import Demo, DemoSettings, Sections, ends_of
from vnet.ends.rpmsg import RpmsgEnd
from vnet.system.world import World
from vnet.topology import Topology
from vnet.topology.samples import built_in
from vnet.traffic.kernel import Plan, TextResult
from vnet.traffic.rpmsg import one_way, round_trip

__all__ = ["RPMSG"]

NAME = "rpmsg0"
HELLO, TIMES = b"hello world!", 100
COMPARED = 2000
"""Messages of random bytes and sizes that are compared."""
SIZE = 64
PER_SECOND = 20_000
"""Messages that a run of one second is made of."""
TRIPS = 2000


def rpmsg_topology(settings: DemoSettings) -> Topology:
    """One channel that answers with what it got."""
    keys = 'device = { channels = [{ name = "echo", surface = "echo" }] }'
    return built_in("rpmsg", settings.transport, keys, mode=settings.mode, name=NAME)


@asynccontextmanager
async def plan_rpmsg(world: World, settings: DemoSettings) -> AsyncIterator[Sections]:
    """Endpoints on either host; nothing but this process is needed."""
    first, second = world.ends(NAME)
    assert isinstance(first, RpmsgEnd)
    assert isinstance(second, RpmsgEnd)
    here, there = ends_of(world, NAME)
    ends = [end.bus.create("one way") for end in (first, second)]
    for end in ends:
        await end.wait_bound()
    messages = round(settings.seconds * PER_SECOND)
    yield {
        "sample": [Plan(f'"{HELLO.decode()}" {TIMES} times', here, there, partial(_sample, first))],
        "one way": [
            Plan(f"{COMPARED} messages of any size, compared", here, there, partial(_compare, ends)),
            Plan(f"{SIZE} bytes, one way", here, there, partial(_rate, ends, messages)),
            Plan(f"{SIZE} bytes, one way", there, here, partial(_rate, ends[::-1], messages)),
        ],
        "round trip": [Plan(f"{SIZE} bytes, there and back", here, there, partial(_trip, first))],
    }
    for end in ends:
        end.close()


async def _sample(end: RpmsgEnd) -> TextResult:
    endpoint, back = end.bus.create("echo"), 0
    await endpoint.wait_bound()
    for _ in range(TIMES):
        await endpoint.send(HELLO)
        back += await endpoint.receive() == HELLO
    endpoint.close()
    return TextResult(
        f"{back} of {TIMES} back", {"sent": TIMES, "back": back}, "" if back == TIMES else "some were lost"
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
        got = [await sink.receive() for _ in sent]
    figures = {"messages": COMPARED, "bytes": sum(map(len, sent))}
    if got != sent:
        return TextResult(f"{COMPARED} messages", figures, "they are not those that were sent")
    return TextResult("all arrived, in order", figures)


async def _rate(ends: list[Endpoint], messages: int) -> TextResult:
    rate = await one_way(ends, messages, bytes(SIZE))
    return TextResult(f"{rate:,.0f} messages/s", {"messages_per_second": rate})


async def _trip(end: RpmsgEnd) -> TextResult:
    seconds = await round_trip(end.bus.create("echo"), TRIPS, bytes(SIZE))
    return TextResult(f"{seconds * 1e6:.0f} us, the median of {TRIPS}", {"median_us": seconds * 1e6})


RPMSG = Demo("messages", rpmsg_topology, plan_rpmsg)
