"""vhost-net: the device's side of a network device, between the driver's rings and a packet port."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import attrs
import trio

from drivers.devices.net.flow import BUDGET, BUDGET_BYTES, CHUNK, FIRST_CHUNK, NetFlow, Traffic
from drivers.devices.net.header import HeaderRules
from drivers.devices.net.layout import (
    LINK_UP,
    MAX_FRAME,
    SUPPORTED,
    TABLE,
    NetConfig,
    NetFeature,
    device_offloads,
    driver_offloads,
    offload_features,
)
from drivers.devices.net.merge import NUM_BUFFERS_AT, ONE_BUFFER, Taken, complete, gather, give_back
from drivers.errors import PortGone
from drivers.model import MatchId, present
from drivers.ports import ALL_OFFLOADS, ETH_HLEN, HEADER_SIZE, PacketPort
from drivers.pump import Need, pump
from drivers.vhost import DeviceQueue, Joinable, VhostBound, VhostDevice
from rings.chain import Chain, copy_in, copy_out, skip, total
from rings.ids import DeviceId
from rings.queue import Vringh

__all__ = ["NetPlug", "VhostNet"]

HEAD = HEADER_SIZE + ETH_HLEN
VLAN_HLEN = 4


@attrs.define(eq=False)
class NetPlug:
    """What one vhost-net device is: its identity, its port, and what it offers."""

    port: PacketPort
    mac: bytes
    """6 bytes: the address of the driver's interface."""
    mtu: int = 1500
    features: int = SUPPORTED
    queue_size: int = 256
    received: Traffic = attrs.field(factory=Traffic)
    """From the driver, out of the port."""
    sent: Traffic = attrs.field(factory=Traffic)
    """From the port, to the driver."""

    def join(self, device: VhostDevice) -> BoundVhostNet:
        """Make ``device`` this one."""
        bound = BoundVhostNet(device, self)
        bound.offer()
        return bound


class FromDriver(NetFlow[DeviceQueue]):
    """transmitq: what the driver sends goes out of the port."""

    def __init__(self, queue: DeviceQueue, plug: NetPlug, rules: HeaderRules, gone: Callable[[PortGone], None]):
        super().__init__(queue, plug.port, plug.received, gone)
        self._rules = rules

    def move(self) -> tuple[int, Need]:
        ring, traffic, rules = self.queue.ring, self.traffic, self._rules
        if ring is None:
            return 0, Need.QUEUE
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
                    if writable or not low <= got <= high:
                        traffic.drop("writable" if writable else rules.cause(head, got))
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


def _settle(ring: Vringh, chains: list[Chain], done: list[tuple[int, int]]) -> None:
    """Complete the chains at the front that are done, and give the rest back in the order that takes."""
    ring.complete_each(done)
    for index, _, _ in reversed(chains[len(done) :]):
        ring.abandon(index)


class ToDriver(NetFlow[DeviceQueue]):
    """receiveq: what comes in at the port goes straight into the driver's buffers."""

    reads = True

    def __init__(
        self, queue: DeviceQueue, plug: NetPlug, largest: int, mergeable: bool, gone: Callable[[PortGone], None]
    ):
        super().__init__(queue, plug.port, plug.sent, gone)
        self._largest = largest  # bytes of header and frame that may come
        self._mergeable = mergeable
        self._spill = bytearray()  # a frame that was read while too few buffers were there

    def move(self) -> tuple[int, Need]:
        ring, traffic, recv = self.queue.ring, self.traffic, self.port.recv_into
        if ring is None:
            return 0, Need.QUEUE
        largest = self._largest if self._mergeable else 0
        moved = size = 0
        limit = FIRST_CHUNK
        while moved < BUDGET and size < BUDGET_BYTES:
            chains = ring.getdescs(min(limit, BUDGET - moved))
            if not chains:
                return moved, Need.QUEUE
            done: list[tuple[int, int]] = []
            passed = octets = 0
            merge = False
            try:
                for index, readable, segs in chains:
                    if readable or not segs:
                        # Not a receive buffer (section 5.1.9.3): give it back empty.
                        traffic.drop("writable")
                        done.append((index, 0))
                        continue
                    if len(segs[0]) < largest or self._spill:
                        merge = True
                        break
                    got = recv(segs)
                    if not got:
                        return moved + len(done), Need.SOURCE
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
            if merge:
                got, need = self._merge()
                if need is not None:
                    return moved, need
                moved += 1
                size += got
                traffic.packets += 1
                traffic.bytes += got - HEADER_SIZE
        return moved, Need.TURN

    def _merge(self) -> tuple[int, Need | None]:
        """One frame over as many buffers as it takes (section 5.1.9.3.2); all of them are published together.

        A frame that was read before there was room for it waits in ``_spill``, and is then copied.
        """
        ring = self.queue.ring
        assert ring is not None
        taken: Taken = []
        wanted = len(self._spill) or self._largest
        room = gather(ring, wanted, taken, ring.num)
        into = [seg for _, views in taken for seg in views]
        if not self._spill and room >= wanted:
            got = self.port.recv_into(into)
            if not got:
                give_back(ring, taken)
                return 0, Need.SOURCE
        else:
            if not self._spill:
                spill = bytearray(self._largest)
                self._spill = spill[: self.port.recv_into([memoryview(spill)])]
            got = len(self._spill)
            if not got or got > room:
                give_back(ring, taken)
                if not got:
                    return 0, Need.SOURCE
                if len(taken) < ring.num:
                    return 0, Need.QUEUE
                # Every buffer the ring can hold was there, and the frame fits none of it.
                self._spill.clear()
                self.traffic.drop("too_long")
                return 0, Need.TURN
            copy_in(into, self._spill)
            self._spill.clear()
        complete(ring, taken, got)
        return got, None


class BoundVhostNet:
    """One vhost-net device with its plug."""

    def __init__(self, device: VhostDevice, plug: NetPlug) -> None:
        self._device = device
        self._plug = plug
        self._link_up = True

    def offer(self) -> None:
        plug = self._plug
        # What frames from the driver leave undone, and what may arrive undone, is for this port to finish or say.
        able = offload_features(plug.port.caps, from_driver=True) | offload_features(plug.port.caps, from_driver=False)
        every = offload_features(ALL_OFFLOADS, from_driver=True) | offload_features(ALL_OFFLOADS, from_driver=False)
        features = plug.features & SUPPORTED & ~(every & ~able)
        queues = [("receiveq1", plug.queue_size), ("transmitq1", plug.queue_size)]
        self._device.offer(TABLE, features, queues, self._config())
        for queue in self._device.queues[1::2]:
            queue.discards = True

    def _config(self) -> bytes:
        return NetConfig(self._plug.mac, LINK_UP if self._link_up else 0, self._plug.mtu).emit()

    def set_link(self, up: bool) -> None:
        """Say in the configuration whether the network is there."""
        self._link_up = up
        self._device.set_config(self._config())

    def _gone(self, _: PortGone) -> None:
        self._plug.port.stop()
        self.set_link(False)

    async def run(self) -> None:
        device, plug = self._device, self._plug
        features = device.features
        incoming, outgoing = driver_offloads(features), device_offloads(features) & plug.port.caps
        mtu = plug.mtu if features >> NetFeature.MTU & 1 else None
        largest = HEADER_SIZE + (MAX_FRAME if outgoing.gso else plug.mtu + ETH_HLEN + VLAN_HLEN)
        receive, transmit = device.queues
        flows = (
            ToDriver(receive, plug, largest, bool(features >> NetFeature.MRG_RXBUF & 1), self._gone),
            FromDriver(transmit, plug, HeaderRules(incoming, mtu), self._gone),
        )
        try:
            await plug.port.start(mac=None, offloads=outgoing, mtu=plug.mtu)
        except PortGone as exc:
            self._gone(exc)
            return
        try:
            plug.port.set_carrier(True)
            if not self._link_up:
                self.set_link(True)
            async with trio.open_nursery() as nursery:
                for flow in flows:
                    serve = partial(pump, flow, device.settle, in_place=True, source=flow.source)
                    nursery.start_soon(flow.queue.each_life, serve)
        finally:
            plug.port.stop()

    def config_written(self, offset: int, data: bytes) -> None:
        """A driver must not write any field of it (section 5.1.4.2): ignored."""

    async def close(self) -> None:
        pass


class VhostNet:
    """The device type; ``plug_for`` says what a device of it is plugged into, None while it is not there yet."""

    name = "vhost_net"
    id_table = (MatchId(DeviceId.NET),)
    table = TABLE

    def __init__(self, plug_for: Callable[[VhostDevice], Joinable | None]) -> None:
        self._plug_for = plug_for

    async def probe(self, device: VhostDevice) -> VhostBound:
        plug = present(self._plug_for(device), device, "no port to plug into yet")
        return plug.join(device)
