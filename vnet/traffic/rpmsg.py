"""Messages between rpmsg endpoints: rate and round-trip time."""

from __future__ import annotations

from collections.abc import Sequence

import trio

from drivers.contracts.ports import RpmsgEndpoint

__all__ = ["one_way", "round_trip"]


async def one_way(ends: Sequence[RpmsgEndpoint], messages: int, data: bytes) -> float:
    """Send messages from the first endpoint to the second; return messages per second."""
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
    """Return the median round-trip time of a message in seconds; close the endpoint."""
    from statistics import median  # slow to import, and every system imports this module

    times = []
    for _ in range(trips):
        began = trio.current_time()
        await end.send(data)
        await end.receive()
        times.append(trio.current_time() - began)
    end.close()
    return median(times)
