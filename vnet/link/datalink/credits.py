"""Credits as both sides count them: counters by a modulus, from InitFC and UpdateFC DLLPs (PCI Express 2.6.1, 3.4)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import attrs

from vnet.link.datalink.dllps import DATA_CREDITS, HEADER_CREDITS, CreditPhase, FlowControl
from vnet.link.datalink.errors import DataLinkError
from vnet.link.transaction.flow import Credits, Flow, Taken

__all__ = ["GrantedCredits", "UsableCredits"]


@attrs.define
class _Counter:
    """Credits of one kind: a limit and what was used of it, by a modulus; no limit if ``limited`` is false."""

    modulus: int
    limited: bool = True
    limit: int = 0
    used: int = 0

    @property
    def left(self) -> int:
        """Credits that are left. More than half of the modulus stands for a negative number."""
        return (self.limit - self.used) % self.modulus

    def has(self, count: int) -> bool:
        return not self.limited or (self.left - count) % self.modulus <= self.modulus // 2

    def use(self, count: int) -> None:
        self.used = (self.used + count) % self.modulus


def _counters() -> dict[Flow, tuple[_Counter, _Counter]]:
    return {flow: (_Counter(HEADER_CREDITS), _Counter(DATA_CREDITS)) for flow in Flow}


class UsableCredits:
    """A sender's credits: what the receiver granted, less what TLPs took."""

    def __init__(self) -> None:
        self._counters = _counters()
        self._known: set[Flow] = set()

    @property
    def complete(self) -> bool:
        """Whether the credits of all flows are known."""
        return len(self._known) == len(Flow)

    def initialise(self, packet: FlowControl) -> None:
        """Take the first credits of a flow; later ones are ignored."""
        if packet.flow in self._known:
            return
        self._known.add(packet.flow)
        for counter, value in zip(self._counters[packet.flow], (packet.headers, packet.data), strict=True):
            counter.limited, counter.limit = value != 0, value

    def update(self, packet: FlowControl) -> DataLinkError | None:
        """Take an UpdateFC; return the error if it limits credits that were granted without limit (2.6.1.2)."""
        counters = tuple(zip(self._counters[packet.flow], (packet.headers, packet.data), strict=True))
        if any(value and not counter.limited for counter, value in counters):
            return DataLinkError.FLOW_CONTROL
        for counter, value in counters:
            counter.limit = value
        return None

    def suffice(self, taken: Taken) -> bool:
        """Return whether there are credits for a TLP."""
        headers, data = self._counters[taken.flow]
        return headers.has(taken.headers) and data.has(taken.data)

    def take(self, taken: Taken) -> None:
        """Take the credits of a TLP, which must suffice."""
        headers, data = self._counters[taken.flow]
        headers.use(taken.headers)
        data.use(taken.data)


@attrs.define
class _Grant(_Counter):
    """A counter of a receiver: ``advertised`` is the limit that the sender knows of, ``granted`` the first one."""

    granted: int = 0
    advertised: int = 0

    @classmethod
    def of(cls, modulus: int, count: int | None) -> _Grant:
        """Return the grant of ``count`` credits; None: without limit."""
        if count is not None and not 1 <= count < modulus // 2:
            raise ValueError(f"{count} credits: must be 1 to {modulus // 2 - 1}, or None")
        first = count or 0
        return cls(modulus, count is not None, first, granted=first, advertised=first)

    def give(self, count: int) -> None:
        if self.limited:
            self.limit = (self.limit + count) % self.modulus

    def advertise(self) -> int:
        self.advertised = self.limit
        return self.limit

    @property
    def urgent(self) -> bool:
        """Whether the sender knows of less than half of its credits, although more are free."""
        return self.advertised != self.limit and (self.advertised - self.used) % self.modulus * 2 < self.granted


class GrantedCredits:
    """A receiver's credits: what it granted, and what arrived."""

    def __init__(self, granted: Mapping[Flow, Credits]) -> None:
        """Raises ValueError if a grant is no number of 1 to half of the counter's modulus."""
        self._grants = {
            flow: (_Grant.of(HEADER_CREDITS, granted[flow].headers), _Grant.of(DATA_CREDITS, granted[flow].data))
            for flow in Flow
        }

    def first(self, phase: CreditPhase) -> Iterator[FlowControl]:
        """Yield the InitFC DLLPs of a phase."""
        for flow, (headers, data) in self._grants.items():
            yield FlowControl(phase, flow, headers.granted, data.granted)

    def arrive(self, taken: Taken) -> DataLinkError | None:
        """Count a TLP; return the error if its sender had no credits for it."""
        headers, data = self._grants[taken.flow]
        if not (headers.has(taken.headers) and data.has(taken.data)):
            return DataLinkError.OVERFLOW
        headers.use(taken.headers)
        data.use(taken.data)
        return None

    def free(self, taken: Taken) -> None:
        """Grant the credits of a TLP again, which has left the receiver's buffer."""
        headers, data = self._grants[taken.flow]
        headers.give(taken.headers)
        data.give(taken.data)

    @property
    def urgent(self) -> Flow | None:
        """The flow whose sender knows of less than half of its credits although more are free; None without one."""
        for flow, (headers, data) in self._grants.items():
            if headers.urgent or data.urgent:
                return flow
        return None

    @property
    def limited(self) -> tuple[Flow, ...]:
        """Flows that have updates."""
        return tuple(flow for flow, (headers, data) in self._grants.items() if headers.limited or data.limited)

    def update(self, flow: Flow) -> FlowControl:
        """Return the UpdateFC with the current credits of ``flow``."""
        headers, data = self._grants[flow]
        return FlowControl(CreditPhase.UPDATE, flow, headers.advertise(), data.advertise())
