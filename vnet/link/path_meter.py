"""The cost of accesses to memory at the other end of a link, on that link and on those it forwards them to."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import attrs

from rings.observers.meter import Meter
from vnet.link.base import Direction, Link

__all__ = ["PathMeter", "path_meter"]


@attrs.frozen
class PathMeter:
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


def path_meter(link: Link, direction: Direction, addr: int, size: int) -> PathMeter | None:
    """Return a meter for a range of addresses on ``link``; None if no link of the path takes time."""
    hops = [(link, direction), *link.beyond(direction, addr, size)]
    metered = [(meter, hop.settle) for hop, way in hops if (meter := hop.meter(way)) is not None]
    return PathMeter(*zip(*metered, strict=True)) if metered else None
