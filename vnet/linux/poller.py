"""One epoll set for all ports of a system: an arriving frame wakes no task of its own.

Waiting for a descriptor through Trio costs about as much as a small frame's whole path through both rings. Here one
task waits for all descriptors; while frames keep arriving it polls without waiting, and a flow that waits for a port
runs in place (see `drivers.flow.pump`).

At high throughput the poller can also sleep between polls, as network cards moderate their interrupts, so that one
poll finds more frames (`vnet.linux.moderation`). This is for drivers in another process, where each frame costs a
wake-up. The whole process sleeps meanwhile, and a driver gets one notification per poll.
"""

from __future__ import annotations

import select
from collections.abc import Callable
from time import monotonic, sleep

import trio

from drivers.flow.pump import Signal
from vnet.linux.moderation import WINDOW, Moderation

__all__ = ["Poller"]

POLLS_BEFORE_YIELD = 4
"""Polls before other tasks run."""
EPOLL_PASSES_PER_POLL = 4
"""Maximum epoll calls of one poll."""
WATCHED = select.EPOLLIN | select.EPOLLET
"""Edge-triggered: a waiting flow has read everything before, so that the next frame is an edge."""


class Poller:
    """An epoll set with a callback for each descriptor."""

    def __init__(self, *, moderate: bool = False) -> None:
        """``moderate`` enables pauses at high throughput, and lets `at_end` defer calls."""
        self._moderation = Moderation() if moderate else None
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[], object]] = {}
        self._byte_counts: dict[int, Callable[[], int]] = {}
        self._window_bytes, self._window_start = 0, 0.0  # byte count and time at the start of the window
        self._polling = False
        self._deferred: dict[Callable[[], object], None] = {}  # calls for the end of this poll, in order

    def moderate(self) -> None:
        """Enable pauses at high throughput, and let `at_end` defer calls, from now on."""
        if self._moderation is None:
            self._moderation = Moderation()

    def register(self, fd: int, byte_count: Callable[[], int] = int) -> Signal:
        """Watch ``fd``, and return a signal that is set when data or an error may be readable.

        ``byte_count`` returns the bytes that crossed the port so far, in both directions.
        """
        signal = Signal()
        self._byte_counts[fd] = byte_count
        self.watch(fd, signal.set)
        return signal

    def watch(self, fd: int, callback: Callable[[], object]) -> None:
        """Call ``callback`` when ``fd`` may be readable. It must not wait or raise."""
        self._epoll.register(fd, WATCHED)
        self._callbacks[fd] = callback

    def unregister(self, fd: int) -> None:
        """Stop watching ``fd``; call it before closing the descriptor. Harmless if it is not watched."""
        self._byte_counts.pop(fd, None)
        if self._callbacks.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def at_end(self, notify: Callable[[], object]) -> None:
        """Call ``notify`` once at the end of the current poll, or now if there is none. It must not raise.

        A driver in another process would otherwise be woken for each part of a batch.
        """
        if self._polling and self._moderation is not None:
            self._deferred[notify] = None
        else:
            notify()

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            for _ in range(POLLS_BEFORE_YIELD):
                if not self._poll():
                    break
            else:
                await trio.lowlevel.checkpoint()
                continue
            if pause := self._pause_now():
                await trio.lowlevel.checkpoint()  # tasks that were woken run before the pause
                sleep(pause)  # noqa: ASYNC251  a sleep through Trio costs more than the pause is long
            else:
                await trio.lowlevel.wait_readable(self._epoll.fileno())

    def _poll(self) -> bool:
        """Serve all ready descriptors; return whether more may be ready."""
        poll, callbacks, ports = self._epoll.poll, self._callbacks, self._byte_counts
        self._polling = True
        try:
            for _ in range(EPOLL_PASSES_PER_POLL):
                events = poll(0)
                if not events:
                    return False
                # Ports last: they may by then have received the answers to the frames just sent.
                for fd, _ in sorted(events, key=lambda event: event[0] in ports) if len(events) > 1 else events:
                    callback = callbacks.get(fd)
                    if callback is not None:
                        callback()
            return True
        finally:
            self._polling = False
            if self._deferred:
                deferred, self._deferred = self._deferred, {}
                for notify in deferred:
                    notify()

    def _pause_now(self) -> float:
        """Return the seconds until the next poll; 0 to wait for an event instead."""
        moderation = self._moderation
        if moderation is None:
            return 0.0
        now = monotonic()  # the clock of `sleep`
        if (elapsed := now - self._window_start) >= WINDOW:
            total = sum(count() for count in self._byte_counts.values())
            moderation.next((total - self._window_bytes) / elapsed)
            self._window_bytes, self._window_start = total, now
        return moderation.pause

    def close(self) -> None:
        """Close the epoll set. All descriptors must be unregistered."""
        self._epoll.close()
