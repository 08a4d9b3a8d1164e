"""The chains of one queue, shared by both sides: they join the events of a chain, and a chain to its frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import attrs

from drivers.contracts.events import Buffer
from vnet.linux.memory import address_of

__all__ = ["Chain", "QueueChains", "Side", "place_of"]

Side = Literal["driver", "device"]


def place_of(view: memoryview) -> int | None:
    """Return the address of a view's first byte in this process; None if it is empty or read-only."""
    try:
        return address_of(view)
    except (TypeError, ValueError):
        return None


@attrs.define(eq=False)
class Chain:
    """A chain in flight."""

    number: int
    head: int
    frame: int | None = None
    buffers: Sequence[Buffer] = ()
    """Buffers as the device has read them; empty before."""
    readable: int = 0
    """Bytes that the device may read."""
    moved: bool = False
    """Whether an event has reported the bytes that the device read."""
    place: int | None = None
    """Its key in `QueueChains.places` of the device's side."""


class QueueChains:
    """The chains of one queue. Both sides share it, if both are in this process.

    Views of one buffer have the same address in the process: by it, ports find the chain or the frame of a buffer.
    """

    def __init__(self) -> None:
        self.in_flight: dict[Side, dict[int, Chain]] = {"driver": {}, "device": {}}
        """Chains that each side has given or taken and not got or given back, by head."""
        self.finished: dict[int, Chain] = {}
        """Chains that the device has completed and the driver has not taken back, by head."""
        self.places: dict[Side, dict[int, Chain]] = {"driver": {}, "device": {}}
        """Chains by the place in their buffers at which that side's port reads or writes a frame."""
        self.frames: dict[int, int] = {}
        """Frames that a driver's port read into buffers that are in no chain yet, by place."""
        self.published: dict[str, int] = {}
        """`published` of the last kick and the last call."""
        self.watched = False
        """Whether the rings of the queue are watched; if not, no frame can be joined to a chain."""
        self.has_port = False
        """Whether the device's port is watched, so that what it sends tells which bytes it read."""

    def take(self, head: int, number: int) -> Chain:
        """Return the chain that the device takes: the driver's, or a new one if no driver is watched."""
        chain = self.in_flight["driver"].get(head) or Chain(number, head)
        self.in_flight["device"][head] = chain
        return chain

    def give_up(self, head: int) -> Chain | None:
        """Return the chain that the device completes or abandons; None if it was taken before there were observers."""
        chain = self.in_flight["device"].pop(head, None)
        if chain is not None and chain.place is not None:
            self.places["device"].pop(chain.place, None)
        return chain

    def finish(self, head: int, number: int) -> Chain:
        """Return the chain that the driver takes back; ``number`` is for a chain that no emitter has seen."""
        done = self.finished.pop(head, None)
        return self.in_flight["driver"].pop(head, None) or done or Chain(number, head)

    def forget(self, side: Side) -> None:
        """Forget all chains of a side, whose ring stopped."""
        self.in_flight[side].clear()
        self.places[side].clear()
        if side == "device":
            self.finished.clear()
        else:
            self.frames.clear()
