"""The test kit: two hosts with one device between them, hostile ends for it, and what must hold afterwards.

    async with open_pair() as pair:
        pair.driver_port.inject(frame)
        header, frame = await pair.device_port.receive()

For tests and examples only.
"""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import attrs
import trio
import trio.testing

from drivers.devices.net.driver import NetSettings
from drivers.devices.net.device import NetPlug
from drivers.hw import DmaBuffer
from drivers.ports import ALL_OFFLOADS, ETH_HLEN, Offloads, PacketPort
from drivers.testing import TappedFunction, read_structures
from drivers.transports.pci import VirtioEpf
from drivers.transports.pci.registers import SIZES, CfgType, Common
from drivers.vhost import VhostDevice
from drivers.virtio import VirtioDevice
from rings.layout import SPLIT_ALIGN, RingAddrs, split_sizes
from rings.memory import Addr
from rings.status import Status
from rings.testing import Desc, RawRing
from vnet.host import Host
from vnet.link.base import Link
from vnet.pcie.function import PciFunctionHandle
from vnet.ports.interface import PortConfig
from vnet.ports.memory import MemoryPort
from vnet.topology import DeviceSpec, HostSpec, LinkSpec, PortSpec, Topology
from vnet.world import Device, World, open_world

__all__ = [
    "FRAME",
    "Footprint",
    "HostileDevice",
    "HostileDriver",
    "Options",
    "Pair",
    "bounded",
    "open_pair",
    "unharmed",
]

LINK, ROOT, ENDPOINT = "link0", "rc", "ep"
FRAME = bytes.fromhex("020000000002 020000000001 88b5") + b"a frame of a local experiment"
"""Ethernet header and payload that nobody but a test understands (IEEE 802 local experimental ethertype)."""
MEGABYTE = 1 << 20
PIECE = 1024
CANARY = 0xC5
TURNS = 20_000
"""Steps of tasks within which every verdict falls; what runs on for ever takes more."""


@attrs.frozen
class Options:
    """What differs from the usual pair."""

    features_off: tuple[str, ...] = ()
    queue_size: int = 64
    rx_buffer: int | None = None
    """Bytes; None makes every buffer hold any frame."""
    mtu: int = 1500
    driver_caps: Offloads = ALL_OFFLOADS
    device_caps: Offloads = ALL_OFFLOADS
    devices: int = 1
    """net0, net1, ...: functions of one endpoint."""
    memory: int = 48
    """MiB of each host."""
    capacity: int = 2048
    """Frames that each direction of a port holds."""
    transport: str = "pci"

    def topology(self) -> Topology:
        port = PortSpec(kind="memory")
        devices = {
            f"net{i}": DeviceSpec(
                link=LINK,
                transport=self.transport,
                function=i,
                queue_size=self.queue_size,
                features_off=self.features_off,
                rx_buffer=self.rx_buffer,
                mtu=self.mtu,
                driver=port,
                device=port,
            )
            for i in range(self.devices)
        }
        hosts = {name: HostSpec(memory=self.memory) for name in (ROOT, ENDPOINT)}
        return Topology(hosts, {LINK: LinkSpec(root=ROOT, endpoint=ENDPOINT)}, devices).check("test")


@attrs.frozen
class Footprint:
    """Everything that is acquired and has to be given back: equal before and after, or something leaked."""

    tasks: int
    fds: int
    buffers: int
    """DMA buffers of both hosts."""
    pinned: int
    """Typed views into memory of either host, windows included."""
    windows: int
    interrupts: int
    in_flight: int
    """Chains that devices have taken and not given back."""


class Pair:
    """Two hosts, one ideal link, and its devices; the first of them is meant where none is named."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.rc: Host = world.hosts[ROOT]
        self.ep: Host = world.hosts[ENDPOINT]
        self.link: Link = world.links[LINK]
        self.device: Device = world.devices["net0"]

    @property
    def driver_port(self) -> MemoryPort:
        return self.world.memory_port("net0", "driver")

    @property
    def device_port(self) -> MemoryPort:
        return self.world.memory_port("net0", "device")

    @property
    def settings(self) -> NetSettings:
        return self.device.settings

    @property
    def plug(self) -> NetPlug:
        return self.device.plug

    @property
    def epf(self) -> VirtioEpf:
        return self.device.epf

    @property
    def vhost(self) -> VhostDevice:
        return self.device.vhost

    @property
    def virtio(self) -> VirtioDevice:
        """The driver's view. It is another object once the function was found anew."""
        virtio = self.device.virtio
        assert virtio is not None, "there is no virtio device"
        return virtio

    @property
    def function(self) -> PciFunctionHandle:
        return next(f for f in self.rc.rc.functions if f.name == self.device.location)

    def footprint(self) -> Footprint:
        """Call it when nothing moves."""
        memories = self.rc.memory, self.ep.memory
        epc = self.ep.controllers[LINK].describe()["windows"]
        assert isinstance(epc, list)
        rings = [queue.ring for d in self.world.devices.values() for queue in d.vhost.queues]
        return Footprint(
            tasks=trio.lowlevel.current_statistics().tasks_living,
            fds=len(os.listdir("/proc/self/fd")),  # noqa: PTH208  (the listing itself is one of them, each time)
            buffers=sum(memory.statistics().buffers for memory in memories),
            pinned=sum(memory.pinned for memory in memories) + sum(window["pinned"] for window in epc),
            windows=self.link.statistics().windows,
            interrupts=self.rc.rc.interrupts.requested,
            in_flight=sum(ring.state().in_flight for ring in rings if ring is not None),
        )

    async def transfer(self, size: int = MEGABYTE, device: str = "net0") -> None:
        """``size`` random bytes in each direction, compared by hash. Raises AssertionError, trio.TooSlowError."""
        ports = [self.world.memory_port(device, end) for end in ("driver", "device")]
        async with trio.open_nursery() as nursery:
            for source, sink in (ports, ports[::-1]):
                nursery.start_soon(_send_and_compare, source, sink, size)

    async def reset(self) -> None:
        """Unbind the driver and bind it again: a plain reset, and everything from step 1 on."""
        bus = self.rc.virtio
        driver = bus.match(self.virtio)
        assert driver is not None
        await bus.unregister_driver(driver)
        bus.register_driver(driver)
        await self.world.wait_up()

    async def tap(self) -> TappedFunction:
        """Put a recorder between the function and its drivers; the function was unbound, and is not bound yet.

        Register it at `Host.pci` when the lies are in place, or `rebind` it.
        """
        function = self.function
        await self.rc.pci.unregister_device(function)
        return TappedFunction(function)

    async def rebind(self, function: TappedFunction) -> None:
        """Bind it, and wait until the device is up."""
        self.rc.pci.register_device(function)
        await self.world.wait_up()

    @asynccontextmanager
    async def hostile_driver(self) -> AsyncIterator[HostileDriver]:
        """In place of the virtio driver; the real one is bound again, and up, at the end."""
        function = self.function
        await self.rc.pci.unregister_device(function)
        hostile = HostileDriver(function, self)
        try:
            yield hostile
        finally:
            hostile.close()
        self.rc.pci.register_device(function)
        await self.world.wait_up()


@asynccontextmanager
async def open_pair(options: Options = Options(), **changes: object) -> AsyncIterator[Pair]:  # noqa: B008  (frozen)
    """A pair that is up. ``changes`` are fields of `Options`."""
    options = attrs.evolve(options, **changes)

    @asynccontextmanager
    async def opener(spec: PortSpec, config: PortConfig) -> AsyncIterator[PacketPort]:
        own = config.mac is not None and config.mac[-1] == 1
        yield MemoryPort(options.driver_caps if own else options.device_caps, capacity=options.capacity)

    async with open_world(options.topology(), "test", opener) as world:
        await world.wait_up()
        yield Pair(world)


async def _send_and_compare(source: MemoryPort, sink: MemoryPort, size: int) -> None:
    data = random.Random(size).randbytes(size)
    received = hashlib.sha256()
    with trio.fail_after(60):
        while _drained(sink):
            pass
        for at in range(0, size, PIECE):
            source.inject(FRAME[:ETH_HLEN] + data[at : at + PIECE])
            if at // PIECE % 64 == 63:
                await _collect(sink, 64, received)
        await _collect(sink, -(-size // PIECE) % 64, received)
    assert received.digest() == hashlib.sha256(data).digest(), "the transfer did not arrive as it was sent"


def _drained(port: MemoryPort) -> bool:
    try:
        port.receive_nowait()
    except trio.WouldBlock:
        return False
    return True


async def _collect(sink: MemoryPort, count: int, into: hashlib._Hash) -> None:
    for _ in range(count):
        _, frame = await sink.receive()
        into.update(frame[ETH_HLEN:])


@asynccontextmanager
async def unharmed(pair: Pair) -> AsyncIterator[None]:
    """Whatever happens inside: nothing leaks, no memory is written that was not granted, and it works again.

    Afterwards the device is reset and brought up, a hashed megabyte crosses in each direction, and the
    footprint is what it was. A second device must have kept running without any of this.
    """
    await trio.testing.wait_all_tasks_blocked()
    before = pair.footprint()
    canaries = _Canaries(pair.rc)
    others = [d for d in pair.world.devices.values() if d is not pair.device]
    resets = [d.vhost.resets for d in others]
    yield
    canaries.check()
    assert [d.vhost.resets for d in others] == resets, "another device was reset"
    await pair.reset()
    await pair.transfer()
    await trio.testing.wait_all_tasks_blocked()
    assert pair.footprint() == before


class _Canaries:
    """Marks in memory that belongs to nobody: a write there is one outside of granted memory."""

    STEP, SIZE = 64 << 10, 64

    def __init__(self, host: Host) -> None:
        self._memory = host.memory
        self._places = list(self._free())
        for addr in self._places:
            host.memory.view(Addr(addr), self.SIZE, True)[:] = bytes([CANARY]) * self.SIZE

    def check(self) -> None:
        """Of those places that are still free: an allocation in between may have used the others rightly."""
        still = set(self._free())
        for addr in self._places:
            found = bytes(self._memory.view(Addr(addr), self.SIZE))
            if addr in still and any(found):  # what was handed out in between was zeroed, and is free again
                assert found.count(CANARY) == self.SIZE, f"memory at {addr:#x} was written, and is nobody's"

    def _free(self) -> Iterator[int]:
        for low, high in self._memory._free:
            yield from range(-(-low // self.STEP) * self.STEP, high - self.SIZE, self.STEP)


class _Turns(trio.abc.Instrument):
    def __init__(self, limit: int, scope: trio.CancelScope) -> None:
        self.count = 0
        self._limit = limit
        self._scope = scope

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.count += 1
        if self.count == self._limit:
            self._scope.cancel()


@contextmanager
def bounded(turns: int = TURNS, seconds: float = 1.0) -> Iterator[_Turns]:
    """A verdict falls inside: within ``seconds`` of simulated time and ``turns`` steps of all tasks together.

    Under a jumping clock a task that never waits keeps time from passing, so that steps are counted as well.
    """
    with trio.fail_after(seconds), trio.CancelScope() as scope:
        counter = _Turns(turns, scope)
        trio.lowlevel.add_instrument(counter)
        try:
            yield counter
        finally:
            trio.lowlevel.remove_instrument(counter)
    assert not scope.cancelled_caught, f"no verdict within {turns} steps"


class HostileDriver:
    """A driver's place at the registers and rings of a virtio-pci device: it does what the test says, unchecked."""

    def __init__(self, function: PciFunctionHandle, pair: Pair) -> None:
        self.function = function
        self.pair = pair
        self.memory = pair.rc.memory
        self.structures = read_structures(function)
        self.rings: list[RawRing] = []
        self.calls: list[int] = []
        """The MSI-X vectors that came in, in order."""
        self._buffers: list[DmaBuffer] = []

    # Registers

    def read(self, field: Common) -> int:
        at = self.structures[CfgType.COMMON]
        return self.function.bar_read(at.bar, at.offset + field, SIZES[field])

    def write(self, field: Common, value: int) -> None:
        at = self.structures[CfgType.COMMON]
        self.function.bar_write(at.bar, at.offset + field, SIZES[field], value)

    @property
    def status(self) -> Status:
        return Status(self.read(Common.DEVICE_STATUS))

    @status.setter
    def status(self, value: int) -> None:
        self.write(Common.DEVICE_STATUS, value)

    @property
    def device_features(self) -> int:
        value = 0
        for select in range(4):
            self.write(Common.DEVICE_FEATURE_SELECT, select)
            value |= self.read(Common.DEVICE_FEATURE) << 32 * select
        return value

    @property
    def driver_features(self) -> int:
        value = 0
        for select in range(4):
            self.write(Common.DRIVER_FEATURE_SELECT, select)
            value |= self.read(Common.DRIVER_FEATURE) << 32 * select
        return value

    @driver_features.setter
    def driver_features(self, value: int) -> None:
        for select in range(4):
            self.write(Common.DRIVER_FEATURE_SELECT, select)
            self.write(Common.DRIVER_FEATURE, value >> 32 * select & 0xFFFF_FFFF)

    def config(self, offset: int, size: int) -> int:
        """Device-specific configuration."""
        at = self.structures[CfgType.DEVICE]
        return self.function.bar_read(at.bar, at.offset + offset, size)

    def kick(self, queue: int, value: int | None = None) -> None:
        at = self.structures[CfgType.NOTIFY]
        self.function.bar_write(at.bar, at.offset + queue * at.multiplier, 2, queue if value is None else value)

    # What a well-behaved driver does, step by step, and as a whole.

    async def reset(self) -> None:
        """Status 0, until it reads back. Raises trio.TooSlowError after a second."""
        self.status = Status(0)
        with trio.fail_after(1):
            while self.status:
                await trio.sleep(0.001)

    async def negotiate(self, features: int | None = None) -> None:
        """Steps 1 to 6, with all that is offered by default."""
        await self.reset()
        self.status = Status.ACKNOWLEDGE
        self.status |= Status.DRIVER
        self.driver_features = self.device_features if features is None else features
        self.status |= Status.FEATURES_OK

    def set_up(self, queue: int, num: int | None = None, *, enable: bool = True) -> RawRing:
        """Ring memory, and its addresses in the registers."""
        self.write(Common.QUEUE_SELECT, queue)
        if num is not None:
            self.write(Common.QUEUE_SIZE, num)
        num = self.read(Common.QUEUE_SIZE)
        areas = (self.alloc(size, max(64, align)) for size, align in zip(split_sizes(num), SPLIT_ALIGN, strict=True))
        ring = RawRing(self.memory, num, RingAddrs(*areas))
        fields = Common.QUEUE_DESC, Common.QUEUE_DRIVER, Common.QUEUE_DEVICE
        for field, area in zip(fields, attrs.astuple(ring.addrs), strict=True):
            self.write(field, area)
        if enable:
            self.write(Common.QUEUE_ENABLE, 1)
        return ring

    def map_vectors(self, queues: int = 2) -> None:
        """MSI-X: vector 0 for the configuration, one for each queue; `calls` takes what comes."""
        self.function.enable_msix()
        for vector in range(queues + 1):
            self.function.request_irq(vector, lambda vector=vector: self.calls.append(vector))
        self.write(Common.CONFIG_MSIX_VECTOR, 0)
        for queue in range(queues):
            self.write(Common.QUEUE_SELECT, queue)
            self.write(Common.QUEUE_MSIX_VECTOR, queue + 1)

    async def start(self, features: int | None = None, num: int | None = None) -> None:
        """Steps 1 to 8: two queues, MSI-X, nothing in the rings yet. `rings` are receiveq1 and transmitq1."""
        await self.negotiate(features)
        self.map_vectors()
        self.rings = [self.set_up(queue, num) for queue in range(2)]
        self.status |= Status.DRIVER_OK
        await trio.testing.wait_all_tasks_blocked()

    # Buffers

    def alloc(self, size: int, align: int = 64) -> Addr:
        buffer = self.memory.alloc(size, align)
        self._buffers.append(buffer)
        return buffer.addr

    def put(self, data: bytes) -> Addr:
        """A buffer of its own that holds ``data``."""
        addr = self.alloc(max(1, len(data)))
        self.memory.view(addr, len(data), True)[:] = data
        return addr

    def get(self, addr: Addr, size: int) -> bytes:
        return bytes(self.memory.view(addr, size))

    def send(self, *descs: Desc, head: int = 0, queue: int = 1) -> None:
        """Make one chain available and kick."""
        ring = self.rings[queue]
        ring.chain(head, *descs)
        ring.offer(head)
        self.kick(queue)

    def close(self) -> None:
        """Reset the device, then take everything back."""
        self.status = Status(0)
        self.function.free_irqs()
        while self._buffers:
            buffer = self._buffers.pop()
            self._unpin(buffer)
            self.memory.free(buffer)

    def _unpin(self, buffer: DmaBuffer) -> None:
        for ring in self.rings:
            for view in (ring._desc, ring._avail, ring._used, ring._elems):
                self.memory.unpin(view)
        self.rings = []


class HostileDevice:
    """The device's end of a pair at work: it writes what it likes into the driver's rings and buffers, and calls.

    The real device stands still meanwhile, as nothing is injected.
    """

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        self.memory = pair.rc.memory
        self.rings = [
            RawRing(self.memory, q.num, RingAddrs(Addr(q.desc), Addr(q.driver), Addr(q.used)))
            for q in pair.vhost.queues
        ]

    def call(self, queue: int) -> None:
        """Interrupt for one queue."""
        self.pair.epf.call(self.pair.vhost.queues[queue])

    def deliver(self, data: bytes, size: int | None = None, head: int | None = None) -> None:
        """Put ``data`` (virtio_net_hdr first) into the next receive buffer; ``size`` is the length told."""
        ring = self.rings[0]
        head = ring.entry(ring.used_idx) if head is None else head
        self.memory.view(Addr(ring.read(head).addr), len(data), True)[:] = data
        ring.give(head, len(data) if size is None else size)
        self.call(0)

    def close(self) -> None:
        for ring in self.rings:
            for view in (ring._desc, ring._avail, ring._used, ring._elems):
                self.memory.unpin(view)

    @classmethod
    @contextmanager
    def at(cls, pair: Pair) -> Iterator[HostileDevice]:
        hostile = cls(pair)
        try:
            yield hostile
        finally:
            hostile.close()
