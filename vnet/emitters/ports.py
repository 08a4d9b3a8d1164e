"""Emitters of a queue of a port: the frames that enter and leave through it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

import attrs
import trio

from drivers.contracts.events import Events, FrameReceived, FrameSent, Source
from drivers.contracts.ports import HEADER_SIZE, PacketQueue
from rings.chain import copy_out, skip, take
from rings.observers.overlay import Overlay
from vnet.emitters.chains import QueueChains, Side, place_of
from vnet.emitters.rings import emit_read
from vnet.ports.packet.base import CountingPort

__all__ = ["PortEnd", "watch_port"]

_FRAMES = count(1)


@attrs.frozen
class PortEnd:
    """One direction of a port's queue: the virtqueue that it works for."""

    source: Source
    dma: Source
    """Source of the accesses of the device's side."""
    chains: QueueChains
    side: Side


class _WatchedQueue:
    """Calls of a port's queue that emit events."""

    def __init__(self, queue: PacketQueue, events: Events, inward: PortEnd, outward: PortEnd) -> None:
        self._events = events
        self._inward = inward
        self._outward = outward
        self._recv, self._send = queue.recv_into, queue.send
        self._counters = queue if isinstance(queue, CountingPort) else None

    def recv_into(self, segs: Sequence[memoryview], /) -> int:
        size = self._recv(segs)
        if size:
            self._received(segs, size)
        return size

    def _received(self, segs: Sequence[memoryview], size: int) -> None:
        end, frame = self._inward, next(_FRAMES)
        chain = None
        place = place_of(segs[0]) if end.chains.watched else None
        if place is not None:
            chain = end.chains.places[end.side].get(place)
            if chain is not None:
                chain.frame = frame
            elif end.side == "driver":
                end.chains.frames[place] = frame
        if (emit := self._events.frames) is not None:
            first = segs[0]
            if size <= len(first):
                header, pieces = bytes(first[:HEADER_SIZE]), [first[HEADER_SIZE:size]]
            else:
                header, pieces = copy_out(segs, HEADER_SIZE), skip(take(segs, size), HEADER_SIZE)
            number = None if chain is None else chain.number
            emit(FrameReceived(trio.current_time(), end.source, frame, number, header, size - HEADER_SIZE, pieces))

    def send(self, head: bytes, rest: Sequence[memoryview], /) -> bool:
        counters = self._counters
        before = 0 if counters is None else counters.tx_packets
        sent = self._send(head, rest)
        if sent and (counters is None or counters.tx_packets > before):  # else the port dropped it
            self._sent(head, rest)
        return sent

    def _sent(self, head: bytes, rest: Sequence[memoryview]) -> None:
        end = self._outward
        pieces = [memoryview(head)[HEADER_SIZE:], *rest]
        size = sum(map(len, pieces))
        place = place_of(rest[0]) if rest and end.chains.watched else None
        chain = None if place is None else end.chains.places[end.side].get(place)
        if chain is None:
            frame, number = next(_FRAMES), None
        else:
            chain.frame = next(_FRAMES) if chain.frame is None else chain.frame
            frame, number = chain.frame, chain.number
            if end.side == "device":
                emit_read(self._events, end.dma, chain, HEADER_SIZE + size)
        if (emit := self._events.frames) is not None:
            emit(FrameSent(trio.current_time(), end.source, frame, number, head[:HEADER_SIZE], size, pieces))


def watch_port(queue: PacketQueue, events: Events, inward: PortEnd, outward: PortEnd) -> Overlay:
    """Emit the frames of a port's queue from now on, until the overlay is removed.

    ``inward`` is the virtqueue that received frames go to, ``outward`` the one that sent frames come from.
    """
    watched = _WatchedQueue(queue, events, inward, outward)
    return Overlay(queue, {"recv_into": watched.recv_into, "send": watched.send})
