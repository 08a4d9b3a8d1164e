"""Two hosts, an ideal link and network devices over it, in memory."""

from __future__ import annotations

import hashlib
import random
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from functools import cache, partial
from typing import Any, Literal

import attrs
import trio

from drivers.bus.model import Bus
from drivers.bus.vhost import VhostBack, VhostDevice
from drivers.bus.virtio import VirtioDevice
from drivers.contracts.ports import ALL_OFFLOADS, ETH_HLEN, HEADER_SIZE, Offloads, PacketPort
from drivers.devices.net.device.device import NetPlug
from drivers.devices.net.driver.driver import NetSettings
from drivers.registry import TRANSPORTS
from drivers.transports.pci import VirtioEpf
from vnet.ends.base import EndsType
from vnet.ends.net.end import NetSpec, PortSpec, open_net
from vnet.host.host import Host
from vnet.link.base import Link
from vnet.pcie.function_handle import PciFunctionHandle
from vnet.ports.packet.memory import MemoryPort
from vnet.ports.packet.open import PortConfig
from vnet.spec import DeviceSpec, HostSpec, LinkSpec, NtbSpec
from vnet.system.world import Device, World, open_world
from vnet.testing.footprint import Footprint, fds
from vnet.topology import Topology

__all__ = ["FRAME", "MEGABYTE", "Options", "Pair", "carried", "open_pair", "over", "send_and_compare"]

LINK, ROOT, ENDPOINT = "link0", "rc", "ep"
OTHER, SOC, NTB = "link1", "soc", "ntb"
FRAME = bytes.fromhex("020000000002 020000000001 88b5") + b"a frame of a local experiment"
"""Ethernet header and payload that nobody but a test understands (IEEE 802 local experimental ethertype)."""
MEGABYTE = 1 << 20
PLAIN = bytes(HEADER_SIZE)
GSO = bytes.fromhex("01 01 3600 b405 2200 1000 0000")
"""A virtio_net_hdr: NEEDS_CSUM and TCPV4, as for TCP without options over IPv4 without options."""
LARGE_PIECE = 60_000
PIECE = 1400
"""Bytes of payload: a frame that needs no feature."""
BURST = 32
IDEAL = LinkSpec(root=ROOT, endpoint=ENDPOINT)


@attrs.frozen
class Options:
    """What differs from the usual pair."""

    features_off: tuple[str, ...] = ()
    control: bool = False
    """Whether there is a control queue: most of what is tested are the two others."""
    pairs: int = 1
    """Pairs of queues; several need ``control``."""
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
    transport: str | None = None
    """As of `carried`."""
    poll: bool = False
    link: LinkSpec = IDEAL

    def topology(self) -> Topology:
        port = PortSpec(kind="memory")
        spec = NetSpec(
            poll=self.poll,
            queue_size=self.queue_size,
            features_off=self.features_off if self.control else (*self.features_off, "CTRL_VQ"),
            queue_pairs=self.pairs,
            rx_buffer=self.rx_buffer,
            mtu=self.mtu,
            driver=port,
            device=port,
        )
        devices = {f"net{i}": spec for i in range(self.devices)}
        return carried(devices, self.transport, self.link, self.memory)


def carried(
    devices: Mapping[str, DeviceSpec], transport: str | None = None, link: LinkSpec = IDEAL, memory: int = 48
) -> Topology:
    """Hosts of ``memory`` MiB, ``devices``, and what carries them: whatever transport `over` says where none is given,
    and virtio-pci where that says nothing.
    """
    transport = transport or _default.get()
    hosts = {name: HostSpec(memory=memory) for name in (ROOT, ENDPOINT)}
    links: dict[str, LinkSpec] = {LINK: link}
    ntbs: dict[str, NtbSpec] = {}
    on = TRANSPORTS[transport].on
    places: dict[str, DeviceSpec] = {}
    for i, (name, given) in enumerate(devices.items()):
        spec = attrs.evolve(given, ring=_ring.get())
        if on == "link":
            places[name] = attrs.evolve(spec, transport=transport, link=LINK, function=i)
        elif on == "host":
            places[name] = attrs.evolve(spec, transport=transport, host=ROOT)
        else:  # an NTB carries one device, and has two links to itself, which end on a third host
            own, other = f"{LINK}-{i}" if i else LINK, f"{OTHER}-{i}" if i else OTHER
            hosts[SOC] = HostSpec(memory=1)
            links[own], links[other] = attrs.evolve(link, endpoint=SOC), LinkSpec(root=ENDPOINT, endpoint=SOC)
            ntbs[f"{NTB}{i}"] = NtbSpec(SOC, other, own, mw=memory * 3 // 4 // len(devices))
            places[name] = attrs.evolve(spec, transport=transport, ntb=f"{NTB}{i}")
    return Topology(hosts, links, places, ntbs).check("test")


DEFAULTS = Options()
_default: ContextVar[str] = ContextVar("transport", default="pci")
_ring: ContextVar[Literal["split", "packed"]] = ContextVar("ring", default="split")


@contextmanager
def over(transport: str, ring: Literal["split", "packed"] = "split") -> Iterator[None]:
    """Pairs whose options name no transport have this one, and queues of this format."""
    token, other = _default.set(transport), _ring.set(ring)
    try:
        yield
    finally:
        _default.reset(token)
        _ring.reset(other)


class Pair:
    """Two hosts, one ideal link, and its devices; the first of them is meant where none is named."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.rc: Host = world.hosts[ROOT]
        self.ep: Host = world.hosts[ENDPOINT]
        self.link: Link = world.links[LINK]
        self.device: Device = world.devices[next(iter(world.topology.devices))]

    @property
    def driver_port(self) -> MemoryPort:
        return self.world.memory_port("net0", "driver")

    @property
    def device_port(self) -> MemoryPort:
        return self.world.memory_port("net0", "device")

    @property
    def settings(self) -> NetSettings:
        """The driver's end."""
        settings = self.device.driver_end.settings
        assert isinstance(settings, NetSettings)
        return settings

    @property
    def plug(self) -> NetPlug:
        """The device's end."""
        plug = self.device.device_end.settings
        assert isinstance(plug, NetPlug)
        return plug

    @property
    def epf(self) -> VirtioEpf:
        """The back half, where it is an endpoint function."""
        back = self.device.back
        assert isinstance(back, VirtioEpf)
        return back

    @property
    def back(self) -> VhostBack:
        """The back half."""
        assert self.device.back is not None
        return self.device.back

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
    def carrier(self) -> tuple[Bus[Any, Any], Any]:
        """The function or region behind which the driver finds the device, and the bus it is on."""
        # The NTB's bus before the PCI bus: the function and what is made of it have the same name.
        found = ((bus, binding.device) for bus in reversed(self.rc.carriers) for binding in bus.bindings)
        return next((bus, carrier) for bus, carrier in found if carrier.name == self.device.location)

    @property
    def function(self) -> PciFunctionHandle:
        return next(f for f in self.rc.rc.functions if f.name == self.device.location)

    def footprint(self) -> Footprint:
        """Call it when nothing moves."""
        memories = self.rc.memory, self.ep.memory
        controllers = self.world.hosts[self.world.topology.links[LINK].endpoint].controllers
        epc = controllers[LINK].describe()["windows"]
        assert isinstance(epc, list)
        rings = [queue.ring for d in self.world.devices.values() for queue in d.vhost.queues]
        return Footprint(
            tasks=trio.lowlevel.current_statistics().tasks_living,
            fds=fds(),
            buffers=sum(memory.statistics().buffers for memory in memories),
            pinned=sum(memory.pinned for memory in memories) + sum(window["pinned"] for window in epc),
            windows=sum(1 for window in epc if window["pinned"]),
            interrupts=self.rc.rc.interrupts.requested,
            in_flight=sum(ring.state().in_flight for ring in rings if ring is not None),
        )

    async def transfer(self, size: int = MEGABYTE, device: str = "net0") -> None:
        """``size`` random bytes in each direction, compared by hash. Raises AssertionError, trio.TooSlowError."""
        ports = [self.world.memory_port(device, end) for end in ("driver", "device")]
        async with trio.open_nursery() as nursery:
            for source, sink in (ports, ports[::-1]):
                nursery.start_soon(send_and_compare, source, sink, size, self.settings.rx_buffer is None)

    async def reset(self) -> None:
        """Unbind the driver and bind it again: a plain reset, and everything from step 1 on."""
        bus = self.rc.virtio
        driver = bus.match(self.virtio)
        assert driver is not None
        await bus.unregister_driver(driver)
        bus.register_driver(driver)
        await self.world.wait_up()


@asynccontextmanager
async def open_pair(options: Options = Options()) -> AsyncIterator[Pair]:
    """A pair that is up, and taken down at the end."""

    @asynccontextmanager
    async def opener(spec: PortSpec, config: PortConfig) -> AsyncIterator[PacketPort]:
        own = config.mac is not None and config.mac[-1] == 1
        yield MemoryPort(
            options.driver_caps if own else options.device_caps, capacity=options.capacity, queues=options.pairs
        )

    ends = {"net": EndsType(NetSpec, partial(open_net, opener=opener))}
    async with open_world(options.topology(), "test", ends) as world:
        await world.wait_up()
        yield Pair(world)


async def send_and_compare(source: MemoryPort, sink: MemoryPort, size: int, large: bool) -> None:
    data = _random(size)
    received = hashlib.sha256()
    # Enough small frames for any small ring to wrap around, then large ones, which cost less.
    small = size // 8 if large and source.offloads.tso4 and sink.offloads.tso4 else size
    pieces = [(PLAIN, data[at : min(at + PIECE, small)]) for at in range(0, small, PIECE)]
    pieces += [(GSO, data[at : at + LARGE_PIECE]) for at in range(small, size, LARGE_PIECE)]
    # To whom it is for: no filter of the device may keep it, whatever the driver has told it so far.
    head = (sink.mac or FRAME[:6]) + FRAME[6:ETH_HLEN]
    with trio.fail_after(60):
        while _drained(sink):
            pass
        for at in range(0, len(pieces), BURST):
            burst = pieces[at : at + BURST]
            for header, piece in burst:
                source.inject(head + piece, header)
            for _ in burst:
                _, frame = await sink.receive()
                received.update(frame[ETH_HLEN:])
    assert received.digest() == hashlib.sha256(data).digest(), "the transfer did not arrive as it was sent"


@cache
def _random(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def _drained(port: MemoryPort) -> bool:
    try:
        port.receive_nowait()
    except trio.WouldBlock:
        return False
    return True
