"""Common part of both ends of virtio over an NTB: doorbells, heartbeat, and scratchpad handling.

A doorbell follows every change. Each end also reads the scratchpads on every beat, to notice lost doorbells and a
dead peer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import trio

from drivers.carriers.ntb import NtbDevice
from drivers.errors import ProbeError
from drivers.flow.pump import QueueEnd, Signal, rescue
from drivers.transports.ntb.registers import DB_CONTROL, DB_MASK, SPADS, Spad
from rings.errors import MemoryFault, RemoteRingError
from rings.features import bits

__all__ = ["BEAT", "BEATS_MISSED", "NtbEnd"]

BEAT = 0.04
"""Seconds between two heartbeats."""
BEATS_MISSED = 4
"""Own beats without a beat of the peer until the peer counts as dead: at most 0.2 s in total."""


class NtbEnd(ABC):
    """One end of virtio over an NTB. ``session`` is not 0 during a session and during its handshake."""

    def __init__(self, ntb: NtbDevice | None = None) -> None:
        """``ntb`` may be set later, before `run`."""
        self._ntb = ntb
        self.session = 0
        self.link_epoch = 0
        """Link epoch at the start of the session; it changes even with a very short link flap."""
        self.rescues = 0
        """Lost doorbells: re-checks on a beat that found work."""
        self._wakeup = Signal()
        self.peer_joined = False
        """Whether the peer joined the session: then missed beats end the session."""
        self._beats = 0
        self._peer_beat = -1
        self._missed_beats = 0

    @property
    def ntb(self) -> NtbDevice:
        assert self._ntb is not None
        return self._ntb

    @abstractmethod
    def queue_ends(self) -> Sequence[QueueEnd]:
        """Return this side's ends of all queues."""

    @abstractmethod
    def queue_event(self, queue: int) -> None:
        """Handle the doorbell of a queue."""

    @abstractmethod
    async def handle_scratchpads(self) -> None:
        """Read the scratchpads and act on changes."""

    @abstractmethod
    def end(self, fault: str = "") -> None:
        """End the session at once, without further access to the peer's memory. Does nothing without a session.

        ``fault`` describes an error of the peer; a link failure or a peer that leaves is no fault.
        """

    async def run(self) -> None:
        """Serve the peer until cancelled; call `stop` afterwards. Raises ProbeError."""
        check(self.ntb)
        self.ntb.watch(self)
        self.ntb.db_clear(DB_MASK)
        self.ntb.link_enable()
        due = trio.current_time()
        while True:
            with trio.move_on_at(due):
                await self._wakeup.wait()
            if trio.current_time() >= due:
                due = trio.current_time() + BEAT  # skip beats missed in a stall: the peer's are late, too
                self._beat()
                self._recheck()
            await self.handle_scratchpads()

    def stop(self) -> None:
        self.ntb.watch(None)
        self.end()
        self.ntb.link_disable()

    def control_event(self) -> None:
        """Handle the control doorbell: have `run` read the scratchpads."""
        self._wakeup.set()

    def ring_control(self) -> None:
        """Ring the control doorbell: the peer reads the scratchpads."""
        self.ntb.peer_db_set(DB_CONTROL)

    # NtbEvents

    def link_event(self) -> None:
        if not self.link_valid():
            self.end()
        self._wakeup.set()

    def db_event(self) -> None:
        while doorbells := self.ntb.db_read() & DB_MASK:
            self.ntb.db_clear(doorbells)
            if doorbells & DB_CONTROL:
                self.control_event()
            for queue in bits(doorbells & ~DB_CONTROL):
                self.queue_event(queue)

    def link_valid(self) -> bool:
        """Return whether the link is up, and has been since the session began."""
        return self.ntb.link_is_up and (not self.session or self.ntb.link_epoch == self.link_epoch)

    def begin(self, session: int) -> None:
        """Begin a session on the current link epoch."""
        self.session, self.link_epoch = session, self.ntb.link_epoch

    def mark_joined(self) -> None:
        """Mark the peer as joined: from now on missed beats end the session."""
        self.peer_joined, self._missed_beats = True, 0

    def _beat(self) -> None:
        self.ntb.link_retry()
        if not self.ntb.link_is_up:
            return
        self._beats = self._beats + 1 & 0xFFFF_FFFF
        self.ntb.peer_spad_write(Spad.BEAT, self._beats)
        last, self._peer_beat = self._peer_beat, self.ntb.spad_read(Spad.BEAT)
        self._missed_beats = self._missed_beats + 1 if last == self._peer_beat else 0
        if self._missed_beats >= BEATS_MISSED and self.peer_joined:
            self.end("no heartbeat from the other host")

    def _recheck(self) -> None:
        for queue in self.queue_ends():
            if queue.live and queue.reachable() and queue.signal.awaited:
                try:
                    has_work = rescue(queue)
                    self.rescues += has_work
                except (MemoryFault, RemoteRingError):
                    has_work = True  # the queue's task meets the error again, and handles it
                if has_work:
                    queue.signal.set()


def check(ntb: NtbDevice) -> None:
    """Raise ProbeError if the NTB has too few scratchpads or doorbells."""
    if ntb.spad_count < SPADS:
        raise ProbeError(f"{ntb.name}: {ntb.spad_count} scratchpads, {SPADS} needed")
    if DB_MASK & ~ntb.db_valid_mask:
        raise ProbeError(f"{ntb.name}: doorbells {ntb.db_valid_mask:#x}, {DB_MASK:#x} needed")
