"""A driver that brings a device up, and then does as it likes with raw rings."""

from __future__ import annotations

import os
import select
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from vnet.check.front import Front, Vring
from vnet.check.split import Buffer
from vnet.check.wire import Journal
from vnet.linux.unix_socket import connect

__all__ = ["bring_up", "repeat", "wait"]

F = TypeVar("F", bound=Front)
PATIENCE = 30.0
WAIT = 0.002
"""Seconds after which a driver looks at the used rings again, notified or not."""


async def bring_up(path: Path, kind: type[F], rings: Mapping[int, int], features: Iterable[int] = ()) -> F:
    """Connect to a device, and start rings of these sizes, by their index. Raises PeerError, OSError."""
    front = kind(connect(path), Journal(), PATIENCE)
    await front.open()
    await front.negotiate(features)
    await front.accept()
    for index, num in rings.items():
        await front.start(front.new_ring(index, num))
    await front.driver_ok()
    return front


def wait(front: Front) -> None:
    """Wait for a notification of any ring, for a short time."""
    fds = [vring.call_fd for vring in front.rings.values()]
    for fd in select.select(fds, [], [], WAIT)[0]:
        os.eventfd_read(fd)


def repeat(vring: Vring, chains: Sequence[Sequence[Buffer]]) -> Iterator[int]:
    """Make these chains available again and again, each as soon as it was used.

    Yields the number of chains at each look, 0 if none was used meanwhile.
    """
    ring = vring.split
    free = [ring.table(chain) if len(chain) > 3 else ring.chain(chain) for chain in chains]
    while True:
        if free:
            ring.offer(*free)
            vring.kick()
        yield len(free)
        free = [head for head, _ in ring.answers()]
