"""The device status field and the order in which a driver sets its bits (VIRTIO 1.4 sections 2.1 and 3.1.1)."""

from __future__ import annotations

from enum import IntFlag

__all__ = ["MOVES", "Status", "next_status", "status_names"]


class Status(IntFlag):
    """Bits of the device status field."""

    ACKNOWLEDGE = 1
    DRIVER = 2
    DRIVER_OK = 4
    FEATURES_OK = 8
    NEEDS_RESET = 64
    FAILED = 128


MOVES: dict[Status, Status] = {
    # Bit that a driver may set: bits that have to be set before. Only the device sets NEEDS_RESET.
    Status.ACKNOWLEDGE: Status(0),
    Status.DRIVER: Status.ACKNOWLEDGE,
    Status.FEATURES_OK: Status.ACKNOWLEDGE | Status.DRIVER,
    Status.DRIVER_OK: Status.ACKNOWLEDGE | Status.DRIVER | Status.FEATURES_OK,
    Status.FAILED: Status(0),
}


def status_names(status: int) -> tuple[str, ...]:
    """Return the names of the bits that are set, in the order of their values."""
    return tuple(str(bit.name) for bit in Status if status & bit)


def next_status(old: Status, written: int) -> Status:
    """Return a device's status after its driver writes ``written`` (not 0, which resets).

    A write that would clear a bit changes nothing. A bit without its predecessors stays unset, as does any bit after
    FAILED. The caller decides whether the device accepts FEATURES_OK.
    """
    if old & ~Status.NEEDS_RESET & ~written or old & Status.FAILED:
        return old
    new = old
    for bit, needed in MOVES.items():
        if written & bit and needed & ~new == 0:
            new |= bit
    return new
