"""Two hosts and devices between them: what pairs of every device type have."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from typing import Any, Literal, TypeVar

import attrs
import trio
import trio.testing

from drivers.bus.back import VhostBack
from drivers.bus.model import Bus
from drivers.bus.vhost import VhostDevice
from drivers.bus.virtio import VirtioDevice
from drivers.transports.pci import VirtioEpf
from vnet.host.host import Host
from vnet.link.base import Link
from vnet.pcie.function_handle import PciFunctionHandle
from vnet.spec import DeviceSpec, HostSpec, LinkSpec, NtbSpec, WireSpec
from vnet.system.device import Device
from vnet.system.world import World, open_world
from vnet.testing.footprint import Footprint, fds
from vnet.topology import Topology, check
from vnet.transports import TRANSPORTS

__all__ = ["IDEAL", "MEGABYTE", "Pair", "carried", "open_up", "over"]

PairT = TypeVar("PairT")

LINK, ROOT, ENDPOINT = "link0", "rc", "ep"
OTHER, SOC, NTB = "link1", "soc", "ntb"
MEGABYTE = 1 << 20
IDEAL = LinkSpec(root=ROOT, endpoint=ENDPOINT)


def carried(
    devices: Mapping[str, DeviceSpec], transport: str | None = None, link: LinkSpec = IDEAL, memory: int = 48
) -> Topology:
    """Return a topology: hosts of ``memory`` MiB, the devices, and their links.

    Without ``transport``, the devices use the one that `over` sets, virtio-pci by default.
    """
    transport = transport or _default.get()
    if link.wire is None:
        link = attrs.evolve(link, wire=_wire.get())
    hosts = {name: HostSpec(memory=memory) for name in (ROOT, ENDPOINT)}
    links: dict[str, LinkSpec] = {LINK: link}
    ntbs: dict[str, NtbSpec] = {}
    on = TRANSPORTS[transport].on
    places: dict[str, DeviceSpec] = {}
    for i, (name, given) in enumerate(devices.items()):
        spec = attrs.evolve(given, ring=_ring.get(), features_on=(*given.features_on, *_features_on.get()))
        if on == "link":
            places[name] = attrs.evolve(spec, transport=transport, link=LINK, function=i)
        elif on == "host":
            places[name] = attrs.evolve(spec, transport=transport, host=ROOT)
        else:  # an NTB carries one device, and has two links to itself, which end on a third host
            own, other = f"{LINK}-{i}" if i else LINK, f"{OTHER}-{i}" if i else OTHER
            hosts[SOC] = HostSpec(memory=1)
            links[own] = attrs.evolve(link, endpoint=SOC)
            links[other] = LinkSpec(root=ENDPOINT, endpoint=SOC, wire=link.wire)
            ntbs[f"{NTB}{i}"] = NtbSpec(SOC, other, own, mw=memory * 3 // 4 // len(devices))
            places[name] = attrs.evolve(spec, transport=transport, ntb=f"{NTB}{i}")
    return check(Topology(hosts, links, places, ntbs), "test")


_default: ContextVar[str] = ContextVar("transport", default="pci")
_ring: ContextVar[Literal["split", "packed"]] = ContextVar("ring", default="split")
_features_on: ContextVar[tuple[str, ...]] = ContextVar("features_on", default=())


_wire: ContextVar[WireSpec | None] = ContextVar("wire", default=None)


@contextmanager
def over(
    transport: str,
    ring: Literal["split", "packed"] = "split",
    features_on: tuple[str, ...] = (),
    wire: WireSpec | None = None,
) -> Iterator[None]:
    """Pairs whose options name no transport have this one, queues of this format, these features, and this wire.

    Without ``wire``, links stay as they are.
    """
    token, other, features = _default.set(transport), _ring.set(ring), _features_on.set(features_on)
    wired = _wire.set(wire or _wire.get())
    try:
        yield
    finally:
        _wire.reset(wired)
        _default.reset(token)
        _ring.reset(other)
        _features_on.reset(features)


class Pair(ABC):
    """Two hosts with devices between them; the first device is meant unless another is named."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.rc: Host = world.hosts[ROOT]
        self.ep: Host = world.hosts[ENDPOINT]
        self.link: Link = world.links[LINK]
        self.device: Device = world.devices[next(iter(world.topology.devices))]
        self.ends: Any = world.running(self.device.name).ends
        """The two ends that `vnet.ends.kind.DeviceKind.open` has opened."""
        self.settings: Any = self.ends[0].settings
        """The driver's end, as its driver has it. Each pair names its class."""
        self.plug: Any = self.ends[1].settings
        """The device's end, as its device has it. Each pair names its class."""

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
        carriers = ((bus, binding.device) for bus in reversed(self.rc.carriers) for binding in bus.bindings)
        return next((bus, carrier) for bus, carrier in carriers if carrier.name == self.device.location)

    @property
    def function(self) -> PciFunctionHandle:
        return next(f for f in self.rc.rc.functions if f.name == self.device.location)

    def footprint(self) -> Footprint:
        """Call it when nothing moves."""
        memories = self.rc.memory, self.ep.memory
        controllers = self.world.hosts[self.world.topology.links[LINK].ends[1]].controllers
        epc = controllers[LINK].snapshot().windows
        rings = [queue.ring for d in self.world.devices.values() for queue in d.vhost.queues]
        return Footprint(
            tasks=trio.lowlevel.current_statistics().tasks_living,
            fds=fds(),
            buffers=sum(memory.statistics().buffers for memory in memories),
            pinned=sum(memory.pinned for memory in memories) + sum(window.pinned for window in epc),
            windows=sum(1 for window in epc if window.pinned),
            interrupts=self.rc.rc.interrupts.requested,
            in_flight=sum(ring.state().in_flight for ring in rings if ring is not None),
        )

    @abstractmethod
    async def transfer(self, size: int = MEGABYTE) -> None:
        """Move ``size`` random bytes in each direction, and compare. Raises AssertionError, trio.TooSlowError."""

    async def reset(self) -> None:
        """Unbind the driver and bind it again: a plain reset, and everything from step 1 on."""
        await self.rc.virtio.rebind(self.virtio)
        await self.world.wait_up()
        await trio.testing.wait_all_tasks_blocked()


@asynccontextmanager
async def open_up(topology: Topology, make: Callable[[World], PairT]) -> AsyncIterator[PairT]:
    """Bring a topology up during the context; return the pair made of it, once its tasks wait for something to do."""
    async with open_world(topology, "test") as world:
        await world.wait_up()
        await trio.testing.wait_all_tasks_blocked()
        yield make(world)
