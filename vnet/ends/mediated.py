"""A mediator as the end of a device: behind it is another device, and its driver on the same host."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import attrs

from drivers.mediator import Mediator, MediatorStatistics
from vnet.ends.base import Figures

__all__ = ["MediatorEnd"]

NOTHING = MediatorStatistics()


@attrs.frozen(eq=False)
class MediatorEnd:
    """One of a mediator's two sides: ``name`` is the device's that it serves, ``other`` the other one's."""

    settings: Mediator
    name: str
    other: str

    @property
    def live(self) -> bool:
        return self.settings.live

    def figures(self, queue: int) -> Figures:
        """Even queues are received into, and so carry what came from the other side."""
        source = self.settings.statistics.get(self.name if queue & 1 else self.other, NOTHING)
        return Figures(source.buffers, source.payload_bytes, source.drops if queue & 1 else {})

    def drops(self) -> Iterator[tuple[str, Mapping[str, int]]]:
        yield "mediator", self.settings.statistics.get(self.name, NOTHING).drops

    def describe(self) -> dict[str, object]:
        """What came from this side's driver, and that each byte of it was copied once."""
        source = self.settings.statistics.get(self.name, NOTHING)
        return {"kind": "mediator", "live": self.live, "behind": self.other, **attrs.asdict(source)}
