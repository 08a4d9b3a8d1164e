"""Single-chain calls of a device's side, shared by both formats and by the observers."""

from __future__ import annotations

from collections.abc import Sequence

from rings.chain import Buffers, Chain, total

__all__ = ["BatchVringh"]


class BatchVringh:
    """Single-chain calls and `getbufs` of `rings.queue.Vringh`, written in terms of the batch calls."""

    def getdescs(self, limit: int, /) -> list[Chain]:
        raise NotImplementedError

    def getbufs(self, limit: int, /) -> Buffers:
        heads: list[int] = []
        sizes: list[int] = []
        views: list[memoryview] = []
        chains = self.getdescs(limit)
        for at, (head, readable, writable) in enumerate(chains):
            if readable or not writable:
                self.abandon(len(chains) - at)
                break
            heads.append(head)
            sizes.append(total(writable))
            views += writable
        return heads, sizes, views

    def abandon(self, count: int, /) -> Sequence[int]:
        raise NotImplementedError
