"""Links to clients of the management tree make devices on NTBs, and choose the type of functions."""

from __future__ import annotations

import errno

from support.rigs.configfs import CLIENTS, RPMSG, TRANSPORT, WITH_NTB, TreeRig, refused


async def test_a_link_to_a_client_makes_a_device_on_an_ntb() -> None:
    rig = TreeRig(WITH_NTB)
    await rig.run(f"echo rpmsg > {TRANSPORT}/type\necho 64 > {TRANSPORT}/queue_size\nln -s {RPMSG} {TRANSPORT}")
    device = rig.system.topology.devices["vhost0"]
    assert (device.type, device.transport, device.ntb, device.queue_size) == ("rpmsg", "ntb", "ntb0", 64)
    await refused(errno.EBUSY, rig.run(f"ln -s {CLIENTS}/vhost_net/ffffffff:00000001 {TRANSPORT}"), "carries vhost0")
    await refused(errno.EBUSY, rig.run(f"echo 32 > {TRANSPORT}/queue_size"))
    await rig.run(f"rm {TRANSPORT}/ffffffff:00000007\necho 32 > {TRANSPORT}/queue_size")
    assert rig.system.changes == ["+devices.vhost0", "-devices.vhost0"]


async def test_only_items_of_vhost_client_make_devices() -> None:
    rig = TreeRig(WITH_NTB)
    await refused(errno.EINVAL, rig.run(f"ln -s controllers/pcie0 {TRANSPORT}"), "must lead to an item of vhost")
    await refused(errno.EINVAL, rig.run(f"ln -s {CLIENTS}/vhost_net {TRANSPORT}"))
    await refused(errno.EPERM, rig.run(f"mkdir {CLIENTS}/vhost_net/x"))
    assert rig.system.changes == []


async def test_a_refused_device_leaves_no_link() -> None:
    rig = TreeRig(WITH_NTB)
    rig.fail()
    await refused(errno.EINVAL, rig.run(f"ln -s {RPMSG} {TRANSPORT}"), "refused by the system")
    rig.system.refusal = None
    await rig.run(f"ln -s {RPMSG} {TRANSPORT}")
    assert rig.system.changes == ["+devices.vhost0"]


async def test_a_running_device_on_an_ntb_is_a_link() -> None:
    rig = TreeRig(
        WITH_NTB.replace("[devices]", '[devices.d]\ntype = "rpmsg"\ntransport = "ntb"\nntb = "ntb0"\nto_driver = 1024')
    )
    assert await rig.run(f"cat {TRANSPORT}/type\ncat {TRANSPORT}/to_driver") == ["rpmsg", "1024"]
    await rig.run(f"rm {TRANSPORT}/ffffffff:00000007")
    assert rig.system.changes == ["-devices.d"]
    await rig.run(f"ln -s {RPMSG} {TRANSPORT}")
    rig.system.drop("vhost0")
    assert "ffffffff:00000007" not in (await rig.run(f"ls {TRANSPORT}"))[0]


async def test_a_removed_ntb_takes_its_device_with_it() -> None:
    rig = TreeRig(WITH_NTB)
    await rig.run(f"ln -s {RPMSG} {TRANSPORT}\nrm functions/pci_epf_ntb/ntb0/secondary/pcie1")
    assert rig.system.changes == ["+devices.vhost0", "-ntbs.ntb0"]
    assert await rig.run("ls ../vhost/vhost-transport") == [""]
    settings = "functions/pci_epf_ntb/ntb0/pci_epf_ntb.0"
    assert await rig.run(f"cat {settings}/num_mws\ncat {settings}/mw3\ncat {settings}/db_count") == [
        "3",
        "2097152",
        "30",
    ]
    await rig.run("ln -s controllers/pcie1 functions/pci_epf_ntb/ntb0/secondary")
    assert rig.system.changes[-1] == "+ntbs.ntb0"


async def test_a_link_to_a_client_chooses_the_type_of_a_function() -> None:
    rig = TreeRig()
    function = "functions/pci-epf-vhost/func1"
    await rig.run(
        f"mkdir {function}\necho 9000 > {function}/pci-epf-vhost.0/mtu\nln -s {RPMSG} {function}/pci-epf-vhost.0"
    )
    assert await rig.run(f"cat {function}/pci-epf-vhost.0/type\ncat {function}/subsys_id") == ["rpmsg", "0x0007"]
    await refused(errno.EBUSY, rig.run(f"ln -s {CLIENTS}/vhost_net/ffffffff:00000001 {function}/pci-epf-vhost.0"))
    await refused(errno.ENOTEMPTY, rig.run(f"rmdir {function}"))
    await refused(errno.ENOENT, rig.run(f"cat {function}/pci-epf-vhost.0/mtu"))
    await rig.run(f"rm {function}/pci-epf-vhost.0/ffffffff:00000007\nrmdir {function}")
