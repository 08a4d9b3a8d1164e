"""What both ends of virtio over an NTB do alike: hear doorbells, beat, and look at the scratchpads.

Nothing polls: every change is followed by a doorbell. A look on every beat finds what was lost on the way, be it a
doorbell or the other end itself.
"""

from __future__ import annotations

from collections.abc import Sequence

import trio

from drivers.carriers.ntb import NtbDevice
from drivers.errors import ProbeError
from drivers.flow.pump import QueueEnd, Signal
from drivers.transports.ntb.registers import DB_CONTROL, DB_MASK, SPADS, Spad
from rings.features import bits

__all__ = ["BEAT", "BEATS_MISSED", "NtbEnd"]

BEAT = 0.04
"""Seconds between two beats."""
BEATS_MISSED = 4
"""Beats of our own without one of the other end's, until it counts as dead: at most 0.2 s in all."""


class NtbEnd:
    """One end. ``session`` is not 0 while the two ends deal with each other, or are about to."""

    def __init__(self) -> None:
        self.session = 0
        self.link_epoch = 0
        """Of the link, when the session began: a flap that was too short to be seen changes it."""
        self.rescues = 0
        """Times that a beat found what a doorbell should have told."""
        self._woken = Signal()
        self.engaged = False
        """Whether the other end is known to be there, and has to beat."""
        self._beats = 0
        self._heard = -1
        self._missed = 0

    @property
    def ntb(self) -> NtbDevice:
        raise NotImplementedError

    def queue_ends(self) -> Sequence[QueueEnd]:
        """This side's ends of all queues."""
        raise NotImplementedError

    def rang(self, queue: int) -> None:
        """The other end notifies a queue."""
        raise NotImplementedError

    async def look(self) -> None:
        """See what the scratchpads say, and do what follows."""
        raise NotImplementedError

    def end(self, fault: str = "") -> None:
        """The session is over, at once: nothing of it is touched any more. Harmless where there is none.

        ``fault`` says what was wrong with the other end; a link that goes, or an end that leaves, is no fault.
        """
        raise NotImplementedError

    async def run(self) -> None:
        """Deal with the other end until cancelled; `stop` comes after it. Raises ProbeError."""
        check(self.ntb)
        self.ntb.watch(self)
        self.ntb.db_clear(DB_MASK)
        self.ntb.link_enable()
        due = trio.current_time()
        while True:
            with trio.move_on_at(due):
                await self._woken.wait()
            if trio.current_time() >= due:
                due = trio.current_time() + BEAT  # after a stall none is made up for: the other end's are late, too
                self._beat()
                self._rescue()
            await self.look()

    def stop(self) -> None:
        self.ntb.watch(None)
        self.end()
        self.ntb.link_disable()

    def told(self) -> None:
        """The other end changed something: look soon."""
        self._woken.set()

    def tell(self) -> None:
        """Have the other end look."""
        self.ntb.peer_db_set(DB_CONTROL)

    # NtbEvents

    def link_event(self) -> None:
        if not self.linked():
            self.end()
        self._woken.set()

    def db_event(self) -> None:
        while rung := self.ntb.db_read() & DB_MASK:
            self.ntb.db_clear(rung)
            if rung & DB_CONTROL:
                self.told()
            for queue in bits(rung & ~DB_CONTROL):
                self.rang(queue)

    def linked(self) -> bool:
        """Whether the link is up, and is still that of the session."""
        return self.ntb.link_is_up and (not self.session or self.ntb.link_epoch == self.link_epoch)

    def begin(self, session: int) -> None:
        """A session, with the link as it is now."""
        self.session, self.link_epoch = session, self.ntb.link_epoch

    def engage(self) -> None:
        """From now on the other end has to beat."""
        self.engaged, self._missed = True, 0

    def _beat(self) -> None:
        if not self.ntb.link_is_up:
            return
        self._beats = self._beats + 1 & 0xFFFF_FFFF
        self.ntb.peer_spad_write(Spad.BEAT, self._beats)
        heard, self._heard = self._heard, self.ntb.spad_read(Spad.BEAT)
        self._missed = self._missed + 1 if heard == self._heard else 0
        if self._missed >= BEATS_MISSED and self.engaged:
            self.end("the other host gives no sign of life")

    def _rescue(self) -> None:
        for queue in self.queue_ends():
            if queue.live and queue.reachable() and queue.signal.awaited and queue.rearm():
                self.rescues += 1
                queue.signal.rescues += 1
                queue.signal.set()


def check(ntb: NtbDevice) -> None:
    """Raise ProbeError for an NTB that lacks what this needs."""
    if ntb.spad_count < SPADS:
        raise ProbeError(f"{ntb.name}: it has {ntb.spad_count} scratchpads, {SPADS} are needed")
    if DB_MASK & ~ntb.db_valid_mask:
        raise ProbeError(f"{ntb.name}: it has doorbells {ntb.db_valid_mask:#x}, {DB_MASK:#x} are needed")
