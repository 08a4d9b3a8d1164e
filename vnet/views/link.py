"""Views of links: their traffic, timing, faults and traces."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import attrs

from vnet.views.pci import LinkErrorView
from vnet.views.plain import INLINE

__all__ = [
    "DirectionTiming",
    "FaultRuleView",
    "LinkStatistics",
    "LinkTiming",
    "LinkTraffic",
    "LinkView",
    "RemoteView",
    "RuleOrigin",
    "RuleState",
    "TraceStatistics",
    "WireDirection",
    "WireStatistics",
    "faults_in_words",
]

RuleOrigin = Literal["topology", "hand"]
"""Where a rule of faults comes from."""
RuleState = Literal["in force", "waits", "spent"]
"""State of a rule: one that waits has not begun, one that is spent has done all of its faults."""


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
    read_latency: float
    """Seconds from a read request's arrival to its first completion."""
    downstream: DirectionTiming
    upstream: DirectionTiming
    slept: float
    """Seconds slept, summed over all waiting tasks."""

    @property
    def directions(self) -> Mapping[str, DirectionTiming]:
        """Both directions by name."""
        return {"downstream": self.downstream, "upstream": self.upstream}


def faults_in_words(faults: int, requests: int | None) -> str:
    """Return the faults of a rule, and of how many requests; None for flaps, which judge no requests."""
    return f"{faults} faults" + ("" if requests is None else f" in {requests} requests")


@attrs.frozen(kw_only=True)
class FaultRuleView:
    """A rule of a link's faults, with what it has done. Members that do not apply are None."""

    name: str
    """Name of the rule, which no other rule of the link has."""
    fault: str
    """Name of the fault, such as lost_doorbells."""
    origin: RuleOrigin
    state: RuleState
    rate: float | None = None
    """Probability that a request is affected."""
    count: int | None = None
    """Number of requests that are affected, one after the other."""
    nth: tuple[int, ...] = ()
    """Numbers of the affected requests, counted from 1 since the rule began."""
    delay_ms: float | None = None
    """Delay of delayed requests in milliseconds."""
    every_ms: float | None = None
    """Time from the start of a flap to the next in milliseconds."""
    flap_ms: float | None = None
    """Length of a flap in milliseconds."""
    left: float | None = None
    """Seconds until the rule ends; None: it stays until it is cleared."""
    requests: int
    """Requests that the rule has judged; 0 for flaps."""
    faults: int
    """Faults that it has injected."""

    @property
    def amount(self) -> str:
        """How many requests are affected, and for how long each, in words."""
        if self.flap_ms is not None:
            every = "once" if self.every_ms is None else f"every {self.every_ms:g} ms"
            return f"{every}, for {self.flap_ms:g} ms"
        if self.nth:
            chosen = f"number{'s' * (len(self.nth) > 1)} {', '.join(map(str, self.nth))}"
        elif self.count is not None:
            chosen = "the next one" if self.count == 1 else f"the next {self.count}"
        else:
            chosen = "all" if self.rate == 1 else f"probability {self.rate:g}"
        return chosen if self.delay_ms is None else f"{chosen}, by {self.delay_ms:g} ms"

    @property
    def end(self) -> str:
        """Time until it ends; empty if it stays until it is cleared."""
        return "" if self.left is None else f"{self.left:.1f} s"

    @property
    def deeds(self) -> str:
        """Its faults so far, in words."""
        return faults_in_words(self.faults, None if self.flap_ms is not None else self.requests)

    @property
    def words(self) -> str:
        """The rule on one line, with its faults so far."""
        state = f"{self.state}, ends in {self.end}" if self.end else self.state
        return f"{self.name} ({self.origin}): {self.amount}; {state}; {self.deeds}"


@attrs.frozen
class WireDirection:
    """Figures of the port of a wire that sends in a direction."""

    tlps: Mapping[str, int]
    """Transaction layer packets by kind, such as MWr, each counted once."""
    frames: int
    """TLPs, DLLPs and ordered sets on the wire."""
    bytes: int
    """Bytes of these."""
    replayed: int
    """TLPs that were sent again."""
    duplicates: int
    """TLPs that the port received again, and dropped."""
    errors: Mapping[str, int]
    """Errors that the port detected, by the names of Advanced Error Reporting."""


@attrs.frozen
class WireStatistics:
    """Figures of a link that carries its requests as packets."""

    state: str
    """State of the root port's training, such as L0."""
    time: float
    """Seconds for which packets were under way, on the clock of the wire."""
    lives: int
    """Number of times that the wire came up."""
    retrains: int
    faults: Mapping[str, int]
    """Injected faults by name."""
    downstream: WireDirection
    """The root port."""
    upstream: WireDirection
    """The endpoint's port."""

    @property
    def ports(self) -> Mapping[str, WireDirection]:
        """Both ports by name."""
        return {"root port": self.downstream, "endpoint": self.upstream}


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
    wire: WireStatistics | None = None
    """None if requests do not travel as packets."""
    faults: Mapping[str, int] = attrs.field(factory=dict)
    """Injected faults by request and kind, such as "doorbell lost"."""
    rules: tuple[FaultRuleView, ...] = ()
    """Rules of faults, also those that wait or are spent."""

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
class RemoteView:
    """The other process at an end of a link."""

    socket: str
    """Path of the vfio-user socket of function 0; address of a stream."""
    connected: bool
    connections: int
    """Number of connections so far."""
    trouble: str
    """Reason why it is not connected; empty if it is, or without a reason."""
    blocked: float
    """Seconds for which accesses to it have blocked this process."""
    errors: Mapping[str, int] = attrs.field(factory=dict)
    """Errors of its packets by name, on a stream."""


@attrs.frozen
class LinkView:
    """A link between two hosts, one of which may be another process: its name has the socket then."""

    root: str
    """Host at the root complex."""
    endpoint: str
    """Host at the endpoint."""
    figures: LinkStatistics = attrs.field(metadata=INLINE)
    trace: TraceStatistics | None
    """None without a trace."""
    remote: RemoteView | None = None
    """The other process at one end; None if both ends are in this process."""
    errors: LinkErrorView | None = None
    """Advanced Error Reporting; None without a wire that has it."""
