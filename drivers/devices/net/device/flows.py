"""vhost-net's flows: between the rings of one pair and one queue of the port."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from drivers.bus.vhost import DeviceQueue
from drivers.contracts.ports import ETH_HLEN, HEADER_SIZE, PacketQueue
from drivers.devices.net.device.merge import NUM_BUFFERS_AT, ONE_BUFFER, Taken
from drivers.devices.net.filter import FILTER_AT, FILTER_END, FrameFilter
from drivers.devices.net.flow import BUDGET, BUDGET_BYTES, CHUNK, FIRST_CHUNK, NetFlow, Traffic
from drivers.devices.net.header import HeaderRules
from drivers.errors import PortGone
from drivers.flow.pump import Need
from rings.chain import Chain, copy_in, copy_out, skip, total
from rings.queue import Vringh

__all__ = ["FromDriver", "ToDriver"]

HEAD = HEADER_SIZE + ETH_HLEN


class FromDriver(NetFlow[DeviceQueue]):
    """A transmitq: what the driver sends goes out of the port."""

    def __init__(
        self,
        queue: DeviceQueue,
        port: PacketQueue,
        traffic: Traffic,
        rules: HeaderRules,
        gone: Callable[[PortGone], None],
    ) -> None:
        super().__init__(queue, port, traffic, gone)
        self._rules = rules
        self.link_up = True
        """Otherwise what comes is dropped."""

    def move(self) -> tuple[int, Need]:
        ring, traffic, rules = self.queue.ring, self.traffic, self._rules
        if ring is None:
            return 0, Need.QUEUE
        if not self.on:
            return 0, Need.SINK
        if not self.link_up:
            return self._discard(ring)
        send, known = self.port.send, rules.known
        moved = size = 0
        while moved < BUDGET and size < BUDGET_BYTES:
            chains = ring.getdescs(min(CHUNK, BUDGET - moved))
            if not chains:
                return moved, Need.QUEUE
            done: list[tuple[int, int]] = []
            passed = octets = 0
            try:
                for index, segs, writable in chains:
                    if len(segs) == 1:
                        seg = segs[0]
                        got = len(seg)
                        head, rest = bytes(seg[:HEAD]), [seg[HEAD:]]
                    else:
                        got = total(segs)
                        head, rest = copy_out(segs, HEAD), skip(segs, HEAD)
                    low, high, out, _ = known.get(head) or rules.judge(head)
                    if writable:
                        traffic.drop("writable")
                    elif not low <= got <= high and (cause := rules.cause(head, got, rest)):
                        traffic.drop(cause)
                    elif send(out, rest):
                        passed += 1
                        octets += got - HEADER_SIZE
                    else:
                        return moved + len(done), Need.SINK
                    done.append((index, 0))
            finally:
                _settle(ring, chains, done)
                traffic.packets += passed
                traffic.bytes += octets
            moved += len(done)
            size += octets
        return moved, Need.TURN

    def _discard(self, ring: Vringh) -> tuple[int, Need]:
        chains = ring.getdescs(BUDGET)
        ring.complete_each([(index, 0) for index, _, _ in chains])
        self.traffic.drop("link_down", len(chains))
        return len(chains), Need.TURN if chains else Need.QUEUE


def _settle(ring: Vringh, chains: list[Chain], done: list[tuple[int, int]]) -> None:
    """Complete the chains at the front that are done, and give the rest back in the order that takes."""
    ring.complete_each(done)
    for index, _, _ in reversed(chains[len(done) :]):
        ring.abandon(index)


class ToDriver(NetFlow[DeviceQueue]):
    """A receiveq: what comes in at the port goes straight into the driver's buffers.

    A frame that is not for the driver was read into one of them all the same; the next one overwrites it.
    """

    reads = True

    def __init__(
        self,
        queue: DeviceQueue,
        port: PacketQueue,
        traffic: Traffic,
        largest: int,
        mergeable: bool,
        gone: Callable[[PortGone], None],
    ) -> None:
        super().__init__(queue, port, traffic, gone)
        self._largest = largest  # bytes of header and frame that may come
        self._mergeable = mergeable
        self._small = 0  # bytes of the last chain that was smaller than frames may be; 0 where none was met
        self._expected = HEAD  # bytes that frames have lately had
        self._beyond = memoryview(bytearray(largest if mergeable else 0))  # what a larger one has more than that
        self._spill = bytearray()  # a frame for which too few buffers are there
        self.filter: FrameFilter | None = None
        """None while everything passes."""

    def turn(self, on: bool) -> None:
        super().turn(on)
        if not on:
            self.forget("stopped")

    def forget(self, cause: str) -> None:
        """Drop the frame that waits for buffers, if there is one: what it came by is over."""
        if self._spill:
            self._spill.clear()
            self.traffic.drop(cause)

    def move(self) -> tuple[int, Need]:
        ring, traffic, recv = self.queue.ring, self.traffic, self.port.recv_into
        if ring is None:
            return 0, Need.QUEUE
        if not self.on:
            return 0, Need.SOURCE
        if self._spill or self._expected > self._small > 0:
            return self._move_merged(ring)
        largest = self._largest if self._mergeable else 0
        known = self.filter.known if self.filter is not None else None
        moved = size = 0
        limit = FIRST_CHUNK
        while moved < BUDGET and size < BUDGET_BYTES:
            chains = ring.getdescs(min(limit, BUDGET - moved))
            if not chains:
                return moved, Need.QUEUE
            done: list[tuple[int, int]] = []
            passed = octets = 0
            try:
                for index, readable, into in chains:
                    if readable or not into:
                        # Not a receive buffer (section 5.1.9.3): give it back empty.
                        traffic.drop("writable")
                        done.append((index, 0))
                        continue
                    over = len(into[0]) < largest
                    if over:
                        self._small = total(into)
                    segs = [*into, self._beyond] if over else into
                    got = recv(segs)
                    if known is not None and got and known(bytes(segs[0][FILTER_AT:FILTER_END])) != "":
                        got = self._next(segs, got)
                        if got < 0:
                            return moved + len(done), Need.TURN
                    if not got:
                        return moved + len(done), Need.SOURCE
                    if over and got > self._small:
                        # It takes more buffers than one, and so may those that come next.
                        self._spill = bytearray(copy_out(segs, got))
                        self._expected = got
                        return moved + len(done), Need.TURN
                    if len(segs[0]) >= HEADER_SIZE:
                        segs[0][NUM_BUFFERS_AT:HEADER_SIZE] = ONE_BUFFER
                    else:
                        copy_in(skip(segs, NUM_BUFFERS_AT), ONE_BUFFER)
                    done.append((index, got))
                    passed += 1
                    octets += got - HEADER_SIZE
            finally:
                _settle(ring, chains, done)
                traffic.packets += passed
                traffic.bytes += octets
            moved += len(done)
            size += octets
            limit = min(2 * limit, CHUNK)
        return moved, Need.TURN

    def _next(self, segs: Sequence[memoryview], got: int) -> int:
        """Read on into ``segs``, which hold a frame of ``got`` bytes, until one is for the driver.

        Its bytes; 0 where none comes any more, -1 where a budget of those that are not is used up.
        """
        for left in range(BUDGET, -1, -1):
            if not got or not self._drops(segs, got):
                return got
            if left:
                got = self.port.recv_into(segs)
        return -1

    def _drops(self, segs: Sequence[memoryview], got: int) -> bool:
        """Whether the frame in the first ``got`` bytes of ``segs`` is not for the driver; then it is counted."""
        assert self.filter is not None
        end = min(got, FILTER_END)
        head = bytes(segs[0][FILTER_AT:end]) if len(segs[0]) >= end else copy_out(segs, end)[FILTER_AT:]
        cause = self.filter.known(head)
        if cause is None:
            cause = self.filter.judge(head)
        self.traffic.drop(cause, 1 if cause else 0)
        return bool(cause)

    def _move_merged(self, ring: Vringh) -> tuple[int, Need]:
        """Likewise where buffers are smaller than frames may be; what one frame leaves of them is for the next."""
        traffic, pending = self.traffic, self.port.pending
        taken = Taken(ring, self._small)
        moved = size = 0
        try:
            while moved < BUDGET and size < BUDGET_BYTES:
                if not self._spill and not pending():  # dozens of buffers are not taken in vain
                    return moved, Need.SOURCE
                got, need = self._merge(ring, taken)
                if need is not None:
                    return moved, need
                moved += 1
                size += got
                traffic.packets += 1
                traffic.bytes += got - HEADER_SIZE
        finally:
            taken.give_back()
            self._small = taken.share or self._small
        return moved, Need.TURN

    def _merge(self, ring: Vringh, taken: Taken) -> tuple[int, Need | None]:
        """One frame over as many buffers as it takes (section 5.1.9.3.2); all of them are published together.

        Only as many are taken beforehand as frames have needed lately, since each costs time even where it is given
        back. What a larger one has beyond that is read into private memory and copied, and so is all of a frame for
        which there are too few buffers: it waits in ``_spill``.
        """
        if not self._spill:
            room = taken.gather(self._expected, ring.num)
            into = taken.segments()
            if room < self._largest:
                into.append(self._beyond)
            got = self.port.recv_into(into)
            if not got:
                return 0, Need.SOURCE
            if self.filter is not None and self._drops(into, got):
                return 0, Need.TURN
            self._expected = max(got, self._expected - (self._expected >> 4))
            if got <= room:
                taken.complete(got)
                return got, None
            if taken.gather(got, ring.num) >= got:
                copy_in(skip(taken.segments(), room), self._beyond[: got - room])
                taken.complete(got)
                return got, None
            self._spill = bytearray(copy_out(into, got))
        got = len(self._spill)
        if taken.gather(got, ring.num) < got:
            if len(taken) < ring.num:
                return 0, Need.QUEUE
            # Every buffer the ring can hold was there, and the frame fits none of it.
            self._spill.clear()
            self.traffic.drop("too_long")
            return 0, Need.TURN
        copy_in(taken.segments(), self._spill)
        self._spill.clear()
        taken.complete(got)
        return got, None
