"""Must I tell the other side? One predicate, for both directions and both ring formats."""

from __future__ import annotations

__all__ = ["need_event"]


def need_event(event: int, new: int, old: int) -> bool:
    """Whether an index that went from ``old`` to ``new`` passed ``event`` (all modulo 2^16).

    VIRTIO 1.4 section 2.7.7.1: the other side asked to be told when the entry at ``event`` is there.
    """
    return (new - event - 1) & 0xFFFF < (new - old) & 0xFFFF
