"""Endpoint functions and controllers of the management tree make and remove parts of the system."""

from __future__ import annotations

import errno

import pytest
import trio

from support.rigs.configfs import BOTH, FUNCTION, NTB, RUNNING, TreeRig, refused
from vnet.spec import NtbSpec
from vnet.topology import Topology


async def test_a_function_joins_the_system_once_its_controller_starts() -> None:
    rig = TreeRig()
    await rig.run(f"mkdir {FUNCTION}\nln -s {FUNCTION} controllers/pcie0/")
    assert rig.system.changes == []
    await rig.run("echo 1 > controllers/pcie0/start")
    assert rig.system.changes == ["start pcie0", "+devices.func1"]
    device = rig.system.topology.devices["func1"]
    assert (device.type, device.transport, device.link, device.function) == ("net", "pci", "pcie0", 0)
    assert await rig.run("cat controllers/pcie0/start\nls controllers/pcie0") == ["1", "func1 start"]


async def test_a_function_linked_to_a_started_controller_joins_at_once() -> None:
    rig = TreeRig()
    await rig.run(f"echo 1 > controllers/pcie0/start\nmkdir {FUNCTION}\nln -s controllers/pcie0 {FUNCTION}/primary")
    assert rig.system.changes == ["start pcie0", "+devices.func1"]
    await rig.run(f"rm {FUNCTION}/primary/pcie0\nrmdir {FUNCTION}")
    assert rig.system.changes[2:] == ["-devices.func1"]


async def test_a_stopped_controller_keeps_its_links_and_starts_again() -> None:
    rig = TreeRig()
    await rig.run(f"mkdir {FUNCTION}\nln -s {FUNCTION} controllers/pcie0/\necho 1 > controllers/pcie0/start")
    await rig.run("echo 0 > controllers/pcie0/start\necho 0 > controllers/pcie0/start")
    assert await rig.run("cat controllers/pcie0/start\nls controllers/pcie0") == ["0", "func1 start"]
    await rig.run("echo y > controllers/pcie0/start\necho 1 > controllers/pcie0/start")
    assert rig.system.changes == ["start pcie0", "+devices.func1", "stop pcie0", "start pcie0"]


async def test_functions_of_one_controller_get_numbers_in_turn() -> None:
    rig = TreeRig(RUNNING)
    for name in ("a", "b", "c"):
        await rig.run(
            f"mkdir functions/pci_epf_virtio/{name}\nln -s functions/pci_epf_virtio/{name} controllers/pcie0/"
        )
    assert {name: device.function for name, device in rig.system.topology.devices.items()} == {
        "net0": 2,
        "a": 0,
        "b": 1,
        "c": 3,
    }


async def test_a_running_device_is_a_function_with_its_settings() -> None:
    rig = TreeRig(RUNNING)
    function = "functions/pci_epf_virtio/net0"
    assert await rig.run(f"cat {function}/pci_epf_virtio.0/mtu\ncat controllers/pcie0/start") == ["9000", "1"]
    assert await rig.run(f"cat {function}/deviceid\ncat {function}/baseclass_code") == ["0x1041", "0x0002"]
    assert await rig.run(f"ls controllers/pcie0\ncat {function}/pci_epf_virtio.0/driver/kind") == [
        "net0 start",
        "memory",
    ]
    await refused(errno.EBUSY, rig.run(f"echo 1500 > {function}/pci_epf_virtio.0/mtu"), "unlink it first")
    await rig.run(f"rm controllers/pcie0/net0\necho 1600 > {function}/pci_epf_virtio.0/mtu")
    await rig.run(f"ln -s {function} controllers/pcie0/")
    assert rig.system.changes == ["-devices.net0", "+devices.net0"]
    assert getattr(rig.system.topology.devices["net0"], "mtu", 0) == 1600


async def test_parts_that_others_remove_lose_their_links() -> None:
    rig = TreeRig(RUNNING)
    assert await rig.run("ls functions/pci_epf_virtio") == ["net0"]
    rig.system.drop("net0")
    assert await rig.run("ls functions/pci_epf_virtio\nls controllers/pcie0") == ["net0", "start"]
    await rig.run("rmdir functions/pci_epf_virtio/net0")
    await rig.run(f"mkdir {FUNCTION}\nln -s {FUNCTION} controllers/pcie1/")
    rig.system.drop("pcie1")
    assert await rig.run(f"ls controllers\nls {FUNCTION}/primary") == ["pcie0", ""]
    await rig.run(f"ln -s {FUNCTION} controllers/pcie0/")
    assert rig.system.changes == ["+devices.func1"]


async def test_an_ntb_needs_both_controllers_started() -> None:
    rig = TreeRig()
    await rig.run(NTB + BOTH + "echo 1 > controllers/pcie0/start")
    assert rig.system.changes == ["start pcie0"]
    await rig.run("echo 1 > controllers/pcie1/start")
    assert rig.system.topology.ntbs == {"func1": NtbSpec("soc", "pcie0", "pcie1", 1, (1,), 128)}
    assert await rig.run("ls ../vhost/vhost-transport") == ["func1"]


async def test_links_between_functions_and_controllers_are_checked() -> None:
    rig = TreeRig()
    await rig.run(f"mkdir {FUNCTION}\nln -s {FUNCTION} controllers/pcie0/\n{NTB.replace('_ntb.0', '_ntb.1')}")
    await refused(errno.EBUSY, rig.run(f"ln -s {FUNCTION} controllers/pcie1/"), "has a primary controller")
    await refused(errno.EINVAL, rig.run(f"ln -s controllers/pcie1 {FUNCTION}/secondary"))
    await refused(errno.EINVAL, rig.run(f"ln -s {FUNCTION}/primary controllers/pcie1/"), "must lead to a function")
    await refused(errno.EINVAL, rig.run(f"ln -s {FUNCTION} functions/pci_epf_ntb/func1/primary"))
    await rig.run("ln -s controllers/pcie1 functions/pci_epf_ntb/func1/primary")
    await refused(errno.EINVAL, rig.run("ln -s controllers/pcie1 functions/pci_epf_ntb/func1/secondary/x"))
    await refused(errno.EBUSY, rig.run(f"rmdir {FUNCTION}"))
    await refused(errno.ENOTEMPTY, rig.run("rmdir functions/pci_epf_ntb/func1"))
    await refused(errno.EPERM, rig.run("rmdir controllers/pcie0"))


async def test_a_refusal_of_the_system_changes_nothing() -> None:
    rig = TreeRig()
    await rig.run(f"mkdir {FUNCTION}\nln -s {FUNCTION} controllers/pcie0/")
    rig.fail()
    await refused(
        errno.EINVAL, rig.run("echo 1 > controllers/pcie0/start"), "devices.func1.link: refused by the system"
    )
    assert await rig.run("cat controllers/pcie0/start") == ["0"]
    rig.system.refusal = None
    await rig.run("echo 1 > controllers/pcie0/start")
    rig.fail()
    await refused(errno.EINVAL, rig.run("echo 0 > controllers/pcie0/start"))
    await refused(errno.EINVAL, rig.run("rm controllers/pcie0/func1"))
    assert await rig.run("cat controllers/pcie0/start\nls controllers/pcie0") == ["1", "func1 start"]


@pytest.mark.hostile("X05")
async def test_concurrent_writers_and_readers_see_whole_values(autojump_clock: trio.testing.MockClock) -> None:
    rig = TreeRig()
    await rig.run(f"mkdir {FUNCTION}\nln -s {FUNCTION} controllers/pcie0/")
    seen: set[str] = set()

    async def write(value: bytes) -> None:
        for _ in range(20):
            await rig.tree.write("pci_ep/controllers/pcie0/start", value)
            seen.add(rig.tree.read("pci_ep/controllers/pcie0/start"))

    async with trio.open_nursery() as nursery:
        for number in range(10):
            nursery.start_soon(write, b"%d\n" % (number % 2))
    assert seen == {"0\n", "1\n"}
    moves = [change.split()[0] for change in rig.system.changes if "pcie0" in change]
    assert moves == ["start", "stop"] * (len(moves) // 2) + ["start"] * (len(moves) % 2)
    assert rig.tree.read("pci_ep/controllers/pcie0/start") == ("1\n" if len(moves) % 2 else "0\n")


async def test_a_function_that_is_removed_before_it_is_up_is_not_linked() -> None:
    rig = TreeRig()
    await rig.run(f"echo 1 > controllers/pcie0/start\nmkdir {FUNCTION}")
    add = rig.system.add

    async def add_and_drop(part: Topology) -> None:
        await add(part)
        rig.system.drop("func1")
        rig.tree.list("pci_ep")

    rig.system.add = add_and_drop  # type: ignore[method-assign]
    await refused(errno.ENODEV, rig.run(f"ln -s {FUNCTION} controllers/pcie0/"), "removed before it was up: func1")
    rig.system.add = add  # type: ignore[method-assign]
    await rig.run(f"ln -s {FUNCTION} controllers/pcie0/\nrm controllers/pcie0/func1\nrmdir {FUNCTION}")
    assert rig.system.topology.devices == {}
