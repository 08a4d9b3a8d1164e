"""The commands of the kernel's guides and of the RFC, as written there but for names, make devices that carry traffic.

docs/configfs.md has them as well, with a mount and real interfaces.
"""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from support.rigs.configfs import TWO_LINKS, refused
from support.tree import TreeShell
from vnet.configfs.service import Configfs, WorldSystem
from vnet.ends.net.memory_traffic import MemoryTraffic
from vnet.ends.rpmsg import RpmsgEnd
from vnet.errors import ControlError
from vnet.system.world import World, open_world
from vnet.testing.footprint import fds
from vnet.topology import Topology, parse
from vnet.traffic.kernel import PingResult

TEST = """
# cd /sys/kernel/config/pci_ep/
# mkdir functions/pci_epf_vhost/func1
# echo 0x104c > functions/pci_epf_vhost/func1/vendorid
# echo 0xb500 > functions/pci_epf_vhost/func1/deviceid
# echo 16 > functions/pci_epf_vhost/func1/msi_interrupts
# echo 8 > functions/pci_epf_vhost/func1/msix_interrupts
# echo memory > functions/pci_epf_vhost/func1/pci-epf-vhost.0/driver/kind
# echo memory > functions/pci_epf_vhost/func1/pci-epf-vhost.0/device/kind
# ln -s functions/pci_epf_vhost/func1 controllers/pcie0/
# echo 1 > controllers/pcie0/start
"""
NTB = """
# cd /sys/kernel/config/pci_ep/
# mkdir functions/pci_epf_ntb/func1
# echo 0x104c > functions/pci_epf_ntb/func1/vendorid
# echo 0xb00d > functions/pci_epf_ntb/func1/deviceid
# mkdir functions/pci_epf_ntb/func1/pci_epf_ntb.0/
# echo 4 > functions/pci_epf_ntb/func1/pci_epf_ntb.0/db_count
# echo 128 > functions/pci_epf_ntb/func1/pci_epf_ntb.0/spad_count
# echo 2 > functions/pci_epf_ntb/func1/pci_epf_ntb.0/num_mws
# echo 0x100000 > functions/pci_epf_ntb/func1/pci_epf_ntb.0/mw1
# echo 0x100000 > functions/pci_epf_ntb/func1/pci_epf_ntb.0/mw2
# ln -s controllers/pcie0/ functions/pci-epf-ntb/func1/primary
# ln -s controllers/pcie1/ functions/pci-epf-ntb/func1/secondary
# echo 1 > controllers/pcie0/start
# echo 1 > controllers/pcie1/start
"""
CLIENT = "/sys/kernel/config/vhost/vhost-client/vhost_rpmsg_bus/ffffffff:00000007"
ECHO = '[{ name = "rpmsg-client-sample", surface = "echo" }]'
ON_NTB = f"""
# echo rpmsg > /sys/kernel/config/vhost/vhost-transport/func1/type
# echo {ECHO} > /sys/kernel/config/vhost/vhost-transport/func1/driver/channels
# ln -s {CLIENT} /sys/kernel/config/vhost/vhost-transport/func1
"""
ON_LINK = f"""
# cd /sys/kernel/config/pci_ep
# mkdir functions/pci-epf-vhost/vhost0
# echo 9 > functions/pci-epf-vhost/vhost0/msix_interrupts
# ln -s {CLIENT} functions/pci-epf-vhost/vhost0/pci-epf-vhost.0
# echo {ECHO} > functions/pci-epf-vhost/vhost0/pci-epf-vhost.0/driver/channels
# ln -s functions/pci-epf-vhost/vhost0 controllers/pcie0/
# echo 1 > controllers/pcie0/start
"""
CHANNEL = """
# ls /sys/kernel/config/rpmsg/
# ls /sys/kernel/config/rpmsg/channel/
# ls /sys/kernel/config/rpmsg/virtproc/
# mkdir /sys/kernel/config/rpmsg/channel/rpmsg-client-sample/c1
# ln -s /sys/kernel/config/rpmsg/channel/rpmsg-client-sample/c1 /sys/kernel/config/rpmsg/virtproc/vhost0
"""


@pytest.fixture
async def world(autojump_clock: MockClock) -> AsyncIterator[World]:
    async with open_world(parse(TWO_LINKS), "t-howto") as world:
        await world.wait_up()
        yield world


@pytest.fixture
def shell(world: World) -> TreeShell:
    return TreeShell(Configfs(WorldSystem(world)))


def ids(world: World, host: str) -> list[str]:
    return [f"{each.vendor_id:04x}:{each.device_id:04x}" for each in world.hosts[host].rc.functions]


async def talks(world: World, device: str) -> bool:
    """Return whether a message of the sample's channel comes back from the other host."""
    end = world.devices[device].device_end
    assert isinstance(end, RpmsgEnd)
    [channel] = end.channels
    await channel.endpoint.wait_bound()
    await channel.endpoint.send(b"hello world!")
    return await channel.endpoint.receive() == b"hello world!"


async def test_the_guide_to_test_functions_makes_a_network_device(world: World, shell: TreeShell) -> None:
    await shell.run(TEST)
    assert ids(world, "host1") == ["104c:b500"]
    for plan in MemoryTraffic(world.running("func1")).pings(2, (56,)):
        result = (await plan.run()).result
        assert isinstance(result, PingResult)
        assert (result.sent, result.received) == (2, 2)
    [used] = await shell.run("# cat /sys/kernel/config/devices/func1/driver/queues/transmitq1/ring/used")
    assert int(used) > 0


@pytest.mark.parametrize("script", [NTB + ON_NTB, ON_LINK], ids=["ntb", "epf_mailbox"])
async def test_the_commands_of_the_rfc_open_a_channel(world: World, shell: TreeShell, script: str) -> None:
    await shell.run(script)
    assert await shell.run(CHANNEL) == ["channel virtproc", "rpmsg-client-sample", "vhost0"]
    assert await talks(world, "vhost0")


async def test_the_guide_to_ntb_functions_joins_two_hosts(world: World, shell: TreeShell) -> None:
    await shell.run(NTB)
    assert (ids(world, "host1"), ids(world, "host2")) == (["104c:b00d"], ["104c:b00d"])
    await shell.run(ON_NTB)
    assert await shell.run("# cat /sys/kernel/config/ntb/func1/link_up") == ["1"]


async def test_a_sequence_that_is_undone_leaves_nothing_and_runs_again(world: World, shell: TreeShell) -> None:
    before = fds()
    for _ in range(3):
        await shell.run(NTB + ON_NTB + CHANNEL)
        assert await talks(world, "vhost0")
        await shell.run("""
            rm /sys/kernel/config/rpmsg/virtproc/vhost0/c1
            rmdir /sys/kernel/config/rpmsg/channel/rpmsg-client-sample/c1
            rm /sys/kernel/config/vhost/vhost-transport/func1/ffffffff:00000007
            rm functions/pci_epf_ntb/func1/secondary/pcie1
            rm functions/pci_epf_ntb/func1/primary/pcie0
            rmdir functions/pci_epf_ntb/func1/pci_epf_ntb.0
            rmdir functions/pci_epf_ntb/func1
            echo 0 > controllers/pcie0/start
            echo 0 > controllers/pcie1/start
        """)
    assert (world.devices, world.ntbs, fds()) == ({}, {}, before)


async def test_a_stopped_controller_is_a_link_without_an_endpoint(world: World, shell: TreeShell) -> None:
    await shell.run(ON_LINK + CHANNEL)
    await shell.run("echo 0 > controllers/pcie0/start")
    await wait_all_tasks_blocked()
    assert not world.devices["vhost0"].up
    await shell.run("echo 1 > controllers/pcie0/start")
    await world.wait_up()
    assert await talks(world, "vhost0")


async def test_start_reads_whether_the_endpoint_is_present(world: World, shell: TreeShell) -> None:
    await shell.run(ON_LINK)
    await world.stop("pcie0")
    assert await shell.run("cat controllers/pcie0/start") == ["0"]
    await shell.run("echo 1 > controllers/pcie0/start")
    await world.wait_up()
    assert (world.links["pcie0"].up, world.devices["vhost0"].up) == (True, True)
    await world.stop("pcie1")
    await shell.run("echo 1 > controllers/pcie1/start")
    assert world.links["pcie1"].up
    await shell.run("echo 0 > controllers/pcie1/start")
    await world.start("pcie1")
    assert await shell.run("cat controllers/pcie1/start") == ["1"]


async def test_a_controller_whose_functions_are_refused_stays_stopped(
    world: World, shell: TreeShell, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(_: Topology) -> None:
        raise ControlError("refused")

    await world.stop("pcie0")
    await shell.run(ON_LINK.replace("# echo 1 > controllers/pcie0/start", ""))
    with monkeypatch.context() as patch:
        patch.setattr(world, "add", refuse)
        await refused(errno.EINVAL, shell.run("echo 1 > controllers/pcie0/start"), "refused")
    assert await shell.run("cat controllers/pcie0/start") == ["0"]
    assert not world.links["pcie0"].up
    await world.start("pcie0")
    assert "vhost0" not in world.devices
    await shell.run("echo 1 > controllers/pcie0/start")
    assert world.devices["vhost0"].up


async def test_reads_change_nothing_and_wait_for_no_change(world: World, shell: TreeShell) -> None:
    await shell.run(ON_LINK + CHANNEL)
    tree = shell.tree
    held = trio.Event()

    async def hold() -> None:
        async with tree._turn:
            held.set()
            await trio.sleep(100)

    def read_all(path: str) -> int:
        count = 0
        for entry in tree.list(path):
            inner = f"{path}/{entry.name}".lstrip("/")
            if entry.mode >> 12 == 4:
                count += read_all(inner)
            elif entry.target is None:
                tree.read(inner)
                count += 1
        return count

    async with trio.open_nursery() as nursery:
        nursery.start_soon(hold)
        await held.wait()
        before = [device.driver_end.figures(0) for device in world.devices.values()], world.links["pcie0"].statistics()
        assert read_all("") > 200
        after = [device.driver_end.figures(0) for device in world.devices.values()], world.links["pcie0"].statistics()
        assert before == after
        nursery.cancel_scope.cancel()
