"""Endpoint functions of the management tree have the attributes that they can have."""

from __future__ import annotations

import errno

import pytest

from support.rigs.configfs import BOTH, FUNCTION, NTB, RUNNING, TreeRig, refused


@pytest.mark.parametrize(
    ("attribute", "value", "why"),
    [
        ("num_mws", "0", "num_mws must be between 1 and 4"),
        ("mw1", "0", "mw1 must be a multiple of 0x100000"),
        ("mw2", "0x1001", "mw2 must be a multiple of 0x100000"),
        ("db_count", "2", "db_count must be between 3 and 30"),
        ("db_count", "33", "db_count must be between 3 and 30"),
        ("spad_count", "0", "spad_count must be between 1 and 1024"),
    ],
)
async def test_an_ntb_with_unusable_attributes_is_refused_when_it_is_complete(
    attribute: str, value: str, why: str
) -> None:
    rig = TreeRig()
    await rig.run(NTB + f"echo {value} > functions/pci_epf_ntb/func1/pci_epf_ntb.0/{attribute}")
    await refused(errno.EINVAL, rig.run(BOTH), why)
    assert await rig.run("ls functions/pci_epf_ntb/func1/primary\nls functions/pci_epf_ntb/func1/secondary") == [
        "pcie0",
        "",
    ]


async def test_a_window_beyond_their_number_is_refused_when_it_is_written() -> None:
    rig = TreeRig()
    await rig.run(NTB)
    settings = "functions/pci_epf_ntb/func1/pci_epf_ntb.0"
    await refused(errno.EINVAL, rig.run(f"echo 0x100000 > {settings}/mw3"), "num_mws must be at least 3")
    await refused(errno.EINVAL, rig.run(f"echo 5 > {settings}/num_mws"), "must be at most 4")
    assert await rig.run(f"cat {settings}/mw3\ncat {settings}/num_mws") == ["0", "2"]


async def test_headers_that_a_function_cannot_have_are_refused_when_it_is_linked() -> None:
    rig = TreeRig()
    await rig.run(f"mkdir {FUNCTION}\necho 0x104c > {FUNCTION}/vendorid")
    assert await rig.run(f"cat {FUNCTION}/vendorid") == ["0x104c"]
    await refused(errno.EINVAL, rig.run(f"ln -s {FUNCTION} controllers/pcie0/"), "vendorid must be 0x1af4")
    await rig.run(f"echo 0x1af4 > {FUNCTION}/vendorid\nln -s {FUNCTION} controllers/pcie0/")


async def test_names_of_functions_are_those_of_devices() -> None:
    rig = TreeRig(RUNNING)
    for name in ("Func", "1st", "x" * 33, "a.b"):
        await refused(errno.EINVAL, rig.run(f"mkdir functions/pci_epf_virtio/{name}"), "lower-case letter")
    await refused(errno.EEXIST, rig.run("mkdir functions/pci-epf-vhost/net0"), "the system has net0 elsewhere")
    await rig.run("mkdir functions/pci_epf_ntb/net0")


async def test_indices_of_removed_functions_are_used_again() -> None:
    rig = TreeRig()
    for name in ("a", "b"):
        await rig.run(f"mkdir functions/pci_epf_virtio/{name}")
    await rig.run("rmdir functions/pci_epf_virtio/a\nmkdir functions/pci-epf-vhost/c")
    assert "pci-epf-vhost.0" in (await rig.run("ls functions/pci-epf-vhost/c"))[0]
    assert "pci_epf_virtio.1" in (await rig.run("ls functions/pci_epf_virtio/b"))[0]
