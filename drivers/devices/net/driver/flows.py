"""virtio-net's flows: between the virtqueues of one pair and one queue of the port."""

from __future__ import annotations

from collections.abc import Callable

from drivers.bus.virtio import DriverQueue
from drivers.contracts.hw import DmaMemory
from drivers.contracts.ports import ETH_HLEN, HEADER_SIZE, Offloads, PacketQueue
from drivers.devices.net.flow import BUDGET, BUDGET_BYTES, CHUNK, NetFlow, Traffic
from drivers.devices.net.header import HeaderRules
from drivers.devices.net.software import vouched
from drivers.errors import PortGone
from drivers.flow.pump import Need
from drivers.memory.buffers import BufferBlock
from rings.chain import copy_out, skip, total
from rings.memory import Addr

__all__ = ["HEAD", "Receive", "Slots", "Transmit"]

HEAD = HEADER_SIZE + ETH_HLEN
"""Bytes of a frame that are judged."""
POSTED = CHUNK
"""Receive buffers that stay in the ring at least, where it has so many."""
POSTED_BYTES = 2 << 20
"""What is written to those in the ring before they come round again, at most; but `POSTED` stay all the same."""
USUAL = 16
"""Batches over which it is reckoned how large frames are: a few that are not change little."""


class Slots(BufferBlock):
    """Buffers for frames, in the two forms that flows need at once: for a port, and for a ring."""

    def __init__(self, dma: DmaMemory, count: int, size: int) -> None:
        super().__init__(dma, count, size)
        self.segs = [[view] for view in self.views]
        self.whole = [(addr, size, slot) for slot, addr in enumerate(self.addrs)]


class Transmit(NetFlow[DriverQueue]):
    """From the port to the device. Used buffers are taken back before each batch: the fewer go round, the more of them
    are still in the cache.
    """

    reads = True

    def __init__(
        self, queue: DriverQueue, port: PacketQueue, traffic: Traffic, slots: Slots, gone: Callable[[PortGone], None]
    ) -> None:
        super().__init__(queue, port, traffic, gone)
        self._slots = slots
        self._free = list(range(len(slots.addrs)))

    def move(self) -> tuple[int, Need]:
        free, ring = self._free, self.queue.ring
        if not self.on:
            return 0, Need.SOURCE
        free.extend(slot for slot, _ in ring.get_each(ring.num))
        if not free:
            return 0, Need.QUEUE
        recv, segs, addrs = self.port.recv_into, self._slots.segs, self._slots.addrs
        buffers: list[tuple[Addr, int, int]] = []
        size = 0
        try:
            while size < BUDGET_BYTES and len(buffers) < BUDGET and free:
                slot = free[-1]
                got = recv(segs[slot])
                if not got:
                    return len(buffers), Need.SOURCE
                free.pop()
                buffers.append((addrs[slot], got, slot))
                size += got
            return len(buffers), Need.TURN
        finally:
            ring.add_each(buffers, False)
            self.traffic.packets += len(buffers)
            self.traffic.bytes += size - len(buffers) * HEADER_SIZE


class Receive(NetFlow[DriverQueue]):
    """From the device to the port. Every buffer goes straight back into the ring, unless frames are so large that what
    the ring holds would not stay in the cache: then as many are kept back as are over.
    """

    def __init__(
        self,
        queue: DriverQueue,
        port: PacketQueue,
        traffic: Traffic,
        slots: Slots,
        rules: HeaderRules,
        mergeable: bool,
        able: Offloads,
        gone: Callable[[PortGone], None],
    ) -> None:
        """``able`` is what the port finishes itself."""
        super().__init__(queue, port, traffic, gone)
        self._slots = slots
        self._rules = rules
        self._mergeable = mergeable
        self._able = able
        self._taken: list[tuple[int, int]] = []
        """Used buffers (slot, bytes) that were got from the ring, and not dealt with yet."""
        self._kept: list[int] = []
        """Slots that are not in the ring, those used last at the end."""
        self._usual = 0.0  # bytes that lately came in a buffer

    def fill(self) -> None:
        """Add every buffer there is; the device is shown them once it is live."""
        self.queue.ring.add_each(self._slots.whole, True)

    def move(self) -> tuple[int, Need]:
        ring, traffic, rules, port = self.queue.ring, self.traffic, self._rules, self.port
        send, known, segs, mergeable = port.send, rules.known, self._slots.segs, self._mergeable
        valid = rules.valid
        moved = size = 0
        while moved < BUDGET and size < BUDGET_BYTES:
            taken = self._taken or ring.get_each(min(CHUNK, BUDGET - moved))
            if not taken:
                return moved, Need.QUEUE
            at = passed = octets = 0
            try:
                while at < len(taken):
                    slot, got = taken[at]
                    seg = segs[slot][0]
                    head, rest, count = bytes(seg[: min(HEAD, got)]), [seg[HEAD:got]], 1
                    low, high, out, spread = known.get(head) or rules.judge(head)
                    if spread > 1 and mergeable:
                        parts = self._parts(taken, at, spread)
                        got, count = total(parts), len(parts)
                        head, rest = copy_out(parts, HEAD), skip(parts, HEAD)
                        low, high, out, _ = known.get(head) or rules.judge(head)
                        if count < spread:
                            # The rest of the frame should have been shown together with its start.
                            traffic.drop("num_buffers")
                            at += count
                            continue
                    if valid and head in valid:
                        out, rest = vouched(out, rest, self._able)
                    if not low <= got <= high and (cause := rules.cause(head, got, rest)):
                        traffic.drop(cause)
                    elif send(out, rest):
                        passed += 1
                        octets += got - HEADER_SIZE
                    else:
                        return moved + at, Need.SINK
                    at += count
            finally:
                self._give_back(taken[:at])
                self._taken = taken[at:]
                traffic.packets += passed
                traffic.bytes += octets
            moved += at
            size += octets
        return moved, Need.TURN

    def _give_back(self, used: list[tuple[int, int]]) -> None:
        """Have the device fill these again, or others that were kept back."""
        if not used:
            return
        kept, whole = self._kept, self._slots.whole
        self._usual += (sum(size for _, size in used) / len(used) - self._usual) / USUAL
        kept += [slot for slot, _ in used]
        keep = max(0, len(whole) - max(POSTED, int(POSTED_BYTES / max(self._usual, 1.0))))
        self.queue.ring.add_each([whole[slot] for slot in kept[keep:]], True)
        del kept[keep:]

    def _parts(self, taken: list[tuple[int, int]], at: int, count: int) -> list[memoryview]:
        """The ``count`` parts of the frame that starts at ``taken[at]``; fewer where the device showed fewer."""
        missing = at + count - len(taken)
        if missing > 0:
            taken += self.queue.ring.get_each(missing)
        return [self._slots.segs[slot][0][:got] for slot, got in taken[at : at + count]]
