"""Emitters of both sides of one queue: chains, notifications due, and the bytes that the device moved."""

from __future__ import annotations

from collections.abc import Sequence

import trio

from drivers.contracts.events import (
    Buffer,
    ChainAbandoned,
    ChainAdded,
    ChainCompleted,
    ChainReturned,
    ChainTaken,
    DmaMoved,
    Events,
    Notified,
    Source,
)
from drivers.devices.net.header import HEAD
from rings.chain import Chain as TakenChain
from rings.chain import skip, total
from rings.errors import MemoryFault
from rings.memory import Addr, Memory
from rings.observers.live import Access, AddedChain, DriverObserver, TakenBuffers, device_side
from rings.observers.observed import Observer
from rings.queue import Virtqueue, Vringh
from rings.sides import DriverSide
from vnet.emitters.chains import Chain, QueueChains, place_of

__all__ = ["DeviceEmitter", "DriverEmitter", "emit_read"]


def emit_read(events: Events, source: Source, chain: Chain, size: int) -> None:
    """Emit that the device read ``size`` bytes of a chain."""
    chain.moved = True
    if (emit := events.tlps) is not None:
        addr = chain.buffers[0].addr if chain.buffers else 0
        emit(DmaMoved(trio.current_time(), source, False, addr, size, chain.number, chain.frame))


class DriverEmitter(DriverObserver):
    """Emits the events of the driver's side."""

    def __init__(self, events: Events, source: Source, ring: Virtqueue, chains: QueueChains) -> None:
        assert isinstance(ring, DriverSide)
        counted, flight = ring.statistics(), ring.state().in_flight
        self._events = events
        self._source = source
        self._memory: Memory = ring.memory
        self._chains = chains
        self._next = self._published = counted.chains
        self._unseen = counted.chains - flight  # the oldest chain that was added before
        chains.published["kick"] = self._published

    def added(self, chains: Sequence[AddedChain], /) -> None:
        emit, now, flight = self._events.rings, trio.current_time(), self._chains.in_flight["driver"]
        for added in chains:
            chain = flight[added.head] = Chain(self._next, added.head)
            self._next += 1
            first = (added.readable or added.writable)[0]
            if added.readable and self._chains.frames and (place := self._place(first[0], first[1])) is not None:
                chain.frame = self._chains.frames.pop(place, None)
            if emit is not None:
                buffers = [
                    Buffer(addr, size, writable)
                    for segments, writable in ((added.readable, False), (added.writable, True))
                    for addr, size in segments
                ]
                emit(ChainAdded(now, self._source, chain.number, chain.head, chain.frame, buffers, added.indirect))

    def published(self, kick: bool, /) -> None:
        if not kick and self._published == self._next:
            return
        self._published = self._chains.published["kick"] = self._next
        if (emit := self._events.rings) is not None:
            now = trio.current_time()
            emit(Notified(now, self._source, "kick", "sent" if kick else "suppressed", self._next))

    def returned(self, done: Sequence[tuple[int, int]], /) -> None:
        emit, now = self._events.rings, trio.current_time()
        for head, written in done:
            chain = self._chains.finish(head, self._unseen)
            self._unseen = max(self._unseen, chain.number + 1)
            if written and chain.buffers:
                self._note_place(chain)
            if emit is not None:
                emit(ChainReturned(now, self._source, chain.number, head, chain.frame, written))

    def closed(self) -> None:
        self._chains.forget("driver")

    def _note_place(self, chain: Chain) -> None:
        """Note where the frame in a chain, behind its header, is handed to the port."""
        offset = HEAD
        for buffer in chain.buffers:
            if not buffer.writable:
                continue
            if offset < buffer.size:
                if (place := self._place(buffer.addr + offset, 1)) is not None:
                    self._chains.places["driver"][place] = chain
                return
            offset -= buffer.size

    def _place(self, addr: int, size: int) -> int | None:
        try:
            return place_of(self._memory.view(Addr(addr), min(size, 1)))
        except (MemoryFault, ValueError):
            return None


class DeviceEmitter(Observer):
    """Emits the events of the device's side."""

    def __init__(
        self,
        events: Events,
        source: Source,
        dma: Source,
        ring: Vringh,
        chains: QueueChains,
        buffers: TakenBuffers,
    ) -> None:
        """``dma`` is the source of the device's accesses to the driver's memory."""
        self._events = events
        self._source = source
        self._dma = dma
        self._ring = ring
        self._chains = chains
        self._buffers = buffers
        self._notified = (0, 0)
        chains.published["call"] = ring.statistics().returned
        flight = set(ring.in_flight())
        number = ring.statistics().chains
        for head in reversed(device_side(ring).taken_last()):
            number -= 1
            if head in flight:  # its latest taking; earlier ones of the same head are over
                flight.discard(head)
                chains.take(head, number)

    def taking(self) -> None:
        self._buffers.forget()

    def took(self, chains: Sequence[TakenChain], /) -> None:
        if not chains:
            return
        emit, now = self._events.rings, trio.current_time()
        number = self._ring.statistics().chains - len(chains)
        described = self._buffers.of(chains)
        for (head, readable, writable), (accesses, indirect) in zip(chains, described, strict=True):
            chain = self._chains.take(head, number)
            number += 1
            chain.buffers = [_buffer(access) for access in accesses]
            chain.readable = total(readable)
            # A port sends what is behind the header of a readable chain, and fills a writable one from its start.
            views = skip(readable, HEAD) if readable else writable
            chain.place = place_of(views[0]) if views else None
            if chain.place is not None:
                self._chains.places["device"][chain.place] = chain
            if emit is not None:
                emit(ChainTaken(now, self._source, chain.number, head, chain.frame, chain.buffers, indirect))

    def put_back(self, heads: Sequence[int], /) -> None:
        emit, now = self._events.rings, trio.current_time()
        for head in heads:
            chain = self._chains.give_up(head)
            if chain is not None and emit is not None:
                emit(ChainAbandoned(now, self._source, chain.number, head, chain.frame))

    def completed(self, done: Sequence[tuple[int, int]], /) -> None:
        emit, now = self._events.rings, trio.current_time()
        for head, written in done:
            chain = self._chains.give_up(head)
            if chain is None:
                continue
            if chain.readable and not chain.moved:
                # A device that sends to a port reads no more than the header of a frame that it drops.
                most = HEAD if self._chains.has_port else chain.readable
                emit_read(self._events, self._dma, chain, min(chain.readable, most))
            if written and (moved := self._events.tlps) is not None:
                addr = next((buffer.addr for buffer in chain.buffers if buffer.writable), 0)
                moved(DmaMoved(now, self._dma, True, addr, written, chain.number, chain.frame))
            self._chains.finished[head] = chain
            if emit is not None:
                emit(ChainCompleted(now, self._source, chain.number, head, chain.frame, written))

    def publishing(self) -> None:
        counted = self._ring.statistics()
        self._notified = counted.notifications, counted.suppressed

    def published(self) -> None:
        counted = self._ring.statistics()
        calls, suppressed = self._notified
        if (counted.notifications, counted.suppressed) == (calls, suppressed):
            return
        self._chains.published["call"] = counted.returned
        if (emit := self._events.rings) is not None:
            now, sent = trio.current_time(), counted.notifications > calls
            emit(Notified(now, self._source, "call", "sent" if sent else "suppressed", counted.returned))

    def closed(self) -> None:
        self._chains.forget("device")


def _buffer(access: Access) -> Buffer:
    return Buffer(access.addr, access.size, access.writable)
