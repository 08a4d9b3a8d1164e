"""vhost-net: the device, between the driver's rings and a packet port."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import attrs
import trio

from drivers.bus.plug import Plug
from drivers.bus.vhost import OfferedQueue, VhostBound, VhostDevice
from drivers.carriers.vhost_user import FrontEndNet
from drivers.contracts.liveness import Liveness
from drivers.contracts.ports import ALL_OFFLOADS, ETH_HLEN, HEADER_SIZE, NO_OFFLOADS, PacketPort, PacketQueue
from drivers.devices.net.device.coalescing import CallCoalescers
from drivers.devices.net.device.control import VhostNetControlFlow
from drivers.devices.net.device.flows import VhostNetFlow, VhostNetFromDriver, VhostNetToDriver
from drivers.devices.net.device.rarp import rarp
from drivers.devices.net.device.steering import Steering
from drivers.devices.net.filter import FrameFilter, Reception
from drivers.devices.net.flow import NetFigures
from drivers.devices.net.header import HeaderRules
from drivers.devices.net.layout import (
    ANNOUNCE,
    CONTROLLED,
    FRONTED_TABLE,
    HASHED,
    LINK_UP,
    MAX_FRAME,
    MAX_PAIRS,
    SEVERAL,
    SPEED_UNKNOWN,
    SUPPORTED,
    TABLE,
    USUAL,
    Duplex,
    NetConfig,
    NetFeature,
    device_offloads,
    driver_offloads,
    hash_room,
    offload_features,
    pairs_of,
    queue_names,
)
from drivers.devices.net.statistics import QueueCounts, StatType
from drivers.devices.net.steering import HashConfig, RssConfig
from drivers.devices.net.vlan import TAGS_ROOM
from drivers.errors import PortGone
from drivers.flow.pump import Flow, Signal, pump
from rings.status import Status

__all__ = ["BoundVhostNet", "NetPlug"]

ETH_ZLEN = 60
"""Bytes of the shortest Ethernet frame."""
MIN_MTU = 68
"""Smallest MTU that a device may report, in bytes (section 5.1.4.1)."""
CONTROL_NUM = 64
"""Maximum descriptors of the control queue, if no other queue can take its index."""
MALFORMED = ("writable", "short_header", "short_frame")
"""Causes of drops by which the buffers of a driver's frame are malformed."""
OVERRUNS = ("too_long", "overrun")
"""Causes of drops by which the driver's buffers are too few for a frame."""
F = NetFeature


@attrs.define(eq=False)
class NetPlug(Plug["BoundVhostNet"]):
    """Identity, port and settings of one vhost-net device."""

    port: PacketPort
    mac: bytes
    """6 bytes: the address of the driver's interface, unless the driver sets another."""
    mtu: int = 1500
    features: int = USUAL
    """Feature bits to offer."""
    queue_size: int = 256
    pairs: int = 1
    """Maximum number of queue pairs to offer; limited by the port's."""
    speed: int | None = None
    """Mbit/s."""
    duplex: Duplex = Duplex.UNKNOWN
    control: bool = True
    """Whether to offer a control queue. False if a vhost-user front end serves it: that one enables queues instead."""
    link_up: bool = True
    """Whether the network is connected; if not, all frames are dropped."""
    figures: NetFigures = attrs.field(factory=NetFigures)

    @property
    def liveness(self) -> Liveness:
        """Whether frames cross the port."""
        return self.port.liveness

    def join(self, device: VhostDevice) -> BoundVhostNet:
        """Return ``device`` bound to the port."""
        return BoundVhostNet(device, self)

    def changed(self) -> None:
        """Handle a change of ``link_up`` or ``mtu``.

        A new MTU makes the device ask a running driver for a reset, because the MTU may not change under it
        (section 5.1.4.1).
        """
        if self.bound is not None:
            self.bound.plug_changed()

    def announce(self) -> bool:
        """Ask the driver to announce its station; return whether there is one that supports it."""
        return self.bound is not None and self.bound.announce()


class BoundVhostNet(VhostBound[NetPlug], FrontEndNet):
    """One vhost-net device with its plug, and the driver's settings since the last reset.

    The driver may write no field of the configuration (section 5.1.4.2).
    """

    def __init__(self, device: VhostDevice, plug: NetPlug) -> None:
        super().__init__(device, plug)
        self._most = min(plug.pairs, len(plug.port.queues), MAX_PAIRS) if plug.features & SEVERAL else 1
        self._table = TABLE if plug.control else FRONTED_TABLE
        self._features = 0  # that are offered
        self._port_gone = False
        self._announcing = False
        self._link_changed = Signal()
        self._to_driver: list[VhostNetToDriver] = []
        self._from_driver: list[VhostNetFromDriver] = []
        self._front_mtu: int | None = None
        self._mtu = plug.mtu
        self.mac = plug.mac
        """Address of the driver's station."""
        self.offloads = NO_OFFLOADS
        """Offloads of frames to the driver."""
        self.pairs = 1
        """Number of queue pairs in use."""
        self.reception = Reception()
        self._steering: Steering | None = None
        self.coalescers = CallCoalescers(())
        """Keep back calls, from DRIVER_OK to reset."""

    @property
    def max_pairs(self) -> int:
        """Maximum number of queue pairs."""
        return self._most

    @property
    def rss(self) -> RssConfig | None:
        """Parameters of receive-side scaling; None for automatic steering."""
        return None if self._steering is None else self._steering.rss

    def offer(self) -> None:
        plug = self.plug
        # The port has to finish what frames from the driver leave undone, and to accept it in frames to the driver.
        able = offload_features(plug.port.caps, from_driver=True) | offload_features(plug.port.caps, from_driver=False)
        every = offload_features(ALL_OFFLOADS, from_driver=True) | offload_features(ALL_OFFLOADS, from_driver=False)
        features = plug.features & SUPPORTED & ~(every & ~able)
        if self._most == 1:
            features &= ~SEVERAL
        if not plug.control:
            features &= ~CONTROLLED | 1 << F.MQ
        self._features = features = self._table.prune(features)
        names, size = queue_names(features, self._most), plug.queue_size
        queues = [OfferedQueue(name, size, discards=bool(index % 2)) for index, name in enumerate(names)]
        if features >> F.CTRL_VQ & 1:
            queues[-1] = OfferedQueue(names[-1], min(CONTROL_NUM, size))
        self.device.offer(self._table, features, queues, self._config())
        plug.attach(self)
        plug.figures.grow(self._most)

    def _config(self) -> bytes:
        plug = self.plug
        status = LINK_UP if plug.link_up and not self._port_gone else 0
        status |= ANNOUNCE if self._announcing else 0
        speed = SPEED_UNKNOWN if plug.speed is None else plug.speed
        hashes = bool(self._features & HASHED)
        return NetConfig(self.mac, status, self._mtu, self._most, speed, plug.duplex, hashes).emit()

    def _update_config(self, *, notify: bool = True) -> None:
        self.device.set_config(self._config(), notify=notify)

    def features_ok(self, features: int) -> None:
        """At FEATURES_OK, name the queues: the index of the control queue depends on MQ."""
        names = queue_names(features, self._most)
        self.device.name_queues([*names, *(f"unused{i}" for i in range(len(names), len(self.device.queues)))])
        self.plug.figures.control_index = len(names) - 1 if features >> F.CTRL_VQ & 1 else None

    def flows(self, pair: int) -> tuple[VhostNetFromDriver, VhostNetToDriver] | None:
        """Return the flows of a queue pair; None if it has none."""
        return (self._from_driver[pair], self._to_driver[pair]) if pair < len(self._from_driver) else None

    # Changes by the owner of the plug

    def plug_changed(self) -> None:
        """Adopt the plug's ``link_up`` and ``mtu``."""
        if self._next_mtu != self._mtu:
            if self.device.running:
                self.device.fail(f"the MTU changes from {self._mtu} to {self._next_mtu}")
            elif not self.device.status & Status.FEATURES_OK:
                self._mtu = self._next_mtu
        self._link_changed.set()
        self._update_config()

    @property
    def _next_mtu(self) -> int:
        """The MTU of the device after a reset."""
        return self.plug.mtu if self._front_mtu is None else min(self._front_mtu, self.plug.mtu)

    # FrontEndNet

    @property
    def has_mtu(self) -> bool:
        return bool(self.device.device_features >> F.MTU & 1)

    def take_mtu(self, mtu: int | None) -> None:
        most = self.plug.mtu
        if mtu is not None and not MIN_MTU <= mtu <= most:
            raise ValueError(f"must be {MIN_MTU} to {most}, the MTU of this device (QEMU: host_mtu={most})")
        if mtu is not None and mtu != self._mtu and self.device.running:
            raise ValueError(f"the MTU is {self._mtu}, and may not change while a driver uses it (section 5.1.4.1)")
        self._front_mtu = mtu
        if not self.device.running:
            self._mtu = self._next_mtu
            self._update_config(notify=False)

    def announce(self) -> bool:
        """Ask the driver to announce its station; return whether it supports that."""
        if not (self.device.running and self.device.has(F.GUEST_ANNOUNCE) and self.device.has(F.STATUS)):
            return False
        self._announcing = True
        self._update_config()
        return True

    def send_rarp(self, mac: bytes) -> None:
        """Send one RARP so that switches learn where the station is; losing it is harmless."""
        if not (self.plug.port.live and self.plug.link_up):
            return
        frame = bytes(HEADER_SIZE) + rarp(mac).ljust(ETH_ZLEN, b"\0")
        front = HEADER_SIZE + ETH_HLEN
        try:
            self.plug.port.send(frame[:front], (memoryview(frame)[front:],))
        except PortGone as exc:
            self._on_port_gone(exc)

    # NetCommandTarget

    def set_reception(self, reception: Reception) -> bool:
        self.reception = reception
        frame_filter = FrameFilter(self.mac, reception)
        for flow in self._to_driver:
            flow.filter = None if frame_filter.idle else frame_filter
        return True

    def set_mac(self, mac: bytes) -> bool:
        self.mac = mac
        self.set_reception(self.reception)
        self.plug.port.set_peer(mac)
        self._update_config(notify=False)  # the driver knows its own change
        return True

    def set_pairs(self, count: int) -> bool:
        if not self._has_pairs(count) or not self._switch_pairs(count):
            return False
        if self._steering is not None:
            self._steering.rss = None
        return True

    def set_rss(self, config: RssConfig) -> bool:
        if self._steering is None or not config.hash.valid or not self._has_pairs(config.pairs):
            return False
        return self._switch_pairs(config.pairs) and self._steering.set_rss(config)

    def set_hash(self, config: HashConfig) -> bool:
        if self._steering is None or not self._steering.set_hash(config):
            return False
        self._steering.rss = None
        return True

    @property
    def report_types(self) -> int:
        """Bitmap of the types of packets whose hash the driver is told."""
        return self._steering.types if self._steering is not None and self._steering.reports else 0

    def _has_pairs(self, count: int) -> bool:
        """Return whether the driver has enabled all queues of the first ``count`` pairs."""
        return count <= len(self._to_driver) and all(queue.live for queue in self.device.queues[: 2 * count])

    def _switch_pairs(self, count: int) -> bool:
        try:
            self.plug.port.set_queues(count)
        except PortGone as exc:
            self._on_port_gone(exc)
            return False
        self.pairs = count
        if self._steering is not None:
            self._steering.use(count)
        for i, flows in enumerate(zip(self._to_driver, self._from_driver, strict=True)):
            for flow in flows:
                flow.set_enabled(i < count)
        return True

    def set_offloads(self, features: int) -> bool:
        if features & ~self.device.features or self._table.unmet(features):
            return False
        self.offloads = device_offloads(features) & self.plug.port.caps
        try:
            self.plug.port.set_offloads(self.offloads)
        except PortGone as exc:
            self._on_port_gone(exc)
            return False
        for flow in self._to_driver:
            flow.drop_spill("offload")
        self._drop_waiting("offload")
        return True

    def acknowledge_announcement(self) -> bool:
        self._announcing = False
        self._update_config(notify=False)
        return True

    def statistics(self, index: int) -> QueueCounts | None:
        control, figures = self.plug.figures.control_index, self.plug.figures
        if index == control:
            # The command that asks is the last one, and executed.
            done, refused = figures.control.commands + 1, figures.control.refused
            return QueueCounts(index, StatType.CVQ, (done + refused, done))
        if index >= 2 * len(self._to_driver):
            return None
        queue, pair = self.device.queues[index], figures.pairs[index // 2]
        kind = StatType.TX_BASIC if index % 2 else StatType.RX_BASIC
        traffic, causes = (pair.received, MALFORMED) if index % 2 else (pair.sent, OVERRUNS)
        drops = traffic.drops.total(), sum(traffic.drops[cause] for cause in causes)
        calls = queue.statistics().notifications
        return QueueCounts(index, kind, (queue.kicks, traffic.packets, traffic.bytes, calls, *drops))

    # From DRIVER_OK to reset

    def _on_port_gone(self, error: PortGone) -> None:
        """Report to the driver that the link is down."""
        self.plug.port.stop()
        if not self._port_gone:
            self.device.failures.append(str(error))
        self._port_gone = True
        self._update_config()

    def _make_flows(self) -> None:
        device, plug, features = self.device, self.plug, self.device.features
        rules = HeaderRules(driver_offloads(features), self._mtu if device.has(F.MTU) else None)
        self.offloads = device_offloads(features) & plug.port.caps
        largest = HEADER_SIZE + (MAX_FRAME if self.offloads.gso else self._mtu + ETH_HLEN + TAGS_ROOM)
        self._largest = largest
        count, figures, queues = pairs_of(features, self._most), plug.figures.pairs, device.queues
        sources: Sequence[PacketQueue] = plug.port.queues[:count]
        self._steering = None
        header = HEADER_SIZE + hash_room(features)
        if features & HASHED:
            drops = [pair.sent.drop for pair in figures[:count]]
            reports = device.has(F.HASH_REPORT)
            self._steering = Steering(sources, drops, lambda pair: queues[2 * pair].live, reports=reports)
            sources = self._steering.queues
        self._to_driver = [
            VhostNetToDriver(
                queues[2 * i],
                port,
                figures[i].sent,
                largest + header - HEADER_SIZE,
                device.has(F.MRG_RXBUF),
                plain=self._steering is None,
                header=header,
            )
            for i, port in enumerate(sources)
        ]
        self._from_driver = [
            VhostNetFromDriver(queues[2 * i + 1], port, figures[i].received, rules, reports=header > HEADER_SIZE)
            for i, port in enumerate(plug.port.queues[:count])
        ]
        pairs = zip(self._to_driver, self._from_driver, strict=True)
        self.coalescers = CallCoalescers([flow for pair in pairs for flow in pair])
        unfiltered = not device.has(F.CTRL_RX)
        self.set_reception(
            Reception(allmulti=unfiltered, alluni=unfiltered, vlans=frozenset() if device.has(F.CTRL_VLAN) else None)
        )
        self._switch_pairs(1)

    async def run(self) -> None:
        device, plug = self.device, self.plug
        self._port_gone = False
        if self._next_mtu != self._mtu:
            device.fail(f"the MTU changes from {self._mtu} to {self._next_mtu}")
        self._make_flows()
        try:
            await self._apply_link()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._watch_link)
                if device.has(F.NOTF_COAL) or device.has(F.VQ_NOTF_COAL):
                    for coalescer in self.coalescers:
                        nursery.start_soon(coalescer.run)
                for flow in (*self._to_driver, *self._from_driver):
                    nursery.start_soon(flow.queue.serve_each_ring, partial(self._serve_pair, flow))
                if self._steering is not None:
                    for i in range(len(self._to_driver)):
                        nursery.start_soon(self._read, self._steering, i)
                if device.has(F.CTRL_VQ):
                    queue = device.queues[2 * len(self._to_driver)]
                    control = VhostNetControlFlow(queue, self, device.features, plug.figures.control)
                    nursery.start_soon(queue.serve_each_ring, partial(self._serve, control))
        finally:
            self._end()

    async def _serve(self, flow: Flow) -> None:
        """Serve one ring of a queue."""
        try:
            await pump(flow, self.device.settle, in_place=True)
        except PortGone as exc:
            self._on_port_gone(exc)

    async def _read(self, steering: Steering, index: int) -> None:
        """Steer the frames of one queue of the port."""
        try:
            await steering.read(index, self._largest)
        except PortGone as exc:
            self._on_port_gone(exc)

    def _drop_waiting(self, cause: str) -> None:
        if self._steering is not None:
            self._steering.clear(cause)

    async def _serve_pair(self, flow: VhostNetFlow) -> None:
        """Serve one ring of a queue pair, and adapt the number of pairs at its start and end."""
        self._count_pairs()
        self.coalescers.restart(flow.queue.index)
        try:
            await self._serve(flow)
        finally:
            self._count_pairs()

    def _count_pairs(self) -> None:
        """Without a control queue, use the pairs whose queues the driver has enabled."""
        queues, used = self.device.queues, 1
        if self.device.has(F.CTRL_VQ) or not queues:  # no queues: the device was removed
            return
        while used < len(self._to_driver) and all(q.live and not q.muted for q in queues[2 * used : 2 * used + 2]):
            used += 1
        if used != self.pairs:
            self._switch_pairs(used)

    async def _watch_link(self) -> None:
        while True:
            await self._link_changed.wait()
            await self._apply_link()

    async def _apply_link(self) -> None:
        """Start or stop the port, and dropping, by ``link_up``."""
        plug, port = self.plug, self.plug.port
        for flow in self._from_driver:
            flow.link_up = plug.link_up
        if not plug.link_up:
            port.stop()
            for to_driver in self._to_driver:
                to_driver.drop_spill("stopped")
            self._drop_waiting("stopped")
        elif not port.live and not self._port_gone:
            try:
                await port.start(mac=None, offloads=self.offloads, mtu=self._mtu)
                port.set_link_mode(plug.speed, plug.duplex.full)
                port.set_carrier(True)
            except PortGone as exc:
                self._on_port_gone(exc)
            self._update_config()

    def _end(self) -> None:
        """Discard all settings of the driver."""
        plug = self.plug
        plug.port.stop()
        self._drop_waiting("stopped")
        self._to_driver, self._from_driver, self._steering = [], [], None
        self.coalescers = CallCoalescers(())
        if self.mac != plug.mac:
            plug.port.set_peer(plug.mac)
        self.mac, self._mtu, self._announcing = plug.mac, self._next_mtu, False
        self._update_config(notify=False)

    async def close(self) -> None:
        self.plug.detach()
