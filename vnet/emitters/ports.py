"""Emitters of a queue of a port: the frames that enter and leave through it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import cast

import attrs
import trio

from drivers.contracts.events import (
    Emit,
    Events,
    FrameEvent,
    FrameReceived,
    FrameSent,
    FrameSink,
    FrameWriter,
    Source,
)
from drivers.contracts.ports import HEADER_SIZE, FrameSlots, KnownHeads, NativeQueue, PacketQueue
from drivers.devices.net.header import HEAD
from rings.chain import copy_out, skip, take, total
from rings.memory import Addr
from rings.observers.overlay import Overlay
from vnet.emitters.chains import Chain, QueueChains, Side, place_of
from vnet.emitters.rings import emit_read
from vnet.ports.packet.base import CountingPort

__all__ = ["PortEnd", "watch_port"]

Frame = tuple[int, Sequence[memoryview]]
"""Bytes of a frame with its virtio_net_hdr, and views of them."""


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

    def __init__(
        self, queue: PacketQueue, events: Events, inward: PortEnd, outward: PortEnd, numbers: Iterator[int]
    ) -> None:
        self._events = events
        self._inward = inward
        self._outward = outward
        self._numbers = numbers
        self._recv, self._send = queue.recv_into, queue.send
        self._counters = queue if isinstance(queue, CountingPort) else None
        self._now = trio.lowlevel.current_clock().current_time
        self._sink: Emit | None = None
        self._write_received: FrameWriter | None = None
        self._write_sent: FrameWriter | None = None

    def recv_into(self, segs: Sequence[memoryview], /) -> int:
        size = self._recv(segs)
        if size:
            frame = next(self._numbers)
            chain = self._join_received(segs, frame) if self._inward.chains.watched else None
            if (sink := self._events.frames) is not self._sink:
                self._choose(sink)
            if (write := self._write_received) is not None:
                number = None if chain is None else chain.number
                write(self._now(), frame, number, size - HEADER_SIZE, segs)
        return size

    def _join_received(self, segs: Sequence[memoryview], frame: int) -> Chain | None:
        """Join a received frame to the chain that its buffer is in, or to the one that it will be in."""
        end = self._inward
        place = place_of(segs[0])
        if place is None:
            return None
        chain = end.chains.places[end.side].get(place)
        if chain is not None:
            chain.frame = frame
        elif end.side == "driver":
            end.chains.frames[place] = frame
        return chain

    def send(self, head: bytes, rest: Sequence[memoryview], /) -> bool:
        counters = self._counters
        before = 0 if counters is None else counters.tx_packets
        sent = self._send(head, rest)
        if sent and (counters is None or counters.tx_packets > before):  # else the port dropped it
            size = len(head) + (len(rest[0]) if len(rest) == 1 else total(rest))
            chain = self._join_sent(rest[0], size) if rest and self._outward.chains.watched else None
            frame = next(self._numbers) if chain is None or chain.frame is None else chain.frame
            if (sink := self._events.frames) is not self._sink:
                self._choose(sink)
            if (write := self._write_sent) is not None:
                number = None if chain is None else chain.number
                write(self._now(), frame, number, size - HEADER_SIZE, (memoryview(head), *rest))
        return sent

    def _join_sent(self, first: memoryview, size: int) -> Chain | None:
        """Return the chain of a sent frame, which gets a number if it has none."""
        end = self._outward
        place = place_of(first)
        chain = None if place is None else end.chains.places[end.side].get(place)
        if chain is not None:
            chain.frame = next(self._numbers) if chain.frame is None else chain.frame
            if end.side == "device":
                emit_read(self._events, end.dma, chain, size)
        return chain

    def received(self, frames: Iterable[Frame]) -> None:
        """Emit a batch of received frames."""
        self._emit_all(frames, received=True)

    def sent(self, frames: Iterable[Frame]) -> None:
        """Emit a batch of sent frames."""
        self._emit_all(frames, received=False)

    def _emit_all(self, frames: Iterable[Frame], *, received: bool) -> None:
        if (sink := self._events.frames) is not self._sink:
            self._choose(sink)
        write = self._write_received if received else self._write_sent
        if write is not None:
            now, numbers = self._now(), self._numbers
            for size, segs in frames:
                write(now, next(numbers), None, size - HEADER_SIZE, segs)

    def _choose(self, sink: Emit | None) -> None:
        """Hand frames to this sink from now on."""
        self._sink = sink
        self._write_received = _writer(sink, FrameReceived, self._inward.source)
        self._write_sent = _writer(sink, FrameSent, self._outward.source)


def _writer(sink: Emit | None, kind: type[FrameEvent], source: Source) -> FrameWriter | None:
    """Return the function that hands frames to a sink, as records if it takes nothing else."""
    if sink is None:
        return None
    if isinstance(sink, FrameSink):
        return sink.frame_writer(kind, source)

    def write(time: float, frame: int, chain: int | None, size: int, segs: Sequence[memoryview]) -> None:
        pieces = skip(take(segs, HEADER_SIZE + size), HEADER_SIZE)
        sink(kind(time, source, frame, chain, copy_out(segs, HEADER_SIZE), size, pieces))

    return write


class _WatchedBatches:
    """Calls of a queue that moves batches in C. Their frames belong to no chain, and those of a batch have one time."""

    def __init__(self, queue: NativeQueue, watched: _WatchedQueue) -> None:
        self._send_each = queue.send_each
        self._recv_chains, self._recv_slots = queue.recv_chains, queue.recv_slots
        self._watched = watched

    def send_each(
        self,
        view: memoryview,
        frames: Sequence[tuple[int, ...]],
        known: KnownHeads,
        exceptions: AbstractSet[bytes] | None = None,
        single: bool = False,
        pitch: int = 0,
        /,
    ) -> tuple[int, int]:
        count, octets = self._send_each(view, frames, known, exceptions, single, pitch)
        if count:
            self._watched.sent(_sent_in(view, frames[:count], known, pitch))
        return count, octets

    def recv_chains(
        self, view: memoryview, chains: Sequence[tuple[int, int, int]], verdicts: Mapping[bytes, str] | None, /
    ) -> tuple[list[tuple[int, int]], int, int]:
        done, octets, stopped = self._recv_chains(view, chains, verdicts)
        if done:
            self._watched.received(
                (size, (view[at : at + size],)) for (_, size), (_, at, _) in zip(done, chains, strict=False)
            )
        return done, octets, stopped

    def recv_slots(
        self, slots: FrameSlots, free: Sequence[int], limit: int, budget: int, /
    ) -> tuple[list[tuple[Addr, int, int]], int, int]:
        done, octets, stopped = self._recv_slots(slots, free, limit, budget)
        if done:
            view, start = slots.block, slots.addrs[0]
            self._watched.received((size, (view[addr - start : addr - start + size],)) for addr, size, _ in done)
        return done, octets, stopped


def _sent_in(view: memoryview, frames: Sequence[tuple[int, ...]], known: KnownHeads, pitch: int) -> Iterator[Frame]:
    """Yield frames that `NativeQueue.send_each` has sent, with the heads that the port got."""
    for frame in frames:
        at, size = (frame[0] * pitch, frame[1]) if pitch else frame[1:]
        head = view[at : at + HEAD].tobytes()
        verdict = known.get(head)  # None: a peer has written over it since
        out = head if verdict is None else verdict[2]
        yield len(out) + size - HEAD, (memoryview(out), view[at + HEAD : at + size])


def watch_port(
    queue: PacketQueue, events: Events, inward: PortEnd, outward: PortEnd, numbers: Iterator[int], *, batches: bool
) -> Overlay:
    """Emit the frames of a port's queue from now on, until the overlay is removed.

    ``inward`` is the virtqueue that received frames go to, ``outward`` the one that sent frames come from; ``numbers``
    has those of the frames. With ``batches``, the queue goes on to move batches in C if it does; their frames are not
    joined to chains.
    """
    watched = _WatchedQueue(queue, events, inward, outward, numbers)
    calls: dict[str, object] = {"recv_into": watched.recv_into, "send": watched.send}
    if hasattr(queue, "native"):
        if batches:
            native = _WatchedBatches(cast("NativeQueue", queue), watched)
            calls |= {name: getattr(native, name) for name in ("send_each", "recv_chains", "recv_slots")}
        else:
            calls["native"] = False
    return Overlay(queue, calls)
