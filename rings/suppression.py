"""Must I tell the other side? One predicate for each ring format, the same for both directions."""

from __future__ import annotations

__all__ = ["need_event", "need_position"]

DISABLED, AT_POSITION = 1, 2


def need_event(event: int, new: int, old: int) -> bool:
    """Whether an index that went from ``old`` to ``new`` passed ``event`` (all modulo 2^16).

    VIRTIO 1.4 section 2.7.7.1: the other side asked to be told when the entry at ``event`` is there.
    """
    return (new - event - 1) & 0xFFFF < (new - old) & 0xFFFF


def need_position(event: int, slot: int, lap: int, moved: int, num: int, event_idx: bool) -> bool:
    """The same of a packed ring of ``num`` descriptors, where the last ``moved`` ones up to ``slot`` changed hands.

    ``event`` is the other side's event suppression area as one word, ``lap`` the wrap counter at ``slot``. What it
    must not hold (a flag without the feature, no flag there is, a descriptor there is not) asks for nothing that could
    be kept, and is told rather than left to wait (section 2.8.10).
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
