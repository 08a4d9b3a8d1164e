"""Both sides of a net device over sockets, without a bus, a link or tasks: flows that move when the test says so."""

from __future__ import annotations

import random
from collections import Counter
from itertools import count
from typing import cast

import attrs

from drivers.bus.vhost import DeviceQueue
from drivers.bus.virtio import DriverQueue
from drivers.contracts.events import Event, Events, FrameEvent, Source
from drivers.devices.net.device.flows import VhostNetFromDriver, VhostNetToDriver
from drivers.devices.net.driver.flows import FrameBuffers, VirtioNetReceive, VirtioNetTransmit
from drivers.devices.net.filter import FrameFilter, Reception
from drivers.devices.net.flow import NetFlow, Traffic
from drivers.devices.net.header import HeaderRules
from drivers.flow.pump import AGAIN, BATCH_BUCKETS, QueueEnd
from rings.formats import FORMATS
from rings.memory import Addr
from rings.queue import Virtqueue, Vringh
from support.rigs.tun import ALL, IPV4, OTHER, OWN, PEER, PLAIN, Socket, ipv4, ipv6
from support.rigs.twin import makers
from vnet.emitters.chains import QueueChains
from vnet.emitters.ports import PortEnd, watch_port
from vnet.linux.memory import HostMemory
from vnet.ports.packet.tap import TapPort
from vnet.ports.packet.tun import TunPort

__all__ = ["NUM", "SIZE", "End", "Stack", "frames"]

NUM, SIZE = 8, 65664
CSUM = bytes.fromhex("0100") + bytes(4) + bytes.fromhex("14000600") + bytes(2)
GSO = bytes.fromhex("0101360064001400") + bytes.fromhex("0600") + bytes(2)


@attrs.define(eq=False)
class End:
    """One end of a queue, without tasks."""

    ring: Virtqueue | Vringh
    live: bool = True
    batches: list[int] = attrs.field(factory=lambda: [0] * BATCH_BUCKETS)
    delay: None = None

    def flush(self) -> None:
        self.ring.publish()


class Stack:
    """A driver's port, two rings, and a device's port, whose flows move when the test says so."""

    def __init__(self, form: str, kind: str, native: bool, filtered: bool, size: int = SIZE) -> None:
        self.native, self.kind = native, kind
        self.memory = HostMemory(8 << 20)
        make_driver, make_device = makers(form, native)
        self.sockets = Socket(), Socket()
        self.ports = [
            self._port(device, mac, peer)
            for device, mac, peer in zip(self.sockets, (OWN, PEER), (PEER, OWN), strict=True)
        ]
        self.traffic = [Traffic() for _ in range(4)]
        self.seen: list[tuple[object, ...]] = []
        self.rings: list[Virtqueue | Vringh] = []
        self.areas: list[Addr] = []
        """Address of each ring."""
        self.flows: list[NetFlow[QueueEnd]] = []
        for towards_device in (True, False):
            area = self.memory.alloc(1 << 14, 4096)
            self.areas.append(area.addr)
            addrs, _ = FORMATS[form].contiguous(NUM, area.addr, 4096)
            driver = make_driver(self.memory, NUM, addrs, event_idx=True)
            device = make_device(self.memory, NUM, addrs, event_idx=True, indirect=False)
            self.rings += [driver, device]
            slots = FrameBuffers(self.memory, NUM, size)
            left, right = cast(DriverQueue, End(driver)), cast(DeviceQueue, End(device))
            rules = HeaderRules(ALL, 1500, accept_data_valid=not towards_device)
            if towards_device:
                self._add(VirtioNetTransmit(left, self.ports[0], self.traffic[0], slots))
                self._add(VhostNetFromDriver(right, self.ports[1], self.traffic[1], rules))
            else:
                inward = VhostNetToDriver(right, self.ports[1], self.traffic[2], size - 2, True)
                if filtered:
                    inward.filter = FrameFilter(OWN, Reception())
                self._add(inward)
                outward = VirtioNetReceive(left, self.ports[0], self.traffic[3], slots, rules, True, ALL, Counter())
                outward.fill()
                self._add(outward)
                driver.publish()

    def _add(self, flow: object) -> None:
        self.flows.append(cast("NetFlow[QueueEnd]", flow))

    def _port(self, device: Socket, mac: bytes, peer: bytes) -> TunPort | TapPort:
        port: TunPort | TapPort
        if self.kind == "tun":
            port = TunPort(device, "vnet0", mac=mac, peer_mac=peer)
        else:
            port = TapPort(device, "vnet0", mac=mac)
        port.native = self.native
        return port

    async def start(self) -> None:
        for port, mac in zip(self.ports, (OWN, PEER), strict=True):
            await port.start(mac=mac, offloads=ALL, mtu=None)

    def watch(self) -> None:
        """Note what observers of both ports see."""
        events, chains, numbers = Events(frames=self._see), QueueChains(), count(1)
        for end, port in enumerate(self.ports):
            source = Source(port=f"port {end}")
            place = PortEnd(source, source, chains, "device" if end else "driver")
            watch_port(port, events, place, place, numbers, batches=True)

    def _see(self, event: Event) -> None:
        assert isinstance(event, FrameEvent)
        flags = event.header[:10]  # C sets num_buffers as well
        self.seen.append((type(event), event.source, event.frame, event.size, flags, event.data()))

    def write(self, end: int, frame: bytes) -> None:
        self.sockets[end].write(frame)

    def move(self, flow: int) -> object:
        """Move until nothing moves; returns what the flow then waits for."""
        moved = 0
        while True:
            count, wait = self.flows[flow].move()
            ring = self.rings[(0, 1, 3, 2)[flow]]
            ring.publish()
            moved += count
            if wait is not AGAIN:
                return moved, getattr(wait, "__name__", wait)

    def read(self, end: int) -> list[bytes]:
        frames = []
        while True:
            try:
                frames.append(self.sockets[end].read())
            except (BlockingIOError, TimeoutError):
                return frames

    def figures(self) -> object:
        return (
            [(each.packets, each.bytes, dict(each.drops)) for each in self.traffic],
            [attrs.asdict(port.statistics()) for port in self.ports],
            [(ring.state(), ring.statistics().chains, ring.statistics().returned) for ring in self.rings],
        )

    def close(self) -> None:
        for socket in self.sockets:
            socket.close()
        for ring in self.rings:
            ring.close()


def frames(rng: random.Random, kind: str, end: int) -> list[bytes]:
    """Frames as the kernel hands them to a port: mostly few heads, repeated; some that are dropped."""
    to, mac, source = ("198.18.0.2", PEER, OWN) if end == 0 else ("198.18.0.1", OWN, PEER)
    packets = [
        PLAIN[:12] + ipv4(to, bytes(rng.randrange(40, 200))),
        CSUM + ipv4(to, bytes(60)),
        GSO + ipv4(to, bytes(3000)),
        PLAIN + ipv6("2001:2::2" if end == 0 else "2001:2::1", bytes(100)),
    ]
    odd = [
        PLAIN + ipv4("198.18.0.77", bytes(60)),
        PLAIN + b"\x90" + bytes(60),
        PLAIN + b"\x45" + bytes(5),
        bytes.fromhex("0107") + bytes(10) + ipv4(to, bytes(60)),
        PLAIN + ipv4(to, bytes(1700)),
        b"\x02" + PLAIN[1:] + ipv4(to, bytes(60)),
    ]
    chosen = [rng.choice(packets) if rng.random() < 0.85 else rng.choice(odd) for _ in range(rng.randrange(12))]
    if kind == "tun":
        return chosen
    ethernet = [(mac, source), (mac, source), (mac, source), (OTHER, source), (b"\xff" * 6, source)]
    return [frame[:12] + b"".join(rng.choice(ethernet)) + IPV4 + frame[12:] for frame in chosen]
