"""Flows of virtio-net, between the virtqueues of one queue pair and one queue of the port."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import attrs

from drivers.bus.virtio import DriverQueue
from drivers.contracts.hw import DmaMemory
from drivers.contracts.ports import HEADER_SIZE, NO_FRAME, NOT_PLAIN, NativeQueue, Offloads, PacketQueue
from drivers.devices.net.flow import BUDGET, BUDGET_BYTES, CHUNK, Figures, NetFlow, Traffic
from drivers.devices.net.hashing import REPORT_END, report_of, without_report
from drivers.devices.net.header import HEAD, HeaderRules, set_header_length, unpack_head
from drivers.devices.net.software import convert_data_valid
from drivers.flow.pump import AGAIN, QUEUE, Wait
from drivers.memory.buffers import BufferBlock
from rings.chain import copy_out, skip, total
from rings.memory import Addr
from rings.native import NATIVE

if TYPE_CHECKING or NATIVE:
    from rings.split.native import Descriptors, DriverState, NativeSplitVirtqueue

__all__ = ["FrameBuffers", "Lent", "VirtioNetReceive", "VirtioNetTransmit"]

POSTED = CHUNK
"""Minimum number of receive buffers in the ring, if the driver has as many."""
POSTED_BYTES = 2 << 20
"""Maximum bytes that the device writes before it reuses a buffer; `POSTED` takes precedence."""
CARRIED, CARRIED_BYTES = 8, 1 << 19
"""The same where C carries frames one by one: each buffer returns before the next frame."""
SENT, SENT_BYTES = 16, 1 << 20
"""Halves of the buffers, and of their bytes, that a device in another process may have from C at a time; the larger
limit counts.
"""
USUAL = 16
"""Number of batches over which the average frame size is taken, so that single frames change little."""


class FrameBuffers(BufferBlock):
    """Buffers for frames, as segments for a port and for a ring."""

    def __init__(self, dma: DmaMemory, count: int, size: int, *, reports: bool = False) -> None:
        """``reports``: whether a hash report follows the header; it is empty, and no part of a port's segments."""
        super().__init__(dma, count, size)
        self.reports = reports
        self.segs = [[view] for view in self.views]
        if reports:
            self.segs = [without_report((view,)) for view in self.views]
            for view in self.views:
                view[HEADER_SIZE:REPORT_END] = bytes(REPORT_END - HEADER_SIZE)
        self.whole = [(addr, size, slot) for slot, addr in enumerate(self.addrs)]

    def close(self) -> None:
        self.segs.clear()  # they may be parts of the views
        super().close()


@attrs.frozen(eq=False)
class Lent:
    """The state of a flow that C continues."""

    ring: DriverState
    slots: FrameBuffers
    free: list[int] = attrs.field(factory=list)
    """Free slots of a transmit queue, the next one last."""
    usual: float = 0.0
    """Average bytes of a frame."""
    posted: tuple[int, int, int] = 0, 0, 0
    """Buffers in a receive queue; bytes, then buffers, of which the device may have twice as many."""


class VirtioNetTransmit(NetFlow[DriverQueue]):
    """From the port to the device. Used buffers are reclaimed before each batch: the fewer buffers are in use, the
    more of them are still in the cache.
    """

    def __init__(
        self,
        queue: DriverQueue,
        port: PacketQueue,
        traffic: Traffic,
        slots: FrameBuffers,
        *,
        exact: bool = False,
    ) -> None:
        """``exact``: whether the header of a segmented frame has the exact length of its headers."""
        super().__init__(queue, port, traffic, plain=not (slots.reports or exact))
        self._exact = exact
        self._room = REPORT_END - HEADER_SIZE if slots.reports else 0
        self._slots = slots
        self._free = list(range(len(slots.addrs)))
        self._holds = False  # whether a frame is in the next free slot already
        self._usual = 0.0  # average bytes of the frames that C carries

    def move(self) -> tuple[int, Wait]:
        if not self.enabled:
            return 0, self._switched
        self._reclaim()
        self._holds = False
        if not self._free:
            return 0, QUEUE
        if self._native is not None and self._native.native:
            return self._move_native(self._native)
        return self._move_python(BUDGET, BUDGET_BYTES)

    def take_back(self) -> int:
        """Take the used buffers back, after the queue was reset. Returns the number of frames not sent."""
        self._reclaim()
        return len(self._slots.addrs) - len(self._free)

    def _reclaim(self) -> None:
        """Take the used buffers back."""
        free, ring = self._free, self.queue.ring
        at = len(free) - self._holds
        free[at:at] = [slot for slot, _ in ring.get_each(ring.num)]

    def lend(self, alone: bool) -> Lent | None:
        """Return the state for C; None if that is not possible now. ``alone``: the device is in another process."""
        ring = self.queue.ring
        if not self.enabled or not self.plain or not isinstance(ring, NativeSplitVirtqueue):
            return None
        self._reclaim()
        state = ring.lend() if alone or ring.num_free == ring.num else None
        return None if state is None else Lent(state, self._slots, self._free, self._usual, (0, SENT_BYTES, SENT))

    def take_over(
        self,
        places: tuple[int, int],
        returned: int,
        figures: Figures,
        kicks: int,
        descriptors: Descriptors,
        free: list[int],
        holds: bool,
        usual: float,
    ) -> None:
        """Continue behind frames that C has moved; see `NativeSplitVirtqueue.take_back`.

        ``holds``: C has read another frame, into the next free slot.
        """
        ring = self.queue.ring
        assert isinstance(ring, NativeSplitVirtqueue)
        self._free, self._holds, self._usual = free, holds, usual
        ring.take_back(places, figures.count, returned, kicks, descriptors)
        self.count_each(figures)

    def _move_python(self, limit: int, budget: int) -> tuple[int, Wait]:
        """Move up to ``limit`` frames, or a few more than ``budget`` bytes; free slots are there."""
        free, recv, segs, addrs, room = self._free, self.port.recv_into, self._slots.segs, self._slots.addrs, self._room
        exact, views = self._exact, self._slots.views
        buffers: list[tuple[Addr, int, int]] = []
        size = 0
        try:
            for slot in free[: -limit - 1 : -1]:
                length = recv(segs[slot])
                if not length:
                    return len(buffers), self._readable
                if exact:
                    set_header_length(views[slot][: length + room], room)
                buffers.append((addrs[slot], length + room, slot))
                size += length
                if size >= budget:
                    break
            return len(buffers), AGAIN
        finally:
            del free[len(free) - len(buffers) :]
            self.queue.ring.add_each(buffers, False)
            self.traffic.packets += len(buffers)
            self.traffic.bytes += size - len(buffers) * HEADER_SIZE

    def _move_native(self, native: NativeQueue) -> tuple[int, Wait]:
        """Move a batch as `move` does; free slots are there."""
        free, ring, slots, traffic = self._free, self.queue.ring, self._slots, self.traffic
        moved = size = 0
        while free and moved < BUDGET and size < BUDGET_BYTES:
            buffers, octets, stopped = native.recv_slots(slots, free, BUDGET - moved, BUDGET_BYTES - size)
            if not buffers and stopped == NO_FRAME:
                return moved, self._readable
            if not buffers and stopped == NOT_PLAIN:  # neither will the next frame be, with slots smaller than a frame
                count, wait = self._move_python(BUDGET - moved, BUDGET_BYTES - size)
                return moved + count, wait
            if stopped != NO_FRAME and len(buffers) < min(len(free), BUDGET - moved) and size + octets < BUDGET_BYTES:
                slot = free[-1 - len(buffers)]
                segs = slots.segs[slot]
                length = native.judge_read(stopped, segs) if stopped >= 0 else native.recv_into(segs)
                if length:
                    buffers.append((slots.addrs[slot], length, slot))
                    octets += length - HEADER_SIZE
                else:
                    stopped = NO_FRAME
            del free[len(free) - len(buffers) :]
            ring.add_each(buffers, False)
            traffic.packets += len(buffers)
            traffic.bytes += octets
            moved += len(buffers)
            size += octets
            if stopped == NO_FRAME:
                return moved, self._readable
        return moved, AGAIN


def _without_report(parts: list[memoryview]) -> tuple[bytes, list[memoryview], int]:
    """Return the head, the rest and the bytes of a frame without its hash report."""
    segs = without_report(parts)
    return copy_out(segs, HEAD), skip(segs, HEAD), total(segs)


class VirtioNetReceive(NetFlow[DriverQueue]):
    """From the device to the port. Every buffer returns to the ring at once, unless the frames are so large that the
    posted buffers would not stay in the cache: then the surplus is held back.
    """

    def __init__(
        self,
        queue: DriverQueue,
        port: PacketQueue,
        traffic: Traffic,
        slots: FrameBuffers,
        rules: HeaderRules,
        mergeable: bool,
        offloads: Offloads,
        reports: Counter[str],
    ) -> None:
        """``offloads``: those of the port; ``reports`` counts frames by their hash report."""
        super().__init__(queue, port, traffic, plain=not slots.reports)
        self._reports = reports
        self._slots = slots
        self.rules = rules
        self.mergeable = mergeable
        self._offloads = offloads
        self._taken: list[tuple[int, int]] = []
        """Used buffers (slot, bytes) taken from the ring and not yet processed."""
        self._spare: list[int] = []
        """Slots held back from the ring, the most recently used last."""
        self._usual = 0.0  # average bytes per buffer
        self._posted = POSTED, POSTED_BYTES

    def fill(self) -> None:
        """Add all buffers to the ring; they are published once the device is live."""
        self.queue.ring.add_each(self._slots.whole, True)

    def move(self) -> tuple[int, Wait]:
        ring, traffic, rules, port = self.queue.ring, self.traffic, self.rules, self.port
        send, known, views, mergeable = port.send, rules.known, self._slots.views, self.mergeable
        reports = self._slots.reports
        data_valid = rules.data_valid
        native = self._native if self._native is not None and self._native.native else None
        moved = size = 0
        while moved < BUDGET and size < BUDGET_BYTES:
            taken = self._taken or ring.get_each(min(CHUNK, BUDGET - moved))
            if not taken:
                return moved, QUEUE
            at = packets = octets = 0
            end = len(taken)
            if native is not None:
                slots = self._slots
                packets, octets = native.send_each(slots.block, taken, known, data_valid, mergeable, slots.pitch)
                # Python moves a frame that is not plain, and all behind one that is the first.
                at, end = packets, min(packets + 1, end) if packets else end
            try:
                while at < end:
                    slot, length = taken[at]
                    seg = views[slot]
                    (head,) = unpack_head(seg) if length >= HEAD else (bytes(seg[:length]),)
                    rest, count = [seg[HEAD:length]], 1
                    if reports:
                        name = report_of(seg[:length])
                        head, rest, length = _without_report([seg[:length]])
                    low, high, out, spread = known.get(head) or rules.judge(head)
                    if spread > 1 and mergeable:
                        parts = self._parts(taken, at, spread)
                        length, count = total(parts), len(parts)
                        head, rest = copy_out(parts, HEAD), skip(parts, HEAD)
                        if reports:
                            head, rest, length = _without_report(parts)
                        low, high, out, _ = known.get(head) or rules.judge(head)
                        if count < spread:
                            # The rest of the frame should have been published together with its start.
                            traffic.drop("num_buffers")
                            at += count
                            continue
                    if data_valid and head in data_valid:
                        out, rest = convert_data_valid(out, rest, self._offloads)
                    if not low <= length <= high and (cause := rules.cause(head, length, rest)):
                        traffic.drop(cause)
                    elif send(out, rest):
                        packets += 1
                        octets += length - HEADER_SIZE
                        if reports:
                            self._reports[name] += 1
                    else:
                        return moved + at, self._writable
                    at += count
            finally:
                self._give_back(taken[:at])
                self._taken = taken[at:]
                traffic.packets += packets
                traffic.bytes += octets
            moved += at
            size += octets
        return moved, AGAIN

    def take_back(self) -> int:
        """Pass on the received frames, after the queue was reset. Returns the number of those that the port refuses."""
        while self.move()[0]:
            pass
        return len(self._taken)

    def lend(self, alone: bool) -> Lent | None:
        """Return the state for C; None if that is not possible now. ``alone``: the device is in another process."""
        ring = self.queue.ring
        if self._taken or not self.plain or not isinstance(ring, NativeSplitVirtqueue):
            return None
        self._posted = (POSTED, POSTED_BYTES) if alone else (CARRIED, CARRIED_BYTES)
        self._post()
        self.queue.flush()
        posted = ring.num - ring.num_free
        state = ring.lend() if posted <= 2 * self._wanted() else None
        least, most = self._posted
        return None if state is None else Lent(state, self._slots, [], self._usual, (posted, most, least))

    def take_over(self, places: tuple[int, int], figures: Figures, kicks: int, usual: float) -> None:
        """Continue behind frames that C has moved."""
        ring = self.queue.ring
        assert isinstance(ring, NativeSplitVirtqueue)
        ring.take_back(places, figures.count, figures.count, kicks)
        self._usual = usual
        self.count_each(figures)

    def _wanted(self) -> int:
        """Return the number of buffers that should be in the ring."""
        least, most = self._posted
        return max(least, int(most / max(self._usual, 1.0)))

    def _give_back(self, used: list[tuple[int, int]]) -> None:
        """Return buffers to the ring: these, or others that were held back."""
        if used:
            self._usual += (sum([size for _, size in used]) / len(used) - self._usual) / USUAL
            self._spare += [slot for slot, _ in used]
            self._post()

    def _post(self) -> None:
        """Add buffers to the ring that need not be held back."""
        spare, whole = self._spare, self._slots.whole
        keep = max(0, len(whole) - self._wanted())
        self.queue.ring.add_each([whole[slot] for slot in spare[keep:]], True)
        del spare[keep:]

    def _parts(self, taken: list[tuple[int, int]], at: int, count: int) -> list[memoryview]:
        """Return the ``count`` parts of the frame that starts at ``taken[at]``; fewer if the device published fewer."""
        missing = at + count - len(taken)
        if missing > 0:
            taken += self.queue.ring.get_each(missing)
        return [self._slots.views[slot][:length] for slot, length in taken[at : at + count]]
