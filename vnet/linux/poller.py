"""One epoll set for all ports of a system: an arriving frame wakes no task of its own.

Waiting for a descriptor through Trio costs about as much as a small frame's whole path through both rings. Here one
task waits for all descriptors; while frames keep arriving it polls without waiting, and a flow that waits for a port
runs in place (see `drivers.flow.pump`).

At high throughput the poller can also sleep between polls, as network cards moderate their interrupts, so that one
poll finds more frames (`vnet.linux.moderation`). This is for drivers in another process, where each frame costs a
wake-up. The whole process sleeps meanwhile, and a driver gets one notification per poll.
"""

from __future__ import annotations

import os
import select
from collections.abc import Callable, Sequence
from time import monotonic, sleep
from typing import Protocol

import trio

from drivers.flow.pump import Signal
from vnet.linux.files import naming
from vnet.linux.moderation import WINDOW, Moderation
from vnet.linux.waits import wait_readable

__all__ = ["Carrier", "Poller"]

WAIT_MIN = 0.001
"""Seconds of a wait that the poller takes over from Trio; shorter ones are for Trio's own tests of idleness."""
POLLS_BEFORE_YIELD = 4
"""Polls before other tasks run."""
EPOLL_PASSES_PER_POLL = 4
"""Maximum epoll calls of one poll."""
WATCHES = "epoll watches of this user (sysctl fs.epoll.max_user_watches)"
"""Name in errors of a watch that the kernel refuses."""
WATCHED = select.EPOLLIN | select.EPOLLET
"""Edge-triggered: a waiting flow has read everything before, so that the next frame is an edge."""


class Carrier(Protocol):
    """Ports and rings whose frames are carried without Python."""

    def wait(self, epoll: int, stop: int, seconds: float, /) -> list[int]:
        """Wait for events of an epoll set, up to ``seconds``, and carry frames meanwhile.

        Returns the descriptors whose events Python has to handle, ``stop`` among them if it is readable.
        """

    @property
    def worthwhile(self) -> bool:
        """Whether some of the last events were those of frames that it carries."""

    def forget(self, fd: int, /) -> None:
        """Carry nothing for ``fd`` any more, which is about to be closed. Harmless if the carrier does not know it."""


def trio_epoll() -> int | None:
    """Return the descriptor in which Trio waits for events, if this version has one there and runs without a host."""
    try:
        from trio._core._run import GLOBAL_RUN_CONTEXT
    except ImportError:
        return None
    runner = getattr(GLOBAL_RUN_CONTEXT, "runner", None)
    epoll = getattr(getattr(runner, "io_manager", None), "_epoll", None)
    return epoll.fileno() if isinstance(epoll, select.epoll) and not getattr(runner, "is_guest", True) else None


class _Ahead(trio.abc.Instrument):
    """Waits in place of Trio, and serves ports on the way: Trio's loop costs more than a small frame."""

    def __init__(self, poller: Poller, carrier: Carrier, stop: int, wake: int) -> None:
        self._poller, self._carrier, self._stop, self._wake = poller, carrier, stop, wake
        self.error: BaseException | None = None

    def before_io_wait(self, timeout: float) -> None:
        if self.error is not None:
            return
        try:
            self._wait(timeout if timeout >= WAIT_MIN else 0.0)
        except BaseException as error:  # noqa: BLE001  the poller's task raises it
            self.error = error
            os.eventfd_write(self._wake, 1)

    def _wait(self, timeout: float) -> None:
        """Serve ports for ``timeout`` seconds, or until Trio has something to do; then have it wake at once."""
        waits = timeout > 0
        while True:
            fds = self._carrier.wait(self._poller.fileno(), self._stop, timeout)
            if fds and self._poller.dispatch_data(fds):
                os.eventfd_write(self._wake, 1)  # other events are for the poller's task
                return
            if self._stop in fds or not waits:
                return
            if not self._poller.is_ahead():
                os.eventfd_write(self._wake, 1)
                return
            now = trio.lowlevel.current_statistics()
            timeout = now.seconds_to_next_deadline
            if timeout < WAIT_MIN or now.tasks_runnable or now.run_sync_soon_queue_size:
                os.eventfd_write(self._wake, 1)
                return
            if not fds:  # no deadline, but a wait for idleness: that is Trio's
                return
            if pause := self._poller.pause_now():
                sleep(pause)


class Poller:
    """An epoll set with a callback for each descriptor."""

    def __init__(self, *, moderate: bool = False) -> None:
        """``moderate`` enables pauses at high throughput, and lets `at_end` defer calls."""
        self._moderation = Moderation() if moderate else None
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[], object]] = {}
        self._others: set[int] = set()  # descriptors whose callbacks only a task may call
        self._byte_counts: dict[int, Callable[[], int]] = {}
        self._window_bytes, self._window_start = 0, 0.0  # byte count and time at the start of the window
        self._polling = self._running = False
        self._carrier: Carrier | None = None
        self._wake = -1  # eventfd that wakes the task which waits ahead of Trio
        self._ready: list[int] = []  # descriptors whose callbacks that task is to call
        self._deferred: dict[Callable[[], object], None] = {}  # calls for the end of this poll, in order

    def moderate(self) -> None:
        """Enable pauses at high throughput, and let `at_end` defer calls, from now on."""
        if self._moderation is None:
            self._moderation = Moderation()
            self._adapt()

    def carry(self, carrier: Carrier | None) -> None:
        """Let ``carrier`` carry frames from now on; None: no more."""
        if carrier is not self._carrier:
            self._carrier = carrier
            self._adapt()

    def _adapt(self) -> None:
        """Have the task of `run` look again how it waits."""
        if self._wake >= 0:
            os.eventfd_write(self._wake, 1)
        elif self._running:
            trio.lowlevel.notify_closing(self._epoll.fileno())

    def register(self, fd: int, byte_count: Callable[[], int] = int) -> Signal:
        """Watch ``fd``, and return a signal that is set when data or an error may be readable.

        ``byte_count`` returns the bytes that crossed the port so far, in both directions.
        """
        signal = Signal()
        self._byte_counts[fd] = byte_count
        self.watch(fd, signal.set, by_task=False)
        return signal

    def watch(self, fd: int, callback: Callable[[], object], *, by_task: bool = True) -> None:
        """Call ``callback`` when ``fd`` may be readable. It must not wait or raise.

        Without ``by_task``, also while Trio waits, outside of all tasks.
        """
        with naming(WATCHES):
            self._epoll.register(fd, WATCHED)
        if by_task:
            self._others.add(fd)
        self._callbacks[fd] = callback

    def unregister(self, fd: int) -> None:
        """Stop watching ``fd``; call it before closing the descriptor. Harmless if it is not watched."""
        self._byte_counts.pop(fd, None)
        self._others.discard(fd)
        if self._callbacks.pop(fd, None) is not None:
            self._epoll.unregister(fd)
            if self._carrier is not None:
                self._carrier.forget(fd)

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
        self._running = True
        try:
            await self._run()
        finally:
            self._running = False

    async def _run(self) -> None:
        while True:
            if self.is_ahead() and (stop := trio_epoll()) is not None:
                await self._run_ahead(stop)
            for _ in range(POLLS_BEFORE_YIELD):
                if not self._poll():
                    break
            else:
                await trio.lowlevel.checkpoint()
                continue
            if pause := self.pause_now():
                await trio.lowlevel.checkpoint()  # tasks that were woken run before the pause
                sleep(pause)  # noqa: ASYNC251  a sleep through Trio costs more than the pause is long
            else:
                try:
                    await wait_readable(self._epoll.fileno())
                except trio.ClosedResourceError:
                    pass  # woken by `_adapt`

    def is_ahead(self) -> bool:
        """Return whether the poller waits in place of Trio; a moderating one only while that is worthwhile."""
        carrier = self._carrier
        return carrier is not None and (self._moderation is None or carrier.worthwhile)

    async def _run_ahead(self, stop: int) -> None:
        """Watch in front of Trio, which has its events in the epoll set ``stop``, whenever all of its tasks wait."""
        assert self._carrier is not None
        self._wake = wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        ahead = _Ahead(self, self._carrier, stop, wake)
        # Trio keeps a descriptor that it has waited for in its set, and of two sets only one can watch the other.
        trio.lowlevel.notify_closing(self.fileno())
        with naming(WATCHES):
            self._epoll.register(stop, select.EPOLLIN)
        trio.lowlevel.add_instrument(ahead)
        try:
            while self.is_ahead():
                await wait_readable(wake)
                os.eventfd_read(wake)
                if ahead.error is not None:
                    raise ahead.error
                ready, self._ready = self._ready, []
                self._call_each(ready)
        finally:
            trio.lowlevel.remove_instrument(ahead)
            self._epoll.unregister(stop)
            self._wake = -1
            os.close(wake)

    def dispatch_data(self, fds: Sequence[int]) -> bool:
        """Call the callbacks of ports and rings with events; return whether there are others, for the task of `run`."""
        others = [fd for fd in fds if fd in self._others]
        self._ready += others
        self._polling = True
        try:
            self._call_each([fd for fd in fds if fd not in others] if others else fds)
        finally:
            self._end_poll()
        return bool(others)

    def _call_each(self, fds: Sequence[int]) -> None:
        """Call the callbacks of descriptors with events, as far as there are any."""
        callbacks, ports = self._callbacks, self._byte_counts
        # Ports last: they may by then have received the answers to the frames just sent.
        for fd in sorted(fds, key=ports.__contains__) if len(fds) > 1 else fds:
            callback = callbacks.get(fd)
            if callback is not None:
                callback()

    def _end_poll(self) -> None:
        """Make the calls that were deferred until the end of this poll."""
        self._polling = False
        if self._deferred:
            deferred, self._deferred = self._deferred, {}
            for notify in deferred:
                notify()

    def fileno(self) -> int:
        """Return the descriptor of the epoll set."""
        return self._epoll.fileno()

    def _poll(self) -> bool:
        """Serve all ready descriptors; return whether more may be ready."""
        poll = self._epoll.poll
        self._polling = True
        try:
            for _ in range(EPOLL_PASSES_PER_POLL):
                events = poll(0)
                if not events:
                    return False
                self._call_each([fd for fd, _ in events])
            return True
        finally:
            self._end_poll()

    def pause_now(self) -> float:
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
