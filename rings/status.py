"""The device status field: who may set which bit after which (VIRTIO 1.4 sections 2.1 and 3.1.1)."""

from __future__ import annotations

from enum import IntFlag

__all__ = ["MOVES", "Status", "next_status"]


class Status(IntFlag):
    ACKNOWLEDGE = 1
    DRIVER = 2
    DRIVER_OK = 4
    FEATURES_OK = 8
    NEEDS_RESET = 64
    FAILED = 128


MOVES: dict[Status, Status] = {
    # The bit a driver may set: the bits that must stand before it. NEEDS_RESET is the device's own.
    Status.ACKNOWLEDGE: Status(0),
    Status.DRIVER: Status.ACKNOWLEDGE,
    Status.FEATURES_OK: Status.ACKNOWLEDGE | Status.DRIVER,
    Status.DRIVER_OK: Status.ACKNOWLEDGE | Status.DRIVER | Status.FEATURES_OK,
    Status.FAILED: Status(0),
}


def next_status(old: Status, written: int) -> Status:
    """What a device's status becomes when its driver writes ``written`` (not 0, which resets).

    A write that would clear a bit changes nothing; a bit that is not due yet stays unset, as does any
    after FAILED. What the device thinks of FEATURES_OK is for the caller to say.
    """
    if old & ~Status.NEEDS_RESET & ~written or old & Status.FAILED:
        return old
    new = old
    for bit, needed in MOVES.items():
        if written & bit and needed & ~new == 0:
            new |= bit
    return new
