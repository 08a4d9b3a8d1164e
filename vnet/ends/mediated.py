"""A mediator as the device end: behind it are a second device and its driver on the same host."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import attrs

from drivers.mediator import Mediator, MediatorStatistics
from vnet.ends.base import Figures
from vnet.views.ends import EndView
from vnet.views.mediator import MediatorView

__all__ = ["MediatorEnd"]

NOTHING = MediatorStatistics()


@attrs.frozen(eq=False)
class MediatorEnd:
    """One of the two sides of a mediator."""

    fixed = "of a mediated device follows the driver at the other end"
    requests = None
    units = None
    settings: Mediator
    name: str
    """Name of the device on this side."""
    other: str
    """Name of the device on the other side."""

    @property
    def live(self) -> bool:
        return self.settings.live

    def watch(self, changed: Callable[[], object]) -> None:
        self.settings.liveness.watch(changed)

    def figures(self, queue: int) -> Figures:
        """Return the figures of a queue. Even queues are receive queues, filled from the other side."""
        source = self.settings.statistics.get(self.name if queue & 1 else self.other, NOTHING)
        return Figures(source.buffers, source.payload_bytes, source.drops if queue & 1 else {})

    def drops(self) -> Iterator[tuple[str, Mapping[str, int]]]:
        yield "mediator", self.settings.statistics.get(self.name, NOTHING).drops

    def snapshot(self) -> EndView:
        source = self.settings.statistics.get(self.name, NOTHING)
        return MediatorView("mediator", self.live, self.other, attrs.evolve(source, drops=source.drops.copy()))
