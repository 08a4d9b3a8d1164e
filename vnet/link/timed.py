"""A link with timing: accesses happen at once, and their users sleep for their duration afterwards.

One clock per direction says until when that direction is taken. Reads of a batch are all in flight together: each
takes room on both clocks, and the read latency once, behind the transfers before it.
"""

from __future__ import annotations

import math
from collections import Counter
from functools import lru_cache, partial

import attrs
import trio

from drivers.contracts.events import NO_EVENTS, Events, LinkTimingChanged, Source
from rings.observers.meter import Meter
from vnet.link.base import OPPOSITE, Direction, Link
from vnet.link.tlp import CONFIG_READ, CONFIG_WRITE, MESSAGE, Cost, DirectionCost, PcieParameters, read_cost, write_cost
from vnet.link.wrapper import LinkWrapper
from vnet.views.link import DirectionTiming, LinkStatistics, LinkTiming

__all__ = ["GRAIN", "NS", "READ_LATENCY", "TimedLink", "grain_of"]

GRAIN = 0.002
"""Seconds below which a real sleep can't be kept."""
READ_LATENCY = 500e-9
"""Seconds from a read request's arrival to its first completion, about what pcie-bench measured on servers."""
NS = 1e-9
"""Seconds in a nanosecond."""
COSTS_KEPT = 4096
FAR = 1.0
DEFAULTS = PcieParameters()


def grain_of(clock: trio.abc.Clock) -> float:
    """Return the shortest sleep worth taking on ``clock``, in seconds; 0 for a clock that jumps."""
    waiting = clock.deadline_to_sleep_time(clock.current_time() + GRAIN)
    return GRAIN if waiting < FAR else 0.0


class _DirectionClock:
    """Clock and counters of one direction."""

    def __init__(self) -> None:
        self.busy_until = -math.inf
        self.tlps: Counter[str] = Counter()
        self.payload = 0
        self.wire = 0

    def reserve(self, cost: DirectionCost, earliest: float, rate: float) -> float:
        """Reserve time for ``cost`` from ``earliest`` on; return when its last byte has crossed."""
        self.tlps[cost.kind.value] += cost.tlps
        self.payload += cost.payload
        self.wire += cost.wire
        self.busy_until = max(self.busy_until, earliest) + cost.wire / rate
        return self.busy_until

    def frozen(self) -> DirectionTiming:
        return DirectionTiming(dict(self.tlps), self.payload, self.wire)


class _DmaMeter:
    """Charges one direction's accesses through windows, as reported by the user of a view."""

    def __init__(self, link: TimedLink, direction: Direction) -> None:
        self._link = link
        self._direction = direction

    def read(self, size: int, /) -> None:
        self._link.bill_read(self._direction, size)

    def write(self, size: int, /) -> None:
        self._link.bill_write(self._direction, size)


class TimedLink(LinkWrapper):
    """``settle`` sleeps until all accesses so far have crossed; no other call waits.

    In real time debts below ``grain`` seconds are carried on, and a sleep that ends late is made up for: a link
    that was idle for less than that counts as busy. Under a clock that jumps, ``grain`` is 0 and all is exact.
    """

    def __init__(
        self,
        inner: Link,
        parameters: PcieParameters = DEFAULTS,
        *,
        read_latency: float = READ_LATENCY,
        grain: float | None = None,
        events: Events = NO_EVENTS,
    ) -> None:
        """``read_latency`` and ``grain`` in seconds; the default ``grain`` depends on the running clock."""
        super().__init__(inner)
        self._reports = events
        self._grain = grain_of(trio.lowlevel.current_clock()) if grain is None else grain
        self._directions = {direction: _DirectionClock() for direction in Direction}
        self._due = -math.inf
        self._slept = 0.0
        self._meters = {direction: _DmaMeter(self, direction) for direction in Direction}
        self._set(parameters, read_latency)
        inner.watch(self)

    def _set(self, parameters: PcieParameters, read_latency: float) -> None:
        self.parameters = parameters
        self.read_latency = read_latency
        self._rate = parameters.rate
        self._read_cost = lru_cache(COSTS_KEPT)(partial(read_cost, parameters))
        self._write_cost = lru_cache(COSTS_KEPT)(partial(write_cost, parameters))

    def change(self, parameters: PcieParameters, read_latency: float) -> None:
        """Charge all further accesses by these parameters. Time that is reserved already stays so."""
        self._set(parameters, read_latency)
        if (emit := self._reports.links) is not None:
            source = Source(link=self.name)
            width = parameters.generation, parameters.lanes, self._rate
            emit(LinkTimingChanged(trio.current_time(), source, *width, read_latency / NS))

    @property
    def due(self) -> float:
        """The time at which all accesses so far will have crossed."""
        return self._due

    def bill_read(self, direction: Direction, size: int) -> None:
        """Charge a read of ``size`` bytes: requests in this direction, data in the other."""
        self._bill(direction, self._read_cost(size))

    def bill_write(self, direction: Direction, size: int) -> None:
        """Charge a write of ``size`` bytes in this direction."""
        self._bill(direction, self._write_cost(size))

    # LinkEvents

    def link_up(self) -> None:
        """Do nothing: `link_down` dropped all debt."""

    def link_down(self) -> None:
        """Drop all debt, because transfers under way are lost."""
        self._due = -math.inf
        for clock in self._directions.values():
            clock.busy_until = -math.inf

    # Link

    def config_read(self, function: int, offset: int, size: int) -> int:
        self._bill(Direction.DOWNSTREAM, CONFIG_READ)
        return self.inner.config_read(function, offset, size)

    def config_write(self, function: int, offset: int, size: int, value: int) -> None:
        self._bill(Direction.DOWNSTREAM, CONFIG_WRITE)
        self.inner.config_write(function, offset, size, value)

    def mem_read(self, direction: Direction, addr: int, size: int, function: int = 0) -> int:
        self.bill_read(direction, size)
        return self.inner.mem_read(direction, addr, size, function)

    def mem_write(self, direction: Direction, addr: int, size: int, value: int, function: int = 0) -> None:
        self.bill_write(direction, size)
        self.inner.mem_write(direction, addr, size, value, function)

    def intx(self, function: int, asserted: bool) -> None:
        self._bill(Direction.UPSTREAM, MESSAGE)
        self.inner.intx(function, asserted)

    def meter(self, direction: Direction) -> Meter | None:
        return self._meters[direction]

    async def settle(self) -> None:
        now = trio.current_time()
        if self._due - now > self._grain:
            self._slept += self._due - now
            await trio.sleep_until(self._due)
        await self.inner.settle()

    def statistics(self) -> LinkStatistics:
        timing = LinkTiming(
            generation=self.parameters.generation,
            lanes=self.parameters.lanes,
            rate=self._rate,
            read_latency=self.read_latency,
            downstream=self._directions[Direction.DOWNSTREAM].frozen(),
            upstream=self._directions[Direction.UPSTREAM].frozen(),
            slept=self._slept,
        )
        return attrs.evolve(self.inner.statistics(), timing=timing)

    def _bill(self, direction: Direction, cost: Cost) -> None:
        if not self.inner.up or not cost.request.tlps:
            return
        earliest = trio.current_time() - self._grain
        done = self._directions[direction].reserve(cost.request, earliest, self._rate)
        if cost.completion is not None:
            completed = self._directions[OPPOSITE[direction]].reserve(cost.completion, earliest, self._rate)
            # The completion follows its request, and all earlier completions in its direction.
            done = max(done + cost.completion.wire / self._rate, completed) + self.read_latency
        self._due = max(self._due, done)
