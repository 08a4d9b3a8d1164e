"""Flows of vhost-net, between the rings of one queue pair and one queue of the port."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from drivers.bus.vhost import DeviceQueue
from drivers.contracts.ports import HEADER_SIZE, NO_FRAME, NativeQueue, PacketQueue
from drivers.devices.net.device.merge import NUM_BUFFERS_AT, ONE_BUFFER, TakenChains
from drivers.devices.net.filter import FILTER_AT, FILTER_END, FrameFilter
from drivers.devices.net.flow import BUDGET, BUDGET_BYTES, CHUNK, FIRST_CHUNK, Figures, NetFlow, Traffic
from drivers.devices.net.hashing import without_report
from drivers.devices.net.header import HEAD, HeaderRules, unpack_head
from drivers.flow.pump import AGAIN, QUEUE, Wait
from rings.chain import Chain, copy_in, copy_out, skip, total
from rings.native import NATIVE
from rings.queue import Vringh

if TYPE_CHECKING or NATIVE:
    from rings.split.native import DeviceState, NativeSplitVringh

__all__ = ["VhostNetFlow", "VhostNetFromDriver", "VhostNetToDriver"]


class VhostNetFlow(NetFlow[DeviceQueue]):
    """The device's flow of one direction, which C can move."""

    WRITES: ClassVar[bool]
    """Whether it writes to the chains that it takes."""

    @property
    @abstractmethod
    def packets(self) -> int:
        """Packets whose chains the driver got back."""

    def lend(self) -> DeviceState | None:
        """Return the ring's state for C; None if that is not possible now."""
        ring = self.queue.ring
        if not (self.enabled and self.plain and self.queue.delay is None and isinstance(ring, NativeSplitVringh)):
            return None
        return ring.lend(self.WRITES)

    def take_back(self, places: tuple[int, int, int], taken: Sequence[int], figures: Figures, calls: int) -> None:
        """Continue behind frames that C has moved; ``places`` and ``taken`` as `NativeSplitVringh.take_back`."""
        ring = self.queue.ring
        assert isinstance(ring, NativeSplitVringh)
        ring.take_back(places, taken, figures.count, calls)
        self.count_each(figures)


class VhostNetFromDriver(VhostNetFlow):
    """A transmitq: frames from the driver to the port."""

    WRITES = False

    def __init__(
        self,
        queue: DeviceQueue,
        port: PacketQueue,
        traffic: Traffic,
        rules: HeaderRules,
        *,
        reports: bool = False,
    ) -> None:
        """``reports``: whether the header of a frame ends with a hash report, which a driver leaves empty."""
        super().__init__(queue, port, traffic, plain=not reports)
        self.rules = rules
        self.link_up = True
        """Whether the network is connected; if not, frames are dropped."""

    def move(self) -> tuple[int, Wait]:
        ring, traffic, rules = self.queue.ring, self.traffic, self.rules
        if ring is None:
            return 0, QUEUE
        if not self.enabled:
            return 0, self._switched
        if not self.link_up:
            return self._discard(ring)
        send, known, reports = self.port.send, rules.known, not self.plain
        native = self._native if self._native is not None and self._native.native else None
        moved = size = 0
        while moved < BUDGET and size < BUDGET_BYTES:
            limit = min(CHUNK, BUDGET - moved)
            if native is not None and (plain := ring.getplain(limit, False))[1]:
                packets, octets, chains = self._send(ring, native, *plain)
                moved += packets
                size += octets
                if not chains:
                    continue
            else:
                chains = ring.getdescs(limit)
                if not chains:
                    return moved, QUEUE
            done = packets = octets = 0
            try:
                for _, readable, writable in chains:
                    segs = without_report(readable) if reports else readable
                    if len(segs) == 1 and (length := len(segs[0])) >= HEAD:
                        (head,), rest = unpack_head(segs[0]), [segs[0][HEAD:]]
                    else:
                        length = total(segs)
                        head, rest = copy_out(segs, HEAD), skip(segs, HEAD)
                    low, high, out, _ = known.get(head) or rules.judge(head)
                    if writable:
                        traffic.drop("writable")
                    elif not low <= length <= high and (cause := rules.cause(head, length, rest)):
                        traffic.drop(cause)
                    elif send(out, rest):
                        packets += 1
                        octets += length - HEADER_SIZE
                    else:
                        return moved + done, self._writable
                    done += 1
            finally:
                ring.complete_each([(head, 0) for head, _, _ in chains[:done]])
                ring.abandon(len(chains) - done)
                traffic.packets += packets
                traffic.bytes += octets
            moved += done
            size += octets
        return moved, AGAIN

    def lend(self) -> DeviceState | None:
        return super().lend() if self.link_up else None

    def _send(
        self, ring: Vringh, native: NativeQueue, view: memoryview, plain: Sequence[tuple[int, int, int]]
    ) -> tuple[int, int, list[Chain]]:
        """Send the frames of plain chains. Returns frames, bytes, and the chains that are left to Python.

        These are the first one that C did not send, and all if it sent none: then others are likely to be like it.
        """
        packets, octets = native.send_each(view, plain, self.rules.known)
        ring.complete_read(plain, packets)
        rest = plain[packets : packets + 1] if packets else plain
        ring.abandon(len(plain) - packets - len(rest))
        self.traffic.packets += packets
        self.traffic.bytes += octets
        return packets, octets, [(head, [view[at : at + size]], []) for head, at, size in rest]

    @property
    def packets(self) -> int:
        return self.traffic.packets + self.traffic.drops.total()

    def _discard(self, ring: Vringh) -> tuple[int, Wait]:
        chains = ring.getdescs(BUDGET)
        ring.complete_each([(index, 0) for index, _, _ in chains])
        self.traffic.drop("link_down", len(chains))
        return len(chains), AGAIN if chains else QUEUE


class VhostNetToDriver(VhostNetFlow):
    """A receiveq: frames from the port, read straight into the driver's buffers.

    A filtered frame was read into a buffer too; the next frame overwrites it.
    """

    WRITES = True

    def __init__(
        self,
        queue: DeviceQueue,
        port: PacketQueue,
        traffic: Traffic,
        largest: int,
        mergeable: bool,
        *,
        plain: bool = True,
        header: int = HEADER_SIZE,
    ) -> None:
        """``largest``: maximum bytes of header and frame; ``header``: bytes of the header."""
        super().__init__(queue, port, traffic, plain=plain)
        self._header = header
        self._filter_range = FILTER_AT + header - HEADER_SIZE, FILTER_END + header - HEADER_SIZE
        self._largest = largest
        self._mergeable = mergeable
        self._small = 0  # bytes of the last chain that was smaller than the largest frame; 0 if there was none
        self._expected = HEAD  # bytes of recent frames
        self._beyond = memoryview(bytearray(largest if mergeable else 0))  # room for the end of a larger frame
        self._spill = bytearray()  # a frame that waits for more buffers
        self.filter: FrameFilter | None = None
        """Receive filter; None if it passes all frames."""

    def set_enabled(self, enabled: bool) -> None:
        super().set_enabled(enabled)
        if not enabled:
            self.drop_spill("stopped")

    @property
    def packets(self) -> int:
        return self.traffic.packets

    def drop_spill(self, cause: str) -> None:
        """Drop the frame that waits for buffers, if any, because the port or its settings changed."""
        if self._spill:
            self._spill.clear()
            self.traffic.drop(cause)

    def move(self) -> tuple[int, Wait]:
        ring, traffic = self.queue.ring, self.traffic
        if ring is None:
            return 0, QUEUE
        if not self.enabled:
            return 0, self._switched
        if self._spill or self._expected > self._small > 0:
            return self._move_merged(ring)
        largest = self._largest if self._mergeable else 0
        verdict = self.filter.verdict if self.filter is not None else None
        (start, end), header = self._filter_range, self._header
        native = self._native if self._native is not None and self._native.native else None
        moved = size = 0
        limit = FIRST_CHUNK
        while moved < BUDGET and size < BUDGET_BYTES:
            recv = self.port.recv_into
            if native is not None and (plain := ring.getplain(min(limit, BUDGET - moved), True))[1]:
                count, octets, chains, stopped = self._receive(ring, native, *plain)
                moved += count
                size += octets
                if stopped == NO_FRAME:
                    return moved, self._readable
                if not chains:
                    limit = min(2 * limit, CHUNK)
                    continue
                if stopped >= 0:
                    recv = partial(native.judge_read, stopped)
            else:
                chains = ring.getdescs(min(limit, BUDGET - moved))
                if not chains:
                    return moved, QUEUE
            done: list[tuple[int, int]] = []
            packets = octets = 0
            try:
                for index, readable, into in chains:
                    if readable or not into:
                        # Not a receive buffer (section 5.1.9.3): complete it with length 0.
                        traffic.drop("writable")
                        done.append((index, 0))
                        continue
                    first = into[0]
                    room = len(first)
                    undersized = room < largest
                    if undersized:
                        self._small = total(into)
                    segs = [*into, self._beyond] if undersized else into
                    length = recv(segs)
                    if verdict is not None and length and verdict(bytes(first[start:end])) != "":
                        length = self._next_passing(segs, length)
                        if length < 0:
                            return moved + len(done), AGAIN
                    if not length:
                        return moved + len(done), self._readable
                    if undersized and length > self._small:
                        # This frame takes several buffers, and so may the following ones.
                        self._spill = bytearray(copy_out(segs, length))
                        self._expected = length
                        return moved + len(done), AGAIN
                    if room >= HEADER_SIZE:
                        first[NUM_BUFFERS_AT:HEADER_SIZE] = ONE_BUFFER
                    else:
                        copy_in(skip(segs, NUM_BUFFERS_AT), ONE_BUFFER)
                    done.append((index, length))
                    packets += 1
                    octets += length - header
            finally:
                ring.complete_each(done)
                ring.abandon(len(chains) - len(done))
                traffic.packets += packets
                traffic.bytes += octets
            moved += len(done)
            size += octets
            limit = min(2 * limit, CHUNK)
        return moved, AGAIN

    def lend(self) -> DeviceState | None:
        return None if self._spill or self._expected > self._small > 0 else super().lend()

    def _receive(
        self, ring: Vringh, native: NativeQueue, view: memoryview, plain: Sequence[tuple[int, int, int]]
    ) -> tuple[int, int, list[Chain], int]:
        """Receive into plain chains. Returns frames, bytes, the chains that are left to Python, why it stopped."""
        verdicts = self.filter.known if self.filter is not None else None
        done, octets, stopped = native.recv_chains(view, plain, verdicts)
        ring.complete_each(done)
        count = len(done)
        self.traffic.packets += count
        self.traffic.bytes += octets
        rest: Sequence[tuple[int, int, int]] = ()
        if stopped != NO_FRAME:
            rest = plain[count : count + 1] if stopped >= 0 else plain[count:]
        ring.abandon(len(plain) - count - len(rest))
        return count, octets, [(head, [], [view[at : at + size]]) for head, at, size in rest], stopped

    def _next_passing(self, segs: Sequence[memoryview], length: int) -> int:
        """Read into ``segs``, which hold a frame of ``length`` bytes, until a frame passes the filter.

        Returns its bytes, 0 if the port has no more frames, or -1 if a budget of filtered frames is used up.
        """
        for left in range(BUDGET, -1, -1):
            if not length or not self._drops(segs, length):
                return length
            if left:
                length = self.port.recv_into(segs)
        return -1

    def _drops(self, segs: Sequence[memoryview], length: int) -> bool:
        """Return whether the filter drops the frame in the first ``length`` bytes of ``segs``, and count it then."""
        assert self.filter is not None
        start, end = self._filter_range
        end = min(length, end)
        head = bytes(segs[0][start:end]) if len(segs[0]) >= end else copy_out(segs, end)[start:]
        cause = self.filter.verdict(head)
        if cause is None:
            cause = self.filter.judge(head)
        self.traffic.drop(cause, 1 if cause else 0)
        return bool(cause)

    def _move_merged(self, ring: Vringh) -> tuple[int, Wait]:
        """Move frames into buffers smaller than frames may be. Unused chains of one frame are for the next."""
        traffic, pending = self.traffic, self.port.pending
        taken = TakenChains(ring, self._small)
        moved = size = 0
        try:
            while moved < BUDGET and size < BUDGET_BYTES:
                if not self._spill and not pending():  # do not take dozens of chains in vain
                    return moved, self._readable
                length, wait = self._merge(ring, taken)
                if wait is not None:
                    return moved, wait
                moved += 1
                size += length
                traffic.packets += 1
                traffic.bytes += length - self._header
        finally:
            taken.give_back()
            self._small = taken.share or self._small
        return moved, AGAIN

    def _merge(self, ring: Vringh, taken: TakenChains) -> tuple[int, Wait | None]:
        """Move one frame over as many buffers as it takes (section 5.1.9.3.2); all are published together.

        Before the read, take only as many chains as recent frames needed, because each costs time even if abandoned.
        The end of a larger frame is read into private memory and copied. If there are too few buffers, all of the frame
        is copied to ``_spill`` and waits.
        """
        if not self._spill:
            room = taken.gather(self._expected, ring.num)
            into = taken.segments()
            if room < self._largest:
                into.append(self._beyond)
            length = self.port.recv_into(into)
            if not length:
                return 0, self._readable
            if self.filter is not None and self._drops(into, length):
                return 0, AGAIN
            self._expected = max(length, self._expected - (self._expected >> 4))
            if length <= room:
                taken.complete(length)
                return length, None
            if taken.gather(length, ring.num) >= length:
                copy_in(skip(taken.segments(), room), self._beyond[: length - room])
                taken.complete(length)
                return length, None
            self._spill = bytearray(copy_out(into, length))
        length = len(self._spill)
        if taken.gather(length, ring.num) < length:
            if len(taken) < ring.num:
                return 0, QUEUE
            # All buffers of the ring are taken, and the frame does not fit.
            self._spill.clear()
            self.traffic.drop("too_long")
            return 0, AGAIN
        copy_in(taken.segments(), self._spill)
        self._spill.clear()
        taken.complete(length)
        return length, None
