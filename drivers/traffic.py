"""What went one way, and what did not."""

from __future__ import annotations

__all__ = ["Traffic"]


class Traffic:
    """Figures of one direction since the device exists: in = out + dropped."""

    __slots__ = ("bytes", "drops", "packets")

    def __init__(self) -> None:
        self.packets = 0
        """Frames or messages passed on."""
        self.bytes = 0
        """Bytes of these, without their headers of virtio's."""
        self.drops: dict[str, int] = {}
        """Those not passed on, by cause."""

    def drop(self, cause: str, count: int = 1) -> None:
        if count:
            self.drops[cause] = self.drops.get(cause, 0) + count
