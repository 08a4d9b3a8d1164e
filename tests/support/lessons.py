"""Lessons about bare rings, played to their end."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from vnet.learn import event_idx, indirect, packed, split
from vnet.learn.ring_machine import RingMachine
from vnet.learn.step import Frame, Step, play

__all__ = ["RING_LESSONS", "frames"]

RING_LESSONS: dict[str, tuple[Callable[[], RingMachine], Callable[[RingMachine], Iterator[Step]]]] = {
    module.LESSON.name: (module.machine, module.steps) for module in (split, packed, indirect, event_idx)
}
"""Machine and steps by name."""


def frames(name: str) -> list[Frame]:
    """All frames of a lesson."""
    machine, steps = RING_LESSONS[name]
    ring = machine()
    return [moment for moment in play(name, ring, steps(ring)) if isinstance(moment, Frame)]
