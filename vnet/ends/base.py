"""The two ends of a device of any type: opened by the world, used by the drivers, read by reports."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Generic, Literal, Protocol, TypeVar

import attrs

from drivers.contracts.liveness import Liveness
from drivers.flow.figures import RequestFigures, Traffic
from drivers.storage.submit import Submitter
from vnet.linux.poller import Poller
from vnet.ports.packet.interface_watch import Watches
from vnet.spec import DeviceSpec
from vnet.views.ends import EndView, Figures, OtherEndView

__all__ = [
    "NO_FIGURES",
    "CountedEnd",
    "End",
    "Figures",
    "OpenContext",
    "PlainEnd",
    "SideName",
    "Units",
    "request_counts",
    "request_figures",
    "traffic_figures",
]

PlugT_co = TypeVar("PlugT_co", covariant=True)
SpecT_co = TypeVar("SpecT_co", bound=DeviceSpec, covariant=True)

SideName = Literal["driver", "device"]
"""Name of a side of a virtio device."""
NO_FIGURES = Figures(0, 0, {})
"""Figures of a queue that nothing counts."""


class Units(Protocol):
    """The units of a running device, by address as in `vnet.spec.DeviceSpec.units`."""

    async def add(self, spec: Any, index: int) -> None:
        """Open a unit and plug it in; ``index`` is its index in the device's list. Raises ConfigError."""

    async def remove(self, address: str) -> None:
        """Unplug a unit, end the requests under way to it by its device's rules, and close it."""


class End(Protocol):
    """One end of a device."""

    @property
    def fixed(self) -> str:
        """Reason why no setting of this end can change, after the setting's name; empty if some can."""

    @property
    def settings(self) -> object:
        """Argument for the driver on this side, such as `NetSettings` or `NetPlug`."""

    @property
    def live(self) -> bool:
        """Whether the end can carry data now."""

    def watch(self, changed: Callable[[], object]) -> None:
        """Call ``changed``, which neither waits nor raises, after each change of `live` from now on."""

    @property
    def requests(self) -> Submitter[Any] | None:
        """Requests under way, which an orderly removal finishes; None if this end has none."""

    @property
    def units(self) -> Units | None:
        """Units that come and go while the device runs; None if this end has none."""

    def figures(self, queue: int) -> Figures:
        """Return the figures of the queue with this index."""

    def drops(self) -> Iterator[tuple[str, Mapping[str, int]]]:
        """Yield (place, number of drops by cause) for each counter of this end."""

    def snapshot(self) -> EndView:
        """Return the end as it is now."""


def traffic_figures(traffic: Traffic) -> Figures:
    """Return the counts of one direction's traffic."""
    return Figures(traffic.packets, traffic.bytes, dict(traffic.drops))


def request_figures(requests: RequestFigures) -> Figures:
    """Return the counts of the requests of one queue."""
    return Figures(requests.taken, requests.bytes, dict(requests.errors))


def request_counts(queues: Iterable[RequestFigures]) -> list[tuple[str, Figures]]:
    """Return the names and the figures of request queues."""
    return [(f"requestq{number}", request_figures(queue)) for number, queue in enumerate(queues, 1)]


class CountedEnd:
    """Base of ends whose figures and drops are those of their queues."""

    fixed = ""

    @property
    def requests(self) -> Submitter[Any] | None:
        return None

    @property
    def units(self) -> Units | None:
        return None

    def counts(self) -> Sequence[tuple[str, Figures]]:
        """Return the name and the figures of each queue that counts, by queue index."""
        return ()

    @property
    def liveness(self) -> Liveness | None:
        """Whether the end can carry data now; None for one that always can."""
        return None

    @property
    def live(self) -> bool:
        return self.liveness is None or self.liveness.live

    def watch(self, changed: Callable[[], object]) -> None:
        if self.liveness is not None:
            self.liveness.watch(changed)

    def figures(self, queue: int) -> Figures:
        counts = self.counts()
        return counts[queue][1] if queue < len(counts) else NO_FIGURES

    def drops(self) -> Iterator[tuple[str, Mapping[str, int]]]:
        for place, figures in self.counts():
            yield place, figures.drops


@attrs.frozen(eq=False)
class PlainEnd(CountedEnd, Generic[PlugT_co]):
    """An `End` made of the traffic counters of its queues."""

    settings: PlugT_co
    traffic: Sequence[Traffic]
    """Counters of each queue, by queue index."""
    liveness: Liveness | None = None
    """Whether the end can carry data now; None for one that always can."""
    about: Callable[[], Mapping[str, object]] = dict
    """Returns more facts for `vnet show`: names with scalars, lists or mappings."""

    def counts(self) -> Sequence[tuple[str, Figures]]:
        return [(f"queue {index}", traffic_figures(traffic)) for index, traffic in enumerate(self.traffic)]

    def snapshot(self) -> EndView:
        return OtherEndView("api", self.live, dict(self.about()))


@attrs.frozen
class OpenContext(Generic[SpecT_co]):
    """Arguments for opening the ends of a device."""

    system: str
    """Name of the system."""
    name: str
    """Name of the device."""
    index: int
    """Index of the device in the topology."""
    spec: SpecT_co
    """The device's record in the topology."""
    hosts: tuple[str, str]
    """Names of the driver's and the device's host."""
    poller: Poller
    """Polls the file descriptors of ports."""
    watches: Watches | None = None
    """Shared watches of network interfaces; None: each port opens its own."""

    @property
    def in_topology(self) -> bool:
        """Whether the device belongs to a topology; else it is served alone, and has no host."""
        return bool(self.hosts[1])

    @property
    def features(self) -> int:
        """Feature bits that may be offered and accepted."""
        return self.spec.features
