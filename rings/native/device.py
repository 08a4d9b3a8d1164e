"""A device's side that takes plain chains in C, for either ring format."""

from __future__ import annotations

from typing import ClassVar

from rings.chain import Chain
from rings.errors import BadRing, MemoryFault
from rings.sides import DeviceSide

__all__ = ["PlainFirst"]


class PlainFirst(DeviceSide):
    """A device's side that takes plain chains in C, and the rest of a batch in Python."""

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
