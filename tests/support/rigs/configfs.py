"""A management tree over a system of plain data, which takes every part that fits and records each change."""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Collection, Mapping
from typing import Any

import attrs
import pytest
import trio

from support.tree import TreeShell
from vnet.configfs.operations import ChannelHost
from vnet.configfs.service import Configfs
from vnet.configfs.values import TreeError
from vnet.ends.rpmsg import ChannelSpec
from vnet.errors import ConfigError
from vnet.topology import Topology, parse

__all__ = [
    "BOTH",
    "CHANNEL",
    "CLIENTS",
    "FUNCTION",
    "NTB",
    "RPMSG",
    "RUNNING",
    "TRANSPORT",
    "TWO_LINKS",
    "VIRTPROC",
    "WITH_NTB",
    "FakeChannels",
    "FakeSystem",
    "TreeRig",
    "refused",
]

TWO_LINKS = """\
[hosts.host1]
[hosts.soc]
[hosts.host2]

[links.pcie0]
root = "host1"
endpoint = "soc"

[links.pcie1]
root = "host2"
endpoint = "soc"

[devices]
"""
"""Two hosts with a link each to a third one, without a function."""

WITH_NTB = f"""\
{TWO_LINKS.replace("[devices]", "")}
[ntbs.ntb0]
host = "soc"
primary = "pcie0"
secondary = "pcie1"
mw = 64
more_mw = [1, 2]

[devices]
"""
"""The same with an NTB between both links."""
RUNNING = f"""\
{TWO_LINKS}
[devices.net0]
link = "pcie0"
function = 2
mtu = 9000
driver.kind = "memory"
device.kind = "memory"
"""
"""The two links, with a network device on the first."""
FUNCTION = "functions/pci_epf_virtio/func1"
"""A function's directory in pci_ep."""
NTB = """\
mkdir functions/pci_epf_ntb/func1
mkdir functions/pci_epf_ntb/func1/pci_epf_ntb.0/
echo 4 > functions/pci_epf_ntb/func1/pci_epf_ntb.0/db_count
echo 128 > functions/pci_epf_ntb/func1/pci_epf_ntb.0/spad_count
echo 2 > functions/pci_epf_ntb/func1/pci_epf_ntb.0/num_mws
echo 0x100000 > functions/pci_epf_ntb/func1/pci_epf_ntb.0/mw1
echo 0x100000 > functions/pci_epf_ntb/func1/pci_epf_ntb.0/mw2
"""
"""Commands that make an NTB function."""
BOTH = """\
ln -s controllers/pcie0/ functions/pci_epf_ntb/func1/primary
ln -s controllers/pcie1/ functions/pci_epf_ntb/func1/secondary
"""
"""Commands that bind it to both controllers."""
CLIENTS = "/sys/kernel/config/vhost/vhost-client"
TRANSPORT = "/sys/kernel/config/vhost/vhost-transport/ntb0"
RPMSG = f"{CLIENTS}/vhost_rpmsg_bus/ffffffff:00000007"
VIRTPROC = "/sys/kernel/config/rpmsg/virtproc"
CHANNEL = "/sys/kernel/config/rpmsg/channel/rpmsg-client-sample"


@attrs.define(eq=False)
class FakeChannels:
    """An rpmsg device's end that records its channels."""

    open: dict[int, ChannelSpec] = attrs.field(factory=dict)

    async def open_channel(self, spec: ChannelSpec) -> int:
        addr = 1024 + len(self.open)
        self.open[addr] = spec
        return addr

    def close_channel(self, addr: int) -> None:
        self.open.pop(addr, None)


class FakeSystem:
    """A system without devices behind its topology. Implements `vnet.configfs.operations.System`."""

    def __init__(self, topology: Topology) -> None:
        self.topology = topology
        self.changes: list[str] = []
        self.refusal: Exception | None = None
        self.ends: dict[str, FakeChannels] = {}
        self.started = {link for spec in topology.devices.values() if (link := spec.link) is not None}
        """Links whose controller is started: at first those that carry something."""
        self.started |= {link for spec in topology.ntbs.values() for link in (spec.primary, spec.secondary)}

    async def add(self, part: Topology) -> None:
        await trio.lowlevel.checkpoint()
        if self.refusal is not None:
            raise self.refusal
        devices, ntbs = {**self.topology.devices, **part.devices}, {**self.topology.ntbs, **part.ntbs}
        self.topology = attrs.evolve(self.topology, devices=devices, ntbs=ntbs)
        await trio.lowlevel.checkpoint()
        self.changes += [f"+{table}.{name}" for table in ("ntbs", "devices") for name in getattr(part, table)]

    async def remove(self, name: str) -> None:
        await trio.lowlevel.checkpoint()
        if self.refusal is not None:
            raise self.refusal
        self.drop(name.partition(".")[2])
        await trio.lowlevel.checkpoint()
        self.changes.append(f"-{name}")

    def is_started(self, link: str) -> bool:
        return link in self.started

    async def start(self, link: str) -> None:
        await trio.lowlevel.checkpoint()
        if self.refusal is not None:
            raise self.refusal
        self.started.add(link)
        self.changes.append(f"start {link}")

    async def stop(self, link: str) -> None:
        await trio.lowlevel.checkpoint()
        if self.refusal is not None:
            raise self.refusal
        self.started.discard(link)
        self.changes.append(f"stop {link}")

    def drop(self, name: str) -> None:
        """Remove a part and what it carries, as another client of the system does."""
        gone = {name, *(each for each, device in self.topology.devices.items() if device.ntb == name)}
        left = {
            table: {key: value for key, value in getattr(self.topology, table).items() if key not in gone}
            for table in ("links", "devices", "ntbs")
        }
        self.topology = attrs.evolve(self.topology, **left)

    @property
    def devices(self) -> Collection[str]:
        return self.topology.devices.keys()

    @property
    def ntbs(self) -> Collection[str]:
        return self.topology.ntbs.keys()

    def device(self, name: str) -> Mapping[str, Any]:
        rings = [{"name": "receiveq1", "live": True, "ring": {"num": 256, "avail": 3, "used": 1}, "drops": {}}]
        return {"type": self.topology.devices[name].type, "up": True, "driver": {"queues": rings, "status": ["A", "B"]}}

    def ntb(self, name: str) -> Mapping[str, Any]:
        return {"host": self.topology.ntbs[name].host, "link_up": False, "primary": {"spads": {"spad 0": 1}}}

    def channels(self, device: str) -> ChannelHost | None:
        spec = self.topology.devices.get(device)
        return self.ends.setdefault(device, FakeChannels()) if spec is not None and spec.type == "rpmsg" else None


class TreeRig:
    """A tree, the system behind it, and the commands of a shell on it."""

    def __init__(self, text: str = TWO_LINKS) -> None:
        self.system = FakeSystem(parse(text))
        self.tree = Configfs(self.system)
        self.shell = TreeShell(self.tree)

    async def run(self, script: str) -> list[str]:
        """Run a script in the directory pci_ep."""
        return await self.shell.run(f"cd /sys/kernel/config/pci_ep\n{script}")

    def fail(self, why: str = "refused by the system") -> None:
        """Have the system refuse every change from now on."""
        self.system.refusal = ConfigError("topology", "devices.func1.link", "pcie0", why)


async def refused(number: int, operation: Awaitable[object], why: str | None = None) -> None:
    """Check that an operation fails with an error number, and that its text has ``why``."""
    with pytest.raises(TreeError, match=why) as caught:
        await operation
    assert errno.errorcode[caught.value.number] == errno.errorcode[number]
