"""Resources of a pair of hosts and of this process: equal before and after a test, or something leaked."""

from __future__ import annotations

from pathlib import Path

import attrs

__all__ = ["Footprint", "fds", "maps"]


def fds() -> int:
    """Count the file descriptors of this process."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def maps() -> int:
    """Count the mappings of shared memory in this process."""
    return sum("memfd:" in line for line in Path("/proc/self/maps").read_text().splitlines())


@attrs.frozen
class Footprint:
    """Everything that a pair acquires and has to give back."""

    tasks: int
    fds: int
    buffers: int
    """DMA buffers of both hosts."""
    pinned: int
    """Typed views into memory of either host, windows included."""
    windows: int
    """Outbound windows with a pinned view; others are a cache, and bounded."""
    interrupts: int
    in_flight: int
    """Chains that devices have taken and not given back."""

    def within(self, before: Footprint) -> bool:
        """Return whether nothing is held that was not held before.

        Fewer descriptors are fine: the garbage collector may close those of objects from earlier tests.
        """
        return attrs.evolve(self, fds=max(self.fds, before.fds)) == before
