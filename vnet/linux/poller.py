"""One watch over all ports of a system, so that a frame that comes in wakes no task of its own.

Waiting for a descriptor through Trio costs about as much as a small frame's whole way through both rings. Here one
task waits for all of them; as long as frames keep coming it goes round by itself, and whoever waits for a port is
served in place (see `drivers.flow.pump`).

Where much is carried it may also not be woken for each frame: it looks again after a pause, as network cards moderate
their interrupts, and finds more at once (`vnet.linux.moderation`). That is for whoever has the driver in another
process, where each frame is a wake-up. All of this process sleeps meanwhile, and drivers are told of what was done for
them once for each look.
"""

from __future__ import annotations

import select
from collections.abc import Callable
from time import monotonic, sleep

import trio

from drivers.flow.pump import Signal
from vnet.linux.moderation import WINDOW, Moderation

__all__ = ["Poller"]

LOOKS = 4
"""After which other tasks run."""
ROUNDS = 4
"""Over all that has something, in one look."""
WATCHED = select.EPOLLIN | select.EPOLLET
"""Edge-triggered: whoever waits has read all there was before, and a frame that comes in later is an edge."""


class Poller:
    """An epoll set, and whom to tell of each descriptor in it."""

    def __init__(self, *, moderate: bool = False) -> None:
        """With ``moderate`` there are pauses where much is carried, and `at_end` waits."""
        self._moderation = Moderation() if moderate else None
        self._epoll = select.epoll()
        self._told: dict[int, Callable[[], object]] = {}
        self._carried: dict[int, Callable[[], int]] = {}
        self._bytes, self._since = 0, 0.0  # carried when a pause was last decided on, and when that was
        self._looking = False
        self._owed: dict[Callable[[], object], None] = {}  # what is called at the end of this look, in order

    def register(self, fd: int, carried: Callable[[], int] = int) -> Signal:
        """Watch ``fd``: what is returned is set when something may be there to be read, also an error.

        ``carried`` says how many bytes passed there so far, in both directions.
        """
        signal = Signal()
        self._carried[fd] = carried
        self.watch(fd, signal.set)
        return signal

    def watch(self, fd: int, told: Callable[[], object]) -> None:
        """Likewise call ``told``, which runs to completion and never raises."""
        self._epoll.register(fd, WATCHED)
        self._told[fd] = told

    def unregister(self, fd: int) -> None:
        """Before the descriptor is closed. Harmless where it is not watched."""
        self._carried.pop(fd, None)
        if self._told.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def at_end(self, tell: Callable[[], object]) -> None:
        """Call ``tell``, which never raises: once at the end of the look that is under way, or else now.

        A driver in another process that is told again and again while much is done for it is woken for each part.
        """
        if self._looking and self._moderation is not None:
            self._owed[tell] = None
        else:
            tell()

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            for _ in range(LOOKS):
                if not self._look():
                    break
            else:
                await trio.lowlevel.checkpoint()
                continue
            if pause := self._pause_now():
                await trio.lowlevel.checkpoint()  # whoever was woken does not wait for it
                sleep(pause)  # noqa: ASYNC251  through Trio it would cost more than it is long
            else:
                await trio.lowlevel.wait_readable(self._epoll.fileno())

    def _look(self) -> bool:
        """Serve whatever has something; whether there may be more."""
        poll, watched, ports = self._epoll.poll, self._told, self._carried
        self._looking = True
        try:
            for _ in range(ROUNDS):
                events = poll(0)
                if not events:
                    return False
                # Ports last: what they then have includes the answers to what they were just given.
                for fd, _ in sorted(events, key=lambda event: event[0] in ports) if len(events) > 1 else events:
                    told = watched.get(fd)
                    if told is not None:
                        told()
            return True
        finally:
            self._looking = False
            if self._owed:
                owed, self._owed = self._owed, {}
                for tell in owed:
                    tell()

    def _pause_now(self) -> float:
        """Seconds that the next look can wait; 0 where nobody knows when the next frame comes."""
        moderation = self._moderation
        if moderation is None:
            return 0.0
        now = monotonic()  # as it sleeps
        if (elapsed := now - self._since) >= WINDOW:
            carried = sum(count() for count in self._carried.values())
            moderation.next((carried - self._bytes) / elapsed)
            self._bytes, self._since = carried, now
        return moderation.pause

    def close(self) -> None:
        """Give the set back; nobody may be registered any more."""
        self._epoll.close()
