"""Errors of rings: a failed memory access, our own misuse, or the peer's violation."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = [
    "BadChain",
    "BadRing",
    "LocalRingError",
    "MemoryFault",
    "QueueFull",
    "RemoteRingError",
    "RingError",
    "named",
    "section_of",
]


NAMED = 20
"""Heads that an error names: a peer chooses how many there are."""


def named(heads: Sequence[int]) -> str:
    """Return the first `NAMED` heads as text."""
    return ", ".join([*map(str, heads[:NAMED]), *(["..."] if len(heads) > NAMED else [])])


class MemoryFault(Exception):
    """A failed memory access. Neither side need be at fault, so the transport decides what it means.

    ``addr`` and ``size`` (bytes) are the requested range, ``write`` is the direction, ``reason`` the cause.
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
    """A ring error: either ours (`LocalRingError`) or the peer's (`RemoteRingError`)."""


class LocalRingError(RingError):
    """Misuse of a ring by our own code: a bug on this side, never caught by the stack."""


class QueueFull(LocalRingError):
    """Too few free descriptors; check ``num_free`` before adding."""


class RemoteRingError(RingError):
    """A violation of the ring's rules by the other side. Stops only this queue."""

    section = ""
    """Section of VIRTIO 1.4 with the violated rule, such as 2.7.5.2; empty if there is none."""


class BadRing(RemoteRingError):
    """A violation that makes the whole ring untrustworthy: the queue is latched until reset."""

    def __init__(self, reason: str, section: str = "") -> None:
        super().__init__(reason)
        self.section = section


class BadChain(RemoteRingError):
    """A chain, named by ``head``, with a shape that the device can't serve. The ring itself stays valid."""

    def __init__(self, head: int, reason: str) -> None:
        super().__init__(head, reason)
        self.head = head
        self.reason = reason

    def __str__(self) -> str:
        return f"chain at descriptor {self.head}: {self.reason}"


def section_of(error: RemoteRingError | MemoryFault) -> str:
    """Return the section of VIRTIO 1.4 with the rule that ``error`` violates; "" if there is none."""
    return error.section if isinstance(error, RemoteRingError) else ""
