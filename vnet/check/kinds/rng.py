"""Entropy devices (VIRTIO 1.4 section 5.4)."""

from __future__ import annotations

from vnet.check.front import Front
from vnet.check.kinds.base import Kind, Request
from vnet.check.split import Buffer

__all__ = ["ROOM", "Rng"]

ROOM = 64


class Rng(Kind):
    name = "rng"
    device_id = 4
    configured = False

    def request(self, front: Front) -> Request:
        """Return a request for random bytes, in two buffers."""
        buffers = [Buffer(front.arena.alloc(ROOM // 2), ROOM // 2, True) for _ in range(2)]

        def judge(used: int) -> str:
            if not used:
                return "it wrote no bytes"
            return "" if used <= ROOM else f"it says that it wrote {used} bytes into {ROOM}"

        return Request(buffers, judge)
