"""Views of links: their traffic, timing, faults and traces."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from vnet.views.plain import INLINE

__all__ = ["DirectionTiming", "LinkStatistics", "LinkTiming", "LinkTraffic", "LinkView", "TraceStatistics"]


@attrs.frozen
class LinkTraffic:
    """Requests of one kind: answered, lost because the link was down, and refused by the other end."""

    reads: int
    writes: int
    dropped: int
    unsupported: int


@attrs.frozen
class DirectionTiming:
    """Figures of one direction of a timed link."""

    tlps: Mapping[str, int]
    """Transaction layer packets by kind, such as MWr."""
    payload: int
    """Bytes of data in them."""
    wire: int
    """Bytes that they took, headers and framing included."""


@attrs.frozen
class LinkTiming:
    """Figures of a timed link, with the time its users waited."""

    generation: int
    lanes: int
    rate: float
    """Bytes per second and direction, for TLPs with their framing."""
    downstream: DirectionTiming
    upstream: DirectionTiming
    slept: float
    """Seconds slept, summed over all waiting tasks."""

    @property
    def directions(self) -> Mapping[str, DirectionTiming]:
        """Both directions by name."""
        return {"downstream": self.downstream, "upstream": self.upstream}


@attrs.frozen
class LinkStatistics:
    """Figures of a link. Accesses through windows are not requests: an ideal link does not see them."""

    up: bool
    epoch: int
    windows: int
    """Open now."""
    config: LinkTraffic
    downstream: LinkTraffic
    upstream: LinkTraffic
    messages: LinkTraffic
    timing: LinkTiming | None = None
    """None if accesses take no time."""
    faults: Mapping[str, int] = attrs.field(factory=dict)
    """Injected faults by request and kind, such as "doorbell lost"."""

    @property
    def requests(self) -> Mapping[str, LinkTraffic]:
        """Requests by kind."""
        return {
            "config": self.config,
            "downstream": self.downstream,
            "upstream": self.upstream,
            "messages": self.messages,
        }


@attrs.frozen
class TraceStatistics:
    """Figures of a trace."""

    path: str
    """Path of the file."""
    lines: int
    """Lines written or in the buffer."""
    lost: int
    """Lines lost after a write error."""
    error: str
    """The write error; empty if there was none."""


@attrs.frozen
class LinkView:
    """A link between two hosts."""

    root: str
    """Host at the root complex."""
    endpoint: str
    """Host at the endpoint."""
    figures: LinkStatistics = attrs.field(metadata=INLINE)
    trace: TraceStatistics | None
    """None without a trace."""
