"""Notification suppression: one predicate per ring format, used in both directions."""

from __future__ import annotations

__all__ = ["AT_POSITION", "DISABLED", "need_event", "need_position"]

DISABLED, AT_POSITION = 1, 2
"""Flags of a packed ring's event suppression area (VIRTIO 1.4 section 2.8.10)."""


def need_event(event: int, new: int, old: int) -> bool:
    """Return whether an index that moved from ``old`` to ``new`` passed ``event`` (all modulo 2^16).

    The other side requests a notification for the entry at ``event`` (VIRTIO 1.4 section 2.7.7.1).
    """
    return (new - event - 1) & 0xFFFF < (new - old) & 0xFFFF


def need_position(event: int, slot: int, lap: int, moved: int, num: int, event_idx: bool) -> bool:
    """Return whether a packed ring of ``num`` descriptors has to notify after ``moved`` of them, up to ``slot``.

    ``event`` is the other side's event suppression area as one word, ``lap`` the wrap counter at ``slot``. An invalid
    area (a flag without the feature, an unknown flag, a descriptor beyond the ring) leads to a notification, so that
    the other side does not wait in vain (section 2.8.10).
    """
    flags = event >> 16 & 3
    if flags == DISABLED:
        return False
    wanted = event & 0x7FFF
    if flags != AT_POSITION or not event_idx or wanted >= num:
        return True
    if event >> 15 & 1 != lap:
        wanted -= num
    return slot - moved <= wanted < slot
