"""The cost of accesses to memory at the other end of a link, on that link and on those it forwards them to."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import attrs

from rings.queue import Meter
from vnet.link.base import Direction, Link

__all__ = ["Toll", "toll_of"]


@attrs.frozen
class Toll:
    """Implements `drivers.contracts.hw.Toll`: every link of the path counts each access, on its own clock."""

    meters: tuple[Meter, ...]
    settles: tuple[Callable[[], Awaitable[None]], ...]

    def read(self, size: int, /) -> None:
        for meter in self.meters:
            meter.read(size)

    def write(self, size: int, /) -> None:
        for meter in self.meters:
            meter.write(size)

    async def settle(self) -> None:
        """Sleep until all accesses so far have crossed all links."""
        for settle in self.settles:
            await settle()


def toll_of(link: Link, direction: Direction, addr: int, size: int) -> Toll | None:
    """Return the toll for a range of addresses on ``link``; None if no link of the path takes time."""
    ways = [(link, direction), *link.beyond(direction, addr, size)]
    metered = [(meter, way.settle) for way, where in ways if (meter := way.meter(where)) is not None]
    return Toll(*zip(*metered, strict=True)) if metered else None
