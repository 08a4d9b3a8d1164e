"""The receiver's half of reliable delivery: each TLP once and in order, Ack and Nak (PCI Express 3.6.3)."""

from __future__ import annotations

import math

from vnet.link.datalink.dllps import SEQUENCES, Ack
from vnet.link.datalink.errors import BadFrame, DataLinkError
from vnet.link.datalink.frames import SequencedTlp

__all__ = ["Acknowledger"]

HALF = SEQUENCES // 2


class Acknowledger:
    """Accepts TLPs by their sequence numbers, and says what to acknowledge. Times in nanoseconds."""

    def __init__(self, latency: int) -> None:
        """``latency`` is the longest time from a TLP to its Ack."""
        self._latency = latency
        self._next = 0
        """Sequence number of the next TLP (NEXT_RCV_SEQ)."""
        self._naked = False
        """A Nak was scheduled, and no TLP accepted since (NAK_SCHEDULED)."""
        self._negative = False
        """A Nak is to be sent."""
        self.deadline: float = math.inf
        """Time at which an acknowledgement is due."""
        self.duplicates = 0

    def accept(self, packet: SequencedTlp, now: float) -> bytes | None:
        """Return the TLP if it is the next one; None for one that was accepted before.

        Raises `BadFrame` if one between was lost.
        """
        ahead = (packet.sequence - self._next) % SEQUENCES
        if ahead == 0:
            self._next = (self._next + 1) % SEQUENCES
            self._naked = self._negative = False
            self.deadline = min(self.deadline, now + self._latency)
            return packet.packet
        if ahead >= HALF:
            self.duplicates += 1
            self.deadline = now  # the sender lacks an Ack
            return None
        raise BadFrame(DataLinkError.BAD_TLP, f"sequence number {packet.sequence}: must be {self._next}")

    def refuse(self, now: float) -> None:
        """Ask for a replay, unless that was done since the last good TLP."""
        if not self._naked:
            self._naked = self._negative = True
            self.deadline = now

    def take(self, now: float) -> Ack | None:
        """Return the acknowledgement that is due; None if there is none."""
        if now < self.deadline:
            return None
        self.deadline = math.inf
        negative, self._negative = self._negative, False
        return Ack((self._next - 1) % SEQUENCES, negative)
