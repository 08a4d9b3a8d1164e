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
    """Minimum batch of chains of one descriptor that C is tried for: those of single chains have several."""
    _last_writable: bool
    """Whether the last chains were writable."""
    _last_tables: bool
    """Whether the last chains had several descriptors, as those in indirect tables."""

    def getdescs(self, limit: int, /) -> list[Chain]:
        chains = self._gettables(limit) if self._last_tables else []
        if not chains and limit >= self.PLAIN_FROM:
            chains = self._getplain(limit)
        if not chains:
            chains = super().getdescs(limit)
            if chains:
                _, readable, writable = chains[0]
                self._last_writable = not readable
                self._last_tables = len(readable) + len(writable) > 1
            return chains
        if len(chains) == limit or self._is_drained():
            return chains
        try:
            return chains + super().getdescs(limit - len(chains))
        except (BadRing, MemoryFault):
            return chains  # the next call meets the bad chain first and raises

    def _getplain(self, limit: int) -> list[Chain]:
        view, plain = self.getplain(limit, self._last_writable)
        if self._last_writable:
            return [(head, [], [view[at : at + size]]) for head, at, size in plain]
        return [(head, [view[at : at + size]], []) for head, at, size in plain]

    def _gettables(self, limit: int) -> list[Chain]:
        """Take up to ``limit`` chains in indirect tables in C. Stops before any other chain, and before a bad one."""
        raise NotImplementedError

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

    def _region(self, writable: bool) -> tuple[int, memoryview, bool] | None:
        """Return address, view and whether it is writable of the region that was accessed last; None if C may not."""
        region: Callable[[], tuple[int, memoryview, bool]] | None = getattr(self.memory, "region", None)
        if region is None or not self.native:
            return None
        extent = region()
        return None if writable and not extent[2] else extent
