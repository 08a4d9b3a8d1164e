"""One direction of a wire: frames one after the other, each as long as its bytes take, with the faults of the wire."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping

from vnet.link.base import Direction
from vnet.link.wire.impairments import Carried, Impairments, WireFault, kind_of

__all__ = ["Channel"]

FLIGHT = 150.0
"""Nanoseconds from the last symbol sent to the frame's handling at the other end."""


class Channel:
    """Frames under way. Times in nanoseconds."""

    def __init__(
        self,
        direction: Direction,
        ns_per_byte: float,
        impairments: Impairments,
        effects: Mapping[WireFault, Callable[[], None]],
    ) -> None:
        """``effects`` are called for the faults that are about more than a frame, which is lost."""
        self.direction = direction
        self.free_at = 0.0
        """Time at which the next frame can be sent."""
        self.frames = 0
        self.bytes = 0
        self._ns_per_byte = ns_per_byte
        self._impairments = impairments
        self._effects = effects
        self._flying: deque[tuple[float, bytes]] = deque()
        self._held: bytes | None = None
        """A frame that arrives after the next TLP."""

    @property
    def next_arrival(self) -> float:
        return self._flying[0][0] if self._flying else math.inf

    def clear(self) -> None:
        """Lose all frames under way."""
        self._flying.clear()
        self._held = None

    def send(self, frame: bytes, now: float) -> None:
        """Send a frame."""
        self.frames += 1
        self.bytes += len(frame)
        self.free_at = now + len(frame) * self._ns_per_byte
        carried = kind_of(frame)
        fault = self._impairments.judge(carried, self.direction)
        arrives = self.free_at + FLIGHT
        if fault is None or fault is WireFault.DUPLICATED:
            self._flying.append((arrives, frame))
            if fault is not None:
                self._flying.append((arrives, frame))
        elif fault is WireFault.BIT_ERRORS:
            self._flying.append((arrives, self._impairments.damage(frame)))
        elif fault is WireFault.REORDERED and self._held is None:
            self._held = frame
            return
        elif fault in self._effects:
            self._effects[fault]()
        if self._held is not None and carried is Carried.TLP:
            self._flying.append((arrives, self._held))
            self._held = None

    def arrive(self) -> bytes:
        """Return the next frame that arrives."""
        return self._flying.popleft()[1]
