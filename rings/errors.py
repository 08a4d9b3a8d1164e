"""Every error a ring can end in: an access that did not happen, our misuse, or the peer's violation."""

from __future__ import annotations

__all__ = ["BadChain", "BadRing", "LocalRingError", "MemoryFault", "QueueFull", "RemoteRingError", "RingError"]


class MemoryFault(Exception):
    """An access that did not happen; neither side's lie, so the transport decides what it means.

    ``addr`` and ``size`` (bytes) say what was asked for, ``write`` the direction, ``reason`` why not.
    """

    def __init__(self, addr: int, size: int, *, write: bool, reason: str) -> None:
        super().__init__(addr, size, write, reason)
        self.addr = addr
        self.size = size
        self.write = write
        self.reason = reason

    def __str__(self) -> str:
        return f"{'write' if self.write else 'read'} of {self.size} bytes at {self.addr:#x}: {self.reason}"


class RingError(Exception):
    """A virtqueue could not go on; exactly two kinds exist: ours (local) and theirs (remote)."""


class LocalRingError(RingError):
    """Our own code misused a ring: a bug on this side, never caught by the stack."""


class QueueFull(LocalRingError):
    """More descriptors were asked for than are free; look at ``num_free`` before adding."""


class RemoteRingError(RingError):
    """The other side broke the rules of the ring; its queue stops, nothing else does."""


class BadRing(RemoteRingError):
    """The ring as a whole can't be trusted any more: it is latched until reset."""


class BadChain(RemoteRingError):
    """One chain has a shape its device can't serve; the ring itself stays sound. ``head`` names it."""

    def __init__(self, head: int, reason: str) -> None:
        super().__init__(head, reason)
        self.head = head
        self.reason = reason

    def __str__(self) -> str:
        return f"chain at descriptor {self.head}: {self.reason}"
