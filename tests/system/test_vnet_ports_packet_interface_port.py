"""A running system whose interfaces are renamed, moved and deleted: at worst one port is lost, the rest goes on."""

from __future__ import annotations

import itertools
import os
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import attrs
import pytest
import trio

from drivers.bus.binding import BindState
from drivers.contracts.events import Event, PortLost, Topic
from drivers.contracts.ports import PacketPort
from drivers.devices.net.driver.driver import NetSettings
from drivers.errors import DriverError
from support.commands import command
from support.machine import NETNS, MakeNetns, RequireTool, ip
from vnet.cli.tree import tree
from vnet.linux.netns import netns_command, remove_netns
from vnet.qmp.codec import QmpError
from vnet.system.snapshot import take_snapshot
from vnet.system.world import World, open_world
from vnet.topology import parse

pytestmark = pytest.mark.usefixtures("privileged", "no_leaks")

_serial = itertools.count(1)
DEVICE = """
[devices.{name}]
link = "pcie0"
function = {index}
driver = {{ kind = "{kind}", ifname = "{name}", addresses = ["198.18.{index}.1/24"] }}
device = {{ kind = "{kind}", ifname = "{name}", addresses = ["198.18.{index}.2/24"] }}
"""
HOSTS = '[hosts.rc]\n[hosts.ep]\n[links.pcie0]\nroot = "rc"\nendpoint = "ep"\n'


@attrs.define
class System:
    """A world with the devices ``tun0`` and ``tap0``, and what it reported."""

    world: World
    lines: list[str]

    async def command(self, name: str, /, **arguments: object) -> None:
        await command(self.world, name, **arguments)

    async def flap(self) -> None:
        await self.command("set_link", name="pcie0", up=False)
        await self.command("set_link", name="pcie0", up=True)

    async def carries(self, device: str, netns: str | None = None) -> None:
        """Return once a ping is answered: what is under way during a reset is lost."""
        target = {"tun0": "198.18.0.2", "tap0": "198.18.1.2"}[device]
        argv = netns_command(netns or self.world.netns("rc"), ["ping", "-c", "1", "-W", "1", target])
        with trio.fail_after(60):
            while (await trio.run_process(argv, stdout=subprocess.DEVNULL, check=False)).returncode:
                pass

    def port(self, device: str) -> PacketPort:
        """The driver's."""
        settings = self.world.devices[device].driver_end.settings
        assert isinstance(settings, NetSettings)
        return settings.port

    def up(self, device: str) -> bool:
        return self.world.devices[device].up

    def link(self, host: str, device: str) -> str:
        return ip("-n", self.world.netns(host), "link", "show", device)


@asynccontextmanager
async def running() -> AsyncIterator[System]:
    devices = (DEVICE.format(name=f"{kind}0", index=index, kind=kind) for index, kind in enumerate(("tun", "tap")))
    lines: list[str] = []
    name = f"vi{os.getpid()}-{next(_serial)}"

    def note(event: Event) -> None:
        if isinstance(event, PortLost):
            lines.append(event.why)

    async with open_world(parse(HOSTS + "".join(devices)), name) as world:
        await world.wait_up()
        with world.events.listen(note, [Topic.LIFECYCLE]):
            yield System(world, lines)
    assert not list(NETNS.glob(f"{name}-*"))


async def becomes(true: Callable[[], bool]) -> None:
    with trio.fail_after(30):
        while not true():  # noqa: ASYNC110  the kernel's message arrives when it does
            await trio.sleep(0.005)


@pytest.mark.parametrize("kind", ["tun", "tap"])
async def test_an_interface_carries_on_under_another_name_and_in_another_namespace(
    netns: MakeNetns, require_tool: RequireTool, kind: str
) -> None:
    require_tool("ping")
    box, device = netns("box"), f"{kind}0"
    address = {"tun": "198.18.0.1/24", "tap": "198.18.1.1/24"}[kind]
    async with running() as system:
        rc = system.world.netns("rc")
        ip("-n", rc, "link", "set", device, "name", "eth7")
        await system.carries(device)
        for act in (
            system.flap,
            lambda: system.command("device-set", name=device, setting="mtu", value="1400"),
            lambda: system.command("device-set", name=device, setting="announce", value=""),
        ):
            await act()
            await system.world.wait_up()
            await system.carries(device)
        assert "mtu 1400" in system.link("rc", "eth7")
        assert f"{kind} eth7 in {rc}" in "\n".join(tree(take_snapshot(system.world)))
        ip("-n", rc, "link", "set", "eth7", "netns", box)
        ip("-n", box, "addr", "add", address, "dev", "eth7")
        ip("-n", box, "link", "set", "eth7", "up")
        await system.flap()
        await becomes(lambda: system.up(device))
        await system.carries(device, box)
        # What `ip netns del` does: processes and interfaces keep the namespace, which has no name now.
        remove_netns(rc)
        await system.flap()
        await becomes(lambda: system.up(device) and system.up("tun0" if kind == "tap" else "tap0"))
        await system.carries(device, box)
        assert system.lines == []


@pytest.mark.hostile("N08")
@pytest.mark.parametrize("kind", ["tun", "tap"])
@pytest.mark.parametrize(("host", "other"), [("rc", "ep"), ("ep", "rc")])
async def test_a_deleted_interface_costs_its_device_and_takes_the_carrier_from_the_other_end(
    require_tool: RequireTool, kind: str, host: str, other: str
) -> None:
    require_tool("ping")
    device, sibling = (f"{kind}0", "tap0" if kind == "tun" else "tun0")
    async with running() as system:
        why = f"{device} in {system.world.netns(host)} was deleted"
        ip("-n", system.world.netns(host), "link", "del", device)
        await becomes(lambda: "NO-CARRIER" in system.link(other, device))
        assert system.lines == [why]
        assert why in "\n".join(tree(take_snapshot(system.world)))
        for setting, value in (("announce", ""), ("mtu", "1400"), ("mac", "02:00:00:00:00:0a"), ("carrier", "off")):
            try:
                await system.command("device-set", name=device, setting=setting, value=value)
            except (QmpError, DriverError):
                pass  # one line for who asked
        await system.flap()
        await system.command("device-reset", name=device)
        await becomes(lambda: system.up(sibling))
        await system.carries(sibling)
        assert not system.up(device)
        assert "NO-CARRIER" in system.link(other, device)
        virtio = system.world.devices[device].virtio
        assert virtio is not None
        if host == "rc":
            binding = system.world.hosts["rc"].virtio.binding(virtio)
            await becomes(lambda: binding.state is BindState.FAILED)
        assert system.lines == [why]


@pytest.mark.parametrize("made_elsewhere", [False, True], ids=["moved", "made elsewhere"])
async def test_a_macvlan_in_another_namespace_reaches_the_other_end(
    netns: MakeNetns, require_tool: RequireTool, *, made_elsewhere: bool
) -> None:
    require_tool("ping")
    box = netns("box")
    async with running() as system:
        rc = system.world.netns("rc")
        add = ("link", "add", "mv0", "link", "tap0")
        if made_elsewhere:
            ip("-n", rc, *add, "netns", box, "type", "macvlan", "mode", "bridge")
        else:
            ip("-n", rc, *add, "type", "macvlan", "mode", "bridge")
            ip("-n", rc, "link", "set", "mv0", "netns", box)
        ip("-n", box, "addr", "add", "198.18.1.3/24", "dev", "mv0")
        ip("-n", box, "link", "set", "mv0", "up")
        await system.carries("tap0", box)
        ip("-n", box, "link", "del", "mv0")
        await becomes(lambda: not system.port("tap0").state.promisc)


@pytest.mark.virtio("NET-DRV-19", "NET-DEV-7")
@pytest.mark.parametrize("kind", ["tun", "tap"])
async def test_packets_beyond_the_agreed_mtu_end_at_the_interface_whose_mtu_was_raised(
    require_tool: RequireTool, kind: str
) -> None:
    require_tool("ping")
    device, number = f"{kind}0", {"tun": 0, "tap": 1}[kind]
    async with running() as system:
        await system.carries(device)
        end, device_end = system.world.devices[device].driver_end, system.world.devices[device].device_end
        for host, here, target in (("rc", end, 2), ("ep", device_end, 1)):
            netns = system.world.netns(host)
            ip("-n", netns, "link", "set", device, "mtu", "9000")
            argv = netns_command(
                netns, ["ping", "-c", "1", "-W", "1", "-M", "do", "-s", "4000", f"198.18.{number}.{target}"]
            )
            done = await trio.run_process(argv, stdout=subprocess.DEVNULL, check=False)
            assert done.returncode == 1
            lost = [cause for _, causes in (*end.drops(), *device_end.drops()) for cause in causes if causes[cause]]
            at_port = dict(here.drops())["port"]
            assert at_port.get("too_long", 0) == 1
            assert lost.count("too_long") == {"rc": 1, "ep": 2}[host]
        await system.carries(device)
