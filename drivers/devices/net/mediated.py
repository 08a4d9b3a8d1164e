"""vhost-net, mediated: two drivers, each with a device of its own here, as if joined by a cable.

What one driver may leave undone and the other can't finish is finished on the way: checksums and segments in
software. Buffers may be mergeable on either side, or on one. Each byte of payload is copied once.

Neither driver is offered a control queue, nor what needs one: a cable filters nothing and has one lane.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs

from drivers.bus.vhost import DeviceQueue, VhostDevice
from drivers.contracts.ports import ETH_HLEN, HEADER_SIZE
from drivers.devices.net.device.merge import NUM_BUFFERS_AT, ONE_BUFFER, put
from drivers.devices.net.header import KNOWN_MAX, HeaderRules
from drivers.devices.net.layout import (
    CONTROLLED,
    LINK_UP,
    SUPPORTED,
    TABLE,
    NetConfig,
    NetFeature,
    device_offloads,
    driver_offloads,
)
from drivers.devices.net.software import Unfinished, finish, unfinished
from drivers.mediator import Copier, Mediator, MediatorStatistics
from rings.chain import Chain, copy_out, skip, total
from rings.queue import Vringh

__all__ = ["MediatedNetPlug", "NetMediator"]

HEAD = HEADER_SIZE + ETH_HLEN


@attrs.frozen
class MediatedNetPlug:
    """What one of the two devices offers its driver."""

    mac: bytes
    features: int = SUPPORTED
    queue_size: int = 256


class NetCopier(Copier):
    """From one driver's transmitq to the other's receiveq."""

    def __init__(self, source: int, sink: int, mtu: int, statistics: MediatorStatistics) -> None:
        """``source`` and ``sink`` are the features that each driver agreed on."""
        super().__init__(statistics)
        self._rules = HeaderRules(driver_offloads(source), mtu if source >> NetFeature.MTU & 1 else None)
        self._able = device_offloads(sink)
        self._mergeable = bool(sink >> NetFeature.MRG_RXBUF & 1)
        self._delivered = 0
        """Segments of the frame at hand that were delivered before buffers ran out."""
        self._plain: dict[bytes, tuple[int, int, bytes]] = {}
        """By head: how long a frame with it may be to cross as it is, and the head that it then has."""

    def copy(self, chains: Sequence[Chain], sink: Vringh, done: list[tuple[int, int]]) -> None:
        """Most frames are one buffer, and cross as they are into one; any other takes the way through `copy_one`."""
        plain, filled = self._plain, []
        octets = 0
        ready = sink.getdescs(len(chains)) if not self._delivered else []
        for (head, segs, writable), (into, readable, views) in zip(chains, ready, strict=False):
            if writable or readable or len(segs) != 1 or len(views) != 1:
                break
            [seg], [view] = segs, views
            size, start = len(seg), bytes(seg[:HEAD])
            low, high, top = plain.get(start) or self._as_it_is(start)
            if not low <= size <= high or size > len(view):
                break
            view[:HEAD] = top
            view[HEAD:size] = seg[HEAD:]
            filled.append((into, size))
            done.append((head, 0))
            octets += size
        sink.complete_each(filled)
        self.statistics.count_copies(len(filled), octets)
        for into, _, _ in reversed(ready[len(filled) :]):
            sink.abandon(into)
        if len(filled) < len(chains):
            super().copy(chains[len(filled) :], sink, done)

    def _as_it_is(self, head: bytes) -> tuple[int, int, bytes]:
        """Judge a head for `_plain`. No length fits a bad one, nor one whose frame has to be finished here."""
        low, high, out, _ = self._rules.judge(head)
        if low > high or unfinished(out, self._able):
            return 1, 0, head
        if len(self._plain) >= KNOWN_MAX:
            self._plain.clear()
        self._plain[head] = verdict = low, high, out[:NUM_BUFFERS_AT] + ONE_BUFFER + out[HEADER_SIZE:]
        return verdict

    def copy_one(self, source: Sequence[memoryview], sink: Vringh) -> bool:
        size, statistics = total(source), self.statistics
        head = copy_out(source, HEAD)
        low, high, out, _ = self._rules.known.get(head) or self._rules.judge(head)
        if not low <= size <= high and (cause := self._rules.cause(head, size, skip(source, HEAD))):
            statistics.drop(cause)
            self._delivered = 0  # changed since a part of it was delivered
            return True
        skipped = self._delivered
        try:
            for at, (top, payload) in enumerate(finish(out[:HEADER_SIZE], skip(source, HEADER_SIZE), self._able)):
                if at < skipped:
                    continue
                copied = put(sink, top, payload, self._mergeable)
                if copied is None:
                    self._delivered = at
                    return False
                statistics.count(copied, len(top) + total(payload), "too_long")
        except Unfinished:
            statistics.drop("bad_gso")
        self._delivered = 0
        return True


class NetMediator(Mediator):
    """The cable between two net devices."""

    def __init__(self, plugs: Mapping[str, MediatedNetPlug], mtu: int) -> None:
        """``plugs`` by the name of the device, ``mtu`` in bytes without the Ethernet header."""
        super().__init__()
        self._plugs = plugs
        self._mtu = mtu

    def offer(self, device: VhostDevice) -> None:
        plug = self._plugs[device.name]
        queues = [("receiveq1", plug.queue_size), ("transmitq1", plug.queue_size)]
        device.offer(TABLE, plug.features & SUPPORTED & ~CONTROLLED, queues, self._config(device, up=False))

    def queues(self, source: VhostDevice, sink: VhostDevice) -> tuple[DeviceQueue, DeviceQueue]:
        return source.queues[1], sink.queues[0]

    def copier(self, source: VhostDevice, sink: VhostDevice, statistics: MediatorStatistics) -> Copier:
        return NetCopier(source.features, sink.features, self._mtu, statistics)

    def link_changed(self, device: VhostDevice, up: bool) -> None:
        device.set_config(self._config(device, up))

    def _config(self, device: VhostDevice, up: bool) -> bytes:
        return NetConfig(self._plugs[device.name].mac, LINK_UP if up else 0, self._mtu).emit()
