"""Three hosts: two root complexes, and between them an NTB endpoint function on two controllers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import attrs
import trio

from drivers.bus.back import Identity
from drivers.bus.binding import Binding, BindState
from drivers.bus.model import MatchId
from drivers.bus.vhost import OfferedQueue, VhostBound, VhostDevice, VhostDriver
from drivers.bus.virtio import DriverSettings, QueueSpec, VirtioBound, VirtioDevice, VirtioDriver
from drivers.carriers.ntb import NtbClient, NtbDevice, NtbEpf
from drivers.transports.ntb.back import NtbVhost
from drivers.transports.ntb.front import NtbVirtio, NtbVirtioDriver
from drivers.transports.ntb.registers import Spad
from rings.features import FeatureTable, RingFeature, mask
from vnet.host.host import Host
from vnet.link.ideal import IdealLink
from vnet.linux.background import open_background
from vnet.linux.memory import HostMemory
from vnet.pcie.epc import EndpointController
from vnet.pcie.ntb import NtbFunction
from vnet.pcie.rc import RootComplex

DEVICE_ID = 0x3F
"""A virtio id without a driver."""
MIB = 1 << 20
WIDE = 70, 100
"""Feature bits beyond the 64 of the RFC."""
TABLE = FeatureTable({3: "THREE", **{bit: f"WIDE_{bit}" for bit in WIDE}})


class Bridge:
    """The hardware alone: ``ends`` are the primary's and the secondary's NTB once both links are up."""

    def __init__(self, windows: Sequence[int] = (MIB, 64 << 10), spads: int = 128) -> None:
        self.memories = [HostMemory(4 * MIB, name=f"host{i}") for i in (1, 2)]
        self.rcs = [RootComplex(memory) for memory in self.memories]
        self.links = [IdealLink("pcie0"), IdealLink("pcie1")]
        self.epcs = [EndpointController(link, name=f"soc.{link.name}") for link in self.links]
        for rc, link in zip(self.rcs, self.links, strict=True):
            rc.attach(link)
        self.ntb = NtbFunction(self.epcs[0], self.epcs[1], windows=windows, spads=spads)
        self.ntb.bind()
        self.ends: list[NtbEpf] = []

    def start(self) -> tuple[NtbEpf, NtbEpf]:
        for epc in self.epcs:
            epc.start()
        self.ends = [NtbEpf(rc.functions[0]) for rc in self.rcs]
        return self.ends[0], self.ends[1]

    def joined(self) -> tuple[NtbEpf, NtbEpf]:
        """Both ends, with the link between them up."""
        primary, secondary = self.start()
        primary.link_enable()
        secondary.link_enable()
        return primary, secondary

    def close(self) -> None:
        for epc in self.epcs:
            epc.stop()
        for memory in self.memories:
            memory.close()


@attrs.define
class Events:
    """Notes what an NTB tells: "up" or "down", or the bits of the doorbells that are set, which it clears."""

    ntb: NtbDevice
    log: list[str | int] = attrs.field(factory=list)

    def __attrs_post_init__(self) -> None:
        self.ntb.watch(self)

    def link_event(self) -> None:
        self.log.append("up" if self.ntb.link_is_up else "down")

    def db_event(self) -> None:
        rung = self.ntb.db_read()
        self.ntb.db_clear(rung)
        self.log.append(rung)


@attrs.define(eq=False)
class PlainVhost:
    """A device type that does nothing with its queues, and says what it was told."""

    nums: Sequence[int] = (64,) * 8
    config: bytes = bytes(range(1, 31))
    features: int = mask((3, *WIDE)) | mask((RingFeature.VERSION_1, RingFeature.EVENT_IDX, RingFeature.INDIRECT_DESC))
    runs: int = 0
    written: list[tuple[int, bytes]] = attrs.field(factory=list)
    stubborn: trio.CancelScope | None = None
    """Does not stop when it is told to, for as long as this is shielded."""

    name = "plain_vhost"
    id_table = (MatchId(DEVICE_ID),)

    def bind(self, device: VhostDevice) -> VhostBound[object]:
        return BoundPlainVhost(device, self)


class BoundPlainVhost(VhostBound[PlainVhost]):
    def offer(self) -> None:
        queues = [OfferedQueue(f"queue{i}", num) for i, num in enumerate(self.plug.nums)]
        self.device.offer(TABLE, self.plug.features, queues, self.plug.config)

    async def run(self) -> None:
        self.plug.runs += 1
        with self.plug.stubborn or trio.CancelScope():
            await trio.sleep_forever()

    def config_written(self, offset: int, data: bytes) -> None:
        self.plug.written.append((offset, data))


@attrs.define(eq=False)
class PlainVirtio:
    """A driver that sets its queues up and does nothing with them."""

    queues: int = 8
    num: int | None = None
    refuse: int = 0
    """Features not to take."""
    config: bytes = b""
    changes: int = 0

    name = "plain_virtio"
    id_table = (MatchId(DEVICE_ID),)
    table = TABLE

    @property
    def features(self) -> int:
        return ~self.refuse

    def bind(self, device: VirtioDevice) -> VirtioBound[DriverSettings]:
        return BoundPlainVirtio(device, self)


class BoundPlainVirtio(VirtioBound[PlainVirtio]):
    async def set_up(self) -> None:
        plain = self.settings
        plain.config = await self.device.read_config(0, 30)
        await self.device.find_vqs([QueueSpec(f"queue{i}", plain.num, segments=4) for i in range(plain.queues)])

    async def run(self) -> None:
        await trio.sleep_forever()

    async def config_changed(self) -> None:
        self.settings.changes += 1


class ThreeHosts:
    """Three hosts with buses, and a plain device between the outer two; every part is started by hand."""

    def __init__(
        self, nursery: trio.Nursery, window: int = 4 * MIB, align: int = 4096, spads: int = 128, memory: int = 16 * MIB
    ) -> None:
        self.nursery = nursery
        self.host1, self.soc, self.host2 = (Host(name, memory) for name in ("host1", "soc", "host2"))
        self.links = [IdealLink("pcie0"), IdealLink("pcie1")]
        for host, link in zip((self.host1, self.host2), self.links, strict=True):
            host.rc.attach(link)
            self.soc.add_controller(link.name, link)
        self.controllers = [self.soc.controllers[link.name] for link in self.links]
        self.ntb = NtbFunction(self.controllers[0], self.controllers[1], windows=(window,), spads=spads)
        self.ntb.bind()
        location = self.host1.rc.function_name(1, 0)
        self.back = NtbVhost(self.host1.ntb, location, Identity(DEVICE_ID, "plain0"))
        self.front_driver = NtbVirtioDriver(align=align)
        # Drivers that a host registers itself take the secondary end of every NTB: here it is chosen by hand.
        for host in (self.host1, self.host2):
            host.ntb._drivers.clear()
        self.vhost = PlainVhost()
        self.virtio = PlainVirtio()

    async def serve(self) -> None:
        for host in (self.host1, self.soc, self.host2):
            await self.nursery.start(host.serve)

    # Steps of a start, in any order

    def start_link(self, at: int) -> None:
        self.controllers[at].start()

    def start_device(self) -> None:
        device_driver: VhostDriver = self.vhost
        self.host1.vhost.register_driver(device_driver)
        self.host1.vhost.register_device(self.back.device)

    def start_back(self) -> None:
        self.back.bind()

    def start_front(self) -> None:
        self.host2.ntb.register_driver(self.front_driver)

    def start_driver(self) -> None:
        driver: VirtioDriver = self.virtio
        self.host2.virtio.register_driver(driver)

    def start(self) -> None:
        """All of them."""
        self.start_device()
        self.start_back()
        self.start_front()
        self.start_driver()
        self.start_link(0)
        self.start_link(1)

    # What came of it

    @property
    def device(self) -> VirtioDevice | None:
        return next((binding.device for binding in self.host2.virtio.bindings), None)

    @property
    def front(self) -> NtbVirtio:
        assert self.device is not None
        assert isinstance(self.device.ops, NtbVirtio)
        return self.device.ops

    @property
    def front_binding(self) -> Binding[NtbDevice, NtbClient]:
        return self.host2.ntb.bindings[0]

    @property
    def up(self) -> bool:
        bindings = self.host2.virtio.bindings
        return bool(bindings) and bindings[0].state is BindState.BOUND and self.back.device.running

    async def wait_up(self, seconds: float = 2) -> None:
        with trio.fail_after(seconds):
            while not self.up:  # noqa: ASYNC110  several hosts, and no event for all of them
                await trio.sleep(0.001)

    async def raw(self, end: int) -> NtbEpf:
        """The unused NTB of a host: 0 the vhost side's, 1 the virtio side's."""
        host = (self.host1, self.host2)[end]
        with trio.fail_after(1):
            while not host.ntb.bindings:  # noqa: ASYNC110
                await trio.sleep(0.001)
        ntb = host.ntb.bindings[0].device
        assert isinstance(ntb, NtbEpf)
        return ntb

    def spad(self, spad: int) -> int:
        """A word of the vhost side's bank, read without a link."""
        return self.ntb.primary.spads[spad]

    def peek(self) -> dict[Spad, int]:
        return {spad: self.spad(spad) for spad in Spad}


@asynccontextmanager
async def open_hosts(
    window: int = 4 * MIB, align: int = 4096, spads: int = 128, memory: int = 16 * MIB
) -> AsyncIterator[ThreeHosts]:
    """Three hosts that serve; nothing is started yet."""
    async with open_background() as nursery:
        hosts = ThreeHosts(nursery, window, align, spads, memory)
        await hosts.serve()
        yield hosts
