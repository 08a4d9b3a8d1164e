"""vhost-net, mediated: two drivers, each with its own device in this host, as if joined by a cable.

Checksums and segmentation that the sending driver leaves undone and the receiving driver does not support are done in
software on the way. Either driver may use mergeable buffers. Each byte of payload is copied once.

The drivers get no control queue and no feature that needs one: a cable has no filter and one queue pair.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs

from drivers.bus.vhost import DeviceQueue, OfferedQueue, VhostDevice
from drivers.contracts.ports import HEADER_SIZE
from drivers.devices.net.device.merge import NUM_BUFFERS_AT, ONE_BUFFER, put
from drivers.devices.net.header import HEAD, KNOWN_MAX, HeaderRules, unpack_head
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
from drivers.devices.net.software import BadGso, finish, needs_finishing
from drivers.mediator import Copier, Mediator, MediatorStatistics
from rings.chain import Chain, copy_out, skip, total
from rings.queue import Vringh

__all__ = ["MediatedNetPlug", "NetMediator"]


@attrs.frozen
class MediatedNetPlug:
    """Settings of one of the two devices."""

    mac: bytes
    features: int = SUPPORTED
    queue_size: int = 256


class NetCopier(Copier):
    """Copies from one driver's transmitq to the other's receiveq."""

    def __init__(self, source: int, sink: int, mtu: int, statistics: MediatorStatistics) -> None:
        """``source`` and ``sink``: features negotiated by the sending and by the receiving driver."""
        super().__init__(statistics)
        self._rules = HeaderRules(driver_offloads(source), mtu if source >> NetFeature.MTU & 1 else None)
        self._offloads = device_offloads(sink)
        self._mergeable = bool(sink >> NetFeature.MRG_RXBUF & 1)
        self._delivered = 0
        """Number of segments of the current frame that were delivered before buffers ran out."""
        self._plain: dict[bytes, tuple[int, int, bytes]] = {}
        """Per head of frames that cross unchanged: minimum and maximum length, and the head to write."""

    def copy(self, chains: Sequence[Chain], sink: Vringh, done: list[tuple[int, int]]) -> None:
        """Copy frames of one buffer that cross unchanged into one buffer; leave the others to `copy_one`."""
        plain, filled = self._plain, []
        octets = 0
        ready = sink.getdescs(len(chains)) if not self._delivered else []
        for (head, segs, writable), (into, readable, views) in zip(chains, ready, strict=False):
            if writable or readable or len(segs) != 1 or len(views) != 1 or (size := len(segs[0])) < HEAD:
                break
            [seg], [view] = segs, views
            (start,) = unpack_head(seg)
            low, high, top = plain.get(start) or self._judge_plain(start)
            if not low <= size <= high or size > len(view):
                break
            view[:HEAD] = top
            view[HEAD:size] = seg[HEAD:]
            filled.append((into, size))
            done.append((head, 0))
            octets += size
        sink.complete_each(filled)
        sink.abandon(len(ready) - len(filled))
        self.statistics.count_copies(len(filled), octets)
        if len(filled) < len(chains):
            super().copy(chains[len(filled) :], sink, done)

    def _judge_plain(self, head: bytes) -> tuple[int, int, bytes]:
        """Judge a head for `_plain`. No length is valid for a bad head, nor for one whose frame has to be finished."""
        low, high, out, _ = self._rules.judge(head)
        if low > high or needs_finishing(out, self._offloads):
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
            self._delivered = 0  # the driver changed the frame after a part of it was delivered
            return True
        skipped = self._delivered
        try:
            for at, (top, payload) in enumerate(finish(out[:HEADER_SIZE], skip(source, HEADER_SIZE), self._offloads)):
                if at < skipped:
                    continue
                copied = put(sink, top, payload, self._mergeable)
                if copied is None:
                    self._delivered = at
                    return False
                statistics.count(copied, len(top) + total(payload), "too_long")
        except BadGso:
            statistics.drop("bad_gso")
        self._delivered = 0
        return True


class NetMediator(Mediator):
    """The cable between two net devices."""

    def __init__(self, plugs: Mapping[str, MediatedNetPlug], mtu: int) -> None:
        """``plugs``: settings by device name; ``mtu``: bytes without the Ethernet header."""
        super().__init__()
        self._plugs = plugs
        self._mtu = mtu

    def offer(self, device: VhostDevice) -> None:
        plug = self._plugs[device.name]
        queues = [OfferedQueue(name, plug.queue_size) for name in ("receiveq1", "transmitq1")]
        device.offer(TABLE, plug.features & SUPPORTED & ~CONTROLLED, queues, self._config(device, up=False))

    def queues(self, source: VhostDevice, sink: VhostDevice) -> tuple[DeviceQueue, DeviceQueue]:
        return source.queues[1], sink.queues[0]

    def copier(self, source: VhostDevice, sink: VhostDevice, statistics: MediatorStatistics) -> Copier:
        return NetCopier(source.features, sink.features, self._mtu, statistics)

    def link_changed(self, device: VhostDevice, up: bool) -> None:
        device.set_config(self._config(device, up))

    def _config(self, device: VhostDevice, up: bool) -> bytes:
        return NetConfig(self._plugs[device.name].mac, LINK_UP if up else 0, self._mtu).emit()
