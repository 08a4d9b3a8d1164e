"""Both sides of a net device with the plain path in C, beside the same in Python: same frames, counters and ring."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from itertools import count
from typing import TYPE_CHECKING, cast

import attrs
import pytest

from drivers.bus.vhost import DeviceQueue
from drivers.bus.virtio import DriverQueue
from drivers.contracts.events import Event, Events, FrameEvent, Source
from drivers.devices.net.device.flows import VhostNetFromDriver, VhostNetToDriver
from drivers.devices.net.driver.flows import FrameBuffers, VirtioNetReceive, VirtioNetTransmit
from drivers.devices.net.filter import FrameFilter, Reception
from drivers.devices.net.flow import NetFlow, Traffic
from drivers.devices.net.header import HeaderRules
from drivers.flow.pump import AGAIN, QueueEnd
from rings.formats import FORMATS
from rings.memory import Addr
from rings.native import NATIVE
from rings.queue import Virtqueue, Vringh
from support.native import NEEDS_NATIVE
from support.rigs.tun import ALL, IPV4, OTHER, OWN, PEER, PLAIN, Socket, ipv4, ipv6
from support.rigs.twin import makers
from vnet.emitters.chains import QueueChains
from vnet.emitters.ports import PortEnd, watch_port
from vnet.linux.memory import HostMemory
from vnet.ports.packet.tap import TapPort
from vnet.ports.packet.tun import TunPort

if TYPE_CHECKING or NATIVE:
    from vnet.ports.packet.native import _frames

pytestmark = NEEDS_NATIVE

NUM, SIZE = 8, 65664
CSUM = bytes.fromhex("0100") + bytes(4) + bytes.fromhex("14000600") + bytes(2)
GSO = bytes.fromhex("0101360064001400") + bytes.fromhex("0600") + bytes(2)


@attrs.define(eq=False)
class End:
    """One end of a queue, without tasks."""

    ring: Virtqueue | Vringh
    live: bool = True


class Stack:
    """A driver's port, two rings, and a device's port, whose flows move when the test says so."""

    def __init__(self, form: str, kind: str, native: bool, filtered: bool) -> None:
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
        self.flows: list[NetFlow[QueueEnd]] = []
        for towards_device in (True, False):
            area = self.memory.alloc(1 << 14, 4096)
            addrs, _ = FORMATS[form].contiguous(NUM, area.addr, 4096)
            driver = make_driver(self.memory, NUM, addrs, event_idx=True)
            device = make_device(self.memory, NUM, addrs, event_idx=True, indirect=False)
            self.rings += [driver, device]
            slots = FrameBuffers(self.memory, NUM, SIZE)
            left, right = cast(DriverQueue, End(driver)), cast(DeviceQueue, End(device))
            rules = HeaderRules(ALL, 1500, accept_data_valid=not towards_device)
            if towards_device:
                self._add(VirtioNetTransmit(left, self.ports[0], self.traffic[0], slots))
                self._add(VhostNetFromDriver(right, self.ports[1], self.traffic[1], rules))
            else:
                inward = VhostNetToDriver(right, self.ports[1], self.traffic[2], SIZE - 2, True)
                if filtered:
                    inward.filter = FrameFilter(OWN, Reception())
                self._add(inward)
                outward = VirtioNetReceive(left, self.ports[0], self.traffic[3], slots, rules, True, ALL)
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


async def run(form: str, kind: str, filtered: bool, seed: int, native: Sequence[bool], watched: bool) -> list[Stack]:
    stacks = [Stack(form, kind, each, filtered) for each in native]
    for stack in stacks:
        await stack.start()
        if watched:
            stack.watch()
    rng = random.Random(seed)
    for _ in range(40):
        for end in (0, 1):
            for frame in frames(rng, kind, end):
                for stack in stacks:
                    stack.write(end, frame)
        for flow in rng.choices(range(4), k=6):
            moved = [stack.move(flow) for stack in stacks]
            assert moved[0] == moved[-1], flow
        if rng.random() < 0.1:
            for stack in stacks:
                stack.ports[0].set_mac(OWN)  # the caches are forgotten
        for end in (0, 1):
            came = [stack.read(end) for stack in stacks]
            assert came[0] == came[-1]
        assert stacks[0].figures() == stacks[-1].figures()
        assert stacks[0].seen == stacks[-1].seen
    assert bool(stacks[0].seen) == watched
    return stacks


@pytest.mark.parametrize("kind", ["tun", "tap"])
@pytest.mark.parametrize("form", ["split", "packed"])
@pytest.mark.parametrize("filtered", [False, True], ids=["unfiltered", "filtered"])
@pytest.mark.parametrize("watched", [False, True], ids=["unwatched", "watched"])
async def test_frames_and_figures_are_the_same_on_both_paths(
    form: str, kind: str, filtered: bool, watched: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fcntl.ioctl", lambda *_: 0)
    moved = {"send_each": 0, "recv_each": 0}

    def counted(name: str) -> Callable[..., tuple[object, ...]]:
        function: Callable[..., tuple[object, ...]] = getattr(_frames, name)

        def call(*args: object) -> tuple[object, ...]:
            result = function(*args)
            moved[name] += len(result[0]) if isinstance(result[0], list) else cast(int, result[0])
            return result

        return call

    for name in moved:
        monkeypatch.setattr(_frames, name, counted(name))
    for seed in range(6):
        stacks = await run(form, kind, filtered, seed, (True, False), watched)
        assert all(each.packets > 50 for each in stacks[0].traffic)
        for stack in stacks:
            stack.close()
    assert all(frames > 500 for frames in moved.values()), moved


@pytest.mark.parametrize("form", ["split", "packed"])
async def test_a_frame_that_c_read_is_received_once(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python takes a chain for a frame that C read, then a chain that C does not take: no frame is left for it."""
    monkeypatch.setattr("fcntl.ioctl", lambda *_: 0)
    stack = Stack(form, "tap", native=True, filtered=False)
    await stack.start()
    memory, flow = stack.memory, stack.flows[2]
    area, data = memory.alloc(1 << 14, 4096), memory.alloc(3 * SIZE, 4096)
    addrs, _ = FORMATS[form].contiguous(NUM, area.addr, 4096)
    driver = FORMATS[form].driver(memory, NUM, addrs, event_idx=True)
    device = FORMATS[form].device(memory, NUM, addrs, event_idx=True, indirect=False)
    flow.queue = cast("QueueEnd", End(device))
    driver.add((), [(data.addr, SIZE)], 1)
    driver.add((), [(Addr(data.addr + SIZE), SIZE), (Addr(data.addr + 2 * SIZE), 64)], 2)
    driver.publish()
    memory.view(data.addr, 1)  # the region that C may access is the last one
    stack.write(1, PLAIN + OWN + PEER + IPV4 + bytes(60))
    assert flow.move() == (1, stack.ports[1].wait_readable)
    device.publish()
    assert driver.get_each(NUM) == [(1, 12 + 14 + 60)]
    assert stack.ports[1].statistics().rx_packets == stack.traffic[2].packets == 1
    driver.close()
    device.close()
    stack.close()


async def test_a_packet_without_all_of_its_header_is_dropped_behind_one_with_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("fcntl.ioctl", lambda *_: 0)
    stacks = [Stack("split", "tun", native, filtered=False) for native in (True, False)]
    whole = PLAIN + ipv6("2001:2::")
    for stack in stacks:
        await stack.start()
        for frames in ([whole], [whole, whole[: 12 + 28], whole]):  # the missing bytes of its destination are zeros
            for frame in frames:
                stack.write(0, frame)
            stack.move(0)
        assert stack.ports[0].statistics().drops == {"too_short": 1}
        assert stack.traffic[0].packets == 3
    assert stacks[0].figures() == stacks[1].figures()
    for stack in stacks:
        stack.close()


@pytest.mark.parametrize("kind", ["tun", "tap"])
@pytest.mark.parametrize("form", ["split", "packed"])
async def test_buffers_that_not_every_frame_fits_have_the_same_outcome_on_both_paths(
    form: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fcntl.ioctl", lambda *_: 0)
    monkeypatch.setitem(globals(), "SIZE", 2048)
    for seed in range(3):
        for stack in await run(form, kind, True, seed, (True, False), True):
            stack.close()
