"""One watch over all ports of a system, so that a frame that comes in wakes no task of its own.

Waiting for a descriptor through Trio costs about as much as a small frame's whole way through both rings. Here one
task waits for all of them; as long as frames keep coming it goes round by itself, and whoever waits for a port is
served in place (see `drivers.pump`).
"""

from __future__ import annotations

import select

import trio

from drivers.pump import Signal

__all__ = ["Poller"]

ROUNDS = 16
"""Looks at all ports after which other tasks run."""
WATCHED = select.EPOLLIN | select.EPOLLET
"""Edge-triggered: whoever waits has read all there was before, and a frame that comes in later is an edge."""


class Poller:
    """An epoll set, and a signal for each descriptor in it."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._signals: dict[int, Signal] = {}

    def register(self, fd: int) -> Signal:
        """Watch ``fd``: what is returned is set when something may be there to be read, also an error."""
        signal = self._signals[fd] = Signal()
        self._epoll.register(fd, WATCHED)
        return signal

    def unregister(self, fd: int) -> None:
        """Before the descriptor is closed. Harmless where it is not watched."""
        if self._signals.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    async def run(self) -> None:
        """Watch until cancelled."""
        poll, signals = self._epoll.poll, self._signals
        while True:
            await trio.lowlevel.wait_readable(self._epoll.fileno())
            for _ in range(ROUNDS):
                events = poll(0)
                if not events:
                    break
                for fd, _ in events:
                    signal = signals.get(fd)
                    if signal is not None:
                        signal.set()
            else:
                await trio.lowlevel.checkpoint()

    def close(self) -> None:
        """Give the set back; nobody may be registered any more."""
        self._epoll.close()
