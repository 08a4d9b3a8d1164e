"""A device's side that takes and completes plain chains in C, for either ring format."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

from rings.chain import Chain
from rings.errors import BadRing, MemoryFault
from rings.sides import DeviceSide

__all__ = ["PlainFirst"]


class PlainFirst(DeviceSide):
    """A device's side that takes and completes plain chains in C, and the rest of a batch in Python."""

    PLAIN_FROM: ClassVar[int] = 2
    """Minimum batch that C is tried for. Devices that take chains one by one have requests of several descriptors."""
    _last_writable: bool
    """Whether the last chains were writable."""

    def getdescs(self, limit: int, /) -> list[Chain]:
        if limit < self.PLAIN_FROM:
            return super().getdescs(limit)
        view, plain = self.getplain(limit, self._last_writable)
        if not plain:
            chains = super().getdescs(limit)
            if chains:
                self._last_writable = not chains[0][1]
            return chains
        if self._last_writable:
            chains = [(head, [], [view[at : at + size]]) for head, at, size in plain]
        else:
            chains = [(head, [view[at : at + size]], []) for head, at, size in plain]
        if len(chains) == limit or self._is_drained():
            return chains
        try:
            return chains + super().getdescs(limit - len(chains))
        except (BadRing, MemoryFault):
            return chains  # the next call meets the bad chain first and raises

    def _is_drained(self) -> bool:
        """Return whether all chains that the device knows of are taken; then it looks for more in the next call."""
        return False

    def complete_each(self, done: Sequence[tuple[int, int]], /) -> None:
        if not self._complete(done, len(done), False):
            super().complete_each(done)

    def complete_read(self, chains: Sequence[tuple[int, int, int]], count: int, /) -> None:
        if not self._complete(chains, count, True):
            super().complete_read(chains, count)

    def _complete(self, done: Sequence[tuple[int, ...]], count: int, unwritten: bool) -> bool:
        """Complete the first ``count`` chains in C, with 0 bytes if ``unwritten``. Returns False if Python has to."""
        raise NotImplementedError

    def _region(self, writable: bool) -> tuple[int, memoryview] | None:
        """Return address and view of the region that was accessed last, or None."""
        region: Callable[[], tuple[int, memoryview, bool]] | None = getattr(self.memory, "region", None)
        if region is None or not self.native:
            return None
        base, view, may_write = region()
        return None if writable and not may_write else (base, view)
