"""The sender's half of reliable delivery: sequence numbers, replay buffer and replay timer (PCI Express 3.6.2)."""

from __future__ import annotations

import math
from collections import deque

from vnet.link.datalink.dllps import SEQUENCES, Ack
from vnet.link.datalink.frames import frame_tlp

__all__ = ["ReplayBuffer"]

HALF = SEQUENCES // 2
REPLAYS = 4
"""Values of REPLAY_NUM: this many replays without progress roll it over."""


class ReplayBuffer:
    """TLPs from the time they are handed over until they are acknowledged. Times in nanoseconds."""

    def __init__(self, timeout: int, room: int) -> None:
        """``timeout`` is that of the replay timer; ``room`` the number of TLPs, at most 2047."""
        if not 0 < room < HALF:
            raise ValueError(f"a replay buffer for {room} TLPs: must be 1 to {HALF - 1}")
        self._timeout = timeout
        self._room = room
        self._frames: deque[bytes] = deque()
        self._next = 0
        """Sequence number of the next TLP (NEXT_TRANSMIT_SEQ)."""
        self._cursor = 0
        """Number of frames at the front of the buffer that were sent since the last replay began."""
        self._sent = 0
        """Number of frames at the front of the buffer that were ever sent."""
        self._replays = 0
        """Replays without progress (REPLAY_NUM)."""
        self.deadline: float = math.inf
        """Time at which the replay timer expires."""
        self.repeated = 0
        """Frames that were sent again."""

    @property
    def room(self) -> bool:
        """Whether there is room for another TLP."""
        return len(self._frames) < self._room

    @property
    def unacknowledged(self) -> int:
        return len(self._frames)

    @property
    def waiting(self) -> bool:
        """Whether a frame is to be sent, for the first time or again."""
        return self._cursor < len(self._frames)

    def add(self, packet: bytes) -> None:
        """Give a TLP the next sequence number. There must be room."""
        self._frames.append(frame_tlp(self._next, packet))
        self._next = (self._next + 1) % SEQUENCES

    def take(self, now: float) -> bytes:
        """Return the next frame to send. There must be one."""
        frame = self._frames[self._cursor]
        if self._cursor < self._sent:
            self.repeated += 1
        self._cursor += 1
        self._sent = max(self._sent, self._cursor)
        if self.deadline == math.inf:
            self.deadline = now + self._timeout
        return frame

    def acknowledge(self, ack: Ack, now: float) -> bool | None:
        """Drop acknowledged TLPs, and replay the others after a Nak.

        Returns whether REPLAY_NUM rolled over, so that the link must be retrained; None if ``ack`` names a TLP that was
        not sent, which is a protocol error.
        """
        oldest = (self._next - len(self._frames)) % SEQUENCES
        count = (ack.sequence - oldest + 1) % SEQUENCES
        if count > HALF:  # an earlier acknowledgement, again
            count = 0
        if count > self._sent:
            return None
        if count:
            for _ in range(count):
                self._frames.popleft()
            self._sent -= count
            self._cursor = max(0, self._cursor - count)
            self._replays = 0
            self.deadline = now + self._timeout if self._sent else math.inf
        return self.replay() if ack.negative else False

    def replay(self) -> bool:
        """Send all frames again that were sent; return whether REPLAY_NUM rolled over."""
        self.deadline = math.inf  # held until the first frame is sent
        if not self._sent:
            return False
        self._cursor = 0
        self._replays = (self._replays + 1) % REPLAYS
        return self._replays == 0
