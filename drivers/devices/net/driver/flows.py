"""Flows of virtio-net, between the virtqueues of one queue pair and one queue of the port."""

from __future__ import annotations

from typing import TYPE_CHECKING

from drivers.bus.virtio import DriverQueue
from drivers.contracts.hw import DmaMemory
from drivers.contracts.ports import HEADER_SIZE, NO_FRAME, NOT_PLAIN, NativeQueue, Offloads, PacketQueue
from drivers.devices.net.flow import BUDGET, BUDGET_BYTES, CHUNK, Figures, NetFlow, Traffic
from drivers.devices.net.header import HEAD, HeaderRules, unpack_head
from drivers.devices.net.software import convert_data_valid
from drivers.flow.pump import AGAIN, QUEUE, Wait
from drivers.memory.buffers import BufferBlock
from rings.chain import copy_out, skip, total
from rings.memory import Addr
from rings.native import NATIVE

if TYPE_CHECKING or NATIVE:
    from rings.split.native import DriverState, NativeSplitVirtqueue

__all__ = ["FrameBuffers", "VirtioNetReceive", "VirtioNetTransmit"]

POSTED = CHUNK
"""Minimum number of receive buffers in the ring, if the driver has as many."""
POSTED_BYTES = 2 << 20
"""Maximum bytes that the device writes before it reuses a buffer; `POSTED` takes precedence."""
CARRIED, CARRIED_BYTES = 8, 1 << 19
"""The same where C carries frames one by one: each buffer returns before the next frame."""
USUAL = 16
"""Number of batches over which the average frame size is taken, so that single frames change little."""


class FrameBuffers(BufferBlock):
    """Buffers for frames, as segments for a port and for a ring."""

    def __init__(self, dma: DmaMemory, count: int, size: int) -> None:
        super().__init__(dma, count, size)
        self.segs = [[view] for view in self.views]
        self.whole = [(addr, size, slot) for slot, addr in enumerate(self.addrs)]


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
    ) -> None:
        super().__init__(queue, port, traffic)
        self._slots = slots
        self._free = list(range(len(slots.addrs)))

    def move(self) -> tuple[int, Wait]:
        free, ring = self._free, self.queue.ring
        if not self.enabled:
            return 0, self._switched
        free += [slot for slot, _ in ring.get_each(ring.num)]
        if not free:
            return 0, QUEUE
        if self._native is not None and self._native.native:
            return self._move_native(self._native)
        return self._move_python(BUDGET, BUDGET_BYTES)

    def take_back(self) -> int:
        """Take the used buffers back, after the queue was reset. Returns the number of frames not sent."""
        ring = self.queue.ring
        self._free += [slot for slot, _ in ring.get_each(ring.num)]
        return len(self._slots.addrs) - len(self._free)

    def lend(self) -> tuple[DriverState, FrameBuffers, int] | None:
        """Return the ring's state, the buffers, and the slot of the next frame, for C; None if not possible now."""
        free, ring = self._free, self.queue.ring
        if not self.enabled or not isinstance(ring, NativeSplitVirtqueue):
            return None
        free += [slot for slot, _ in ring.get_each(ring.num)]
        state = ring.lend()
        return None if state is None or ring.num_free < ring.num else (state, self._slots, free[-1])

    def take_over(self, added: int, last_used: int, figures: Figures, kicks: int, in_flight: bool) -> None:
        """Continue behind frames that C has moved; with ``in_flight``, the device may still have the last one."""
        ring = self.queue.ring
        assert isinstance(ring, NativeSplitVirtqueue)
        token = self._free.pop() if in_flight else None
        ring.take_back(added, last_used, figures.count, figures.count - in_flight, kicks, token)
        self.count_each(figures)

    def _move_python(self, limit: int, budget: int) -> tuple[int, Wait]:
        """Move up to ``limit`` frames, or a few more than ``budget`` bytes; free slots are there."""
        free, recv, segs, addrs = self._free, self.port.recv_into, self._slots.segs, self._slots.addrs
        buffers: list[tuple[Addr, int, int]] = []
        size = 0
        try:
            for slot in free[: -limit - 1 : -1]:
                length = recv(segs[slot])
                if not length:
                    return len(buffers), self._readable
                buffers.append((addrs[slot], length, slot))
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
    ) -> None:
        """``offloads``: those of the port."""
        super().__init__(queue, port, traffic)
        self._slots = slots
        self.rules = rules
        self.mergeable = mergeable
        self._offloads = offloads
        self._taken: list[tuple[int, int]] = []
        """Used buffers (slot, bytes) taken from the ring and not yet processed."""
        self._spare: list[int] = []
        """Slots held back from the ring, the most recently used last."""
        self._usual = 0.0  # average bytes per buffer
        self._carried = False  # whether C carries frames

    def fill(self) -> None:
        """Add all buffers to the ring; they are published once the device is live."""
        self.queue.ring.add_each(self._slots.whole, True)

    def move(self) -> tuple[int, Wait]:
        ring, traffic, rules, port = self.queue.ring, self.traffic, self.rules, self.port
        send, known, segs, mergeable = port.send, rules.known, self._slots.segs, self.mergeable
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
                    seg = segs[slot][0]
                    (head,) = unpack_head(seg) if length >= HEAD else (bytes(seg[:length]),)
                    rest, count = [seg[HEAD:length]], 1
                    low, high, out, spread = known.get(head) or rules.judge(head)
                    if spread > 1 and mergeable:
                        parts = self._parts(taken, at, spread)
                        length, count = total(parts), len(parts)
                        head, rest = copy_out(parts, HEAD), skip(parts, HEAD)
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

    def lend(self) -> tuple[DriverState, FrameBuffers, float, int] | None:
        """Return the ring's state, the buffers, the average frame, and the number of buffers in the ring, for C.

        Returns None if it is not possible now.
        """
        ring = self.queue.ring
        if self._taken or not isinstance(ring, NativeSplitVirtqueue):
            return None
        self._carried = True
        self._post()
        self.queue.flush()
        posted = ring.num - ring.num_free
        state = ring.lend() if posted <= 2 * self._wanted() else None
        return None if state is None else (state, self._slots, self._usual, posted)

    def take_over(self, added: int, last_used: int, figures: Figures, kicks: int, usual: float) -> None:
        """Continue behind frames that C has moved."""
        ring = self.queue.ring
        assert isinstance(ring, NativeSplitVirtqueue)
        ring.take_back(added, last_used, figures.count, figures.count, kicks)
        self._usual = usual
        self.count_each(figures)

    def _wanted(self) -> int:
        """Return the number of buffers that should be in the ring."""
        least, most = (CARRIED, CARRIED_BYTES) if self._carried else (POSTED, POSTED_BYTES)
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
        return [self._slots.segs[slot][0][:length] for slot, length in taken[at : at + count]]
