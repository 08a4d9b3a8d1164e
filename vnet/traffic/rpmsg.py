"""Messages between rpmsg endpoints, and how many a second, or how long one takes."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

import trio

from drivers.contracts.ports import RpmsgEndpoint

__all__ = ["one_way", "round_trip"]


async def one_way(ends: Sequence[RpmsgEndpoint], messages: int, data: bytes) -> float:
    """Messages a second from the first endpoint to the second."""
    source, sink = ends

    async def send() -> None:
        for _ in range(messages):
            await source.send(data)

    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        for _ in range(messages):
            await sink.receive()
    return messages / (trio.current_time() - began)


async def round_trip(end: RpmsgEndpoint, trips: int, data: bytes) -> float:
    """Seconds from sending a message to receiving it again, the median; the endpoint is closed then."""
    took = []
    for _ in range(trips):
        began = trio.current_time()
        await end.send(data)
        await end.receive()
        took.append(trio.current_time() - began)
    end.close()
    return median(took)
