"""Wrappers of the driver's memory that a device reaches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from drivers.testing import WrappedOps
from rings.memory import Memory
from rings.testing import Watched
from vnet.testing import Pair

__all__ = ["watched_memory"]


@contextmanager
def watched_memory(pair: Pair) -> Iterator[list[Watched]]:
    """Watch the driver's memory in the context, from the next start of the device on. Yields a memory per ring."""
    plain = pair.vhost.ops
    memories: list[Watched] = []

    def watch(memory: Memory) -> Watched:
        memories.append(Watched(memory))
        return memories[-1]

    pair.vhost.ops = WrappedOps(plain, watch)
    try:
        yield memories
    finally:
        pair.vhost.ops = plain
