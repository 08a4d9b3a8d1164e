"""One watch over all ports of a system, so that a frame that comes in wakes no task of its own.

Waiting for a descriptor through Trio costs about as much as a small frame's whole way through both rings. Here one
task waits for all of them; as long as frames keep coming it goes round by itself, and whoever waits for a port is
served in place (see `drivers.pump`).
"""

from __future__ import annotations

import select
from collections.abc import Callable

import trio

from drivers.pump import Signal

__all__ = ["Poller"]

ROUNDS = 16
"""Looks at all ports after which other tasks run."""
WATCHED = select.EPOLLIN | select.EPOLLET
"""Edge-triggered: whoever waits has read all there was before, and a frame that comes in later is an edge."""


class Poller:
    """An epoll set, and whom to tell of each descriptor in it."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._told: dict[int, Callable[[], object]] = {}

    def register(self, fd: int) -> Signal:
        """Watch ``fd``: what is returned is set when something may be there to be read, also an error."""
        signal = Signal()
        self.watch(fd, signal.set)
        return signal

    def watch(self, fd: int, told: Callable[[], object]) -> None:
        """Likewise call ``told``, which runs to completion and never raises."""
        self._told[fd] = told
        self._epoll.register(fd, WATCHED)

    def unregister(self, fd: int) -> None:
        """Before the descriptor is closed. Harmless where it is not watched."""
        if self._told.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    async def run(self) -> None:
        """Watch until cancelled."""
        poll, watched = self._epoll.poll, self._told
        while True:
            await trio.lowlevel.wait_readable(self._epoll.fileno())
            for _ in range(ROUNDS):
                events = poll(0)
                if not events:
                    break
                for fd, _ in events:
                    told = watched.get(fd)
                    if told is not None:
                        told()
            else:
                await trio.lowlevel.checkpoint()

    def close(self) -> None:
        """Give the set back; nobody may be registered any more."""
        self._epoll.close()
