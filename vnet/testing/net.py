"""Two hosts, a link and network devices over it, with ports in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import attrs
import trio

from drivers.carriers.options import TransportOptions
from drivers.contracts.ports import ALL_OFFLOADS, Offloads, PacketPort
from drivers.devices.net.device.device import NetPlug
from drivers.devices.net.driver.driver import NetSettings
from drivers.transports.epf_mailbox import MailboxOptions
from vnet.ends.net import NetSpec, PortSpec
from vnet.ends.net.exercise import ETHER, send_and_compare
from vnet.linux.poller import Poller
from vnet.ports.packet.interface_watch import Watches
from vnet.ports.packet.memory import MemoryPort
from vnet.ports.packet.open import PortConfig
from vnet.spec import LinkSpec
from vnet.testing.pair import IDEAL, MEGABYTE, Pair, carried, open_up
from vnet.topology import Topology

__all__ = ["FRAME", "NetPair", "Options", "open_pair"]

FRAME = ETHER + b"a frame of a local experiment"


@attrs.frozen
class LimitedPort(PortSpec):
    """A port in memory with these capabilities, whose directions hold so many frames each."""

    caps: Offloads = ALL_OFFLOADS
    capacity: int = 2048

    @asynccontextmanager
    async def open(self, config: PortConfig, poller: Poller, watches: Watches | None) -> AsyncIterator[PacketPort]:
        yield MemoryPort(self.caps, capacity=self.capacity, queues=config.queues)


@attrs.frozen
class Options:
    """Options of a network pair."""

    features_off: tuple[str, ...] = ()
    features_on: tuple[str, ...] = ()
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
    """See `vnet.testing.pair.carried`."""
    poll: bool = False
    link: LinkSpec = IDEAL

    def topology(self) -> Topology:
        spec = NetSpec(
            options=MailboxOptions(poll=True) if self.poll else TransportOptions(),
            queue_size=self.queue_size,
            features_off=self.features_off if self.control else (*self.features_off, "CTRL_VQ"),
            features_on=self.features_on,
            queue_pairs=self.pairs,
            rx_buffer=self.rx_buffer,
            mtu=self.mtu,
            driver=LimitedPort("memory", caps=self.driver_caps, capacity=self.capacity),
            device=LimitedPort("memory", caps=self.device_caps, capacity=self.capacity),
        )
        devices = {f"net{i}": spec for i in range(self.devices)}
        return carried(devices, self.transport, self.link, self.memory)


class NetPair(Pair):
    """The pair, and the ports at both ends of its network devices."""

    settings: NetSettings
    plug: NetPlug

    @property
    def driver_port(self) -> MemoryPort:
        return self.world.memory_port("net0", "driver")

    @property
    def device_port(self) -> MemoryPort:
        return self.world.memory_port("net0", "device")

    async def transfer(self, size: int = MEGABYTE, device: str = "net0") -> None:
        """``size`` random bytes in each direction, compared by hash. Raises AssertionError, trio.TooSlowError."""
        ports = [self.world.memory_port(device, end) for end in ("driver", "device")]
        async with trio.open_nursery() as nursery:
            for source, sink in (ports, ports[::-1]):
                nursery.start_soon(send_and_compare, source, sink, size, self.settings.rx_buffer is None)


def open_pair(options: Options = Options()) -> AbstractAsyncContextManager[NetPair]:
    """A pair that is up, and taken down at the end."""
    return open_up(options.topology(), NetPair)
