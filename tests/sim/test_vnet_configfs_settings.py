"""Settings of a device in the management tree are the keys of topology files."""

from __future__ import annotations

import errno

import pytest

from support.rigs.configfs import TreeRig, refused


@pytest.mark.parametrize(
    ("attribute", "value", "shown"),
    [
        ("queue_size", "0x40", "64"),
        ("features_off", "EVENT_IDX,  INDIRECT_DESC", "EVENT_IDX, INDIRECT_DESC"),
        ("vlans", "1, 0x10", "1, 16"),
        ("promisc", "y", "1"),
        ("mac", "02:00:00:00:00:09", "02:00:00:00:00:09"),
        ("driver/addresses", "198.18.0.1/24, 2001:2::1/64", "198.18.0.1/24, 2001:2::1/64"),
        ("driver/kind", "memory", "memory"),
        ("driver/forward", "1", "1"),
    ],
)
async def test_settings_are_those_of_topology_files(attribute: str, value: str, shown: str) -> None:
    rig = TreeRig()
    settings = "functions/pci_epf_virtio/f/pci_epf_virtio.0"
    before = await rig.run(f"mkdir functions/pci_epf_virtio/f\ncat {settings}/{attribute}")
    assert await rig.run(f"echo {value} > {settings}/{attribute}\ncat {settings}/{attribute}") == [shown]
    await rig.tree.write(f"pci_ep/{settings}/{attribute}", b"\n")
    assert await rig.run(f"cat {settings}/{attribute}") == before


@pytest.mark.parametrize(
    ("attribute", "value", "why"),
    [
        ("queue_size", "3", "a power of two"),
        ("queue_size", "x", "must be a number"),
        ("type", "disk", "must be one of net"),
        ("ring", "round", "must be one of split, packed"),
        ("mtu", "67", "between 68 and 65521"),
        ("driver/kind", "wire", "must be one of tun"),
        ("driver/addresses", "198.18.0.1", "addresses with prefix length"),
        ("driver/addresses", "[1", "as in a topology file"),
    ],
)
async def test_invalid_settings_are_refused_with_the_reason(attribute: str, value: str, why: str) -> None:
    rig = TreeRig()
    settings = "functions/pci_epf_virtio/f/pci_epf_virtio.0"
    before = await rig.run(f"mkdir functions/pci_epf_virtio/f\ncat {settings}/{attribute}")
    await refused(errno.EINVAL, rig.run(f"echo {value} > {settings}/{attribute}"), why)
    assert await rig.run(f"cat {settings}/{attribute}") == before


async def test_settings_that_do_not_go_together_are_refused_when_the_function_is_linked() -> None:
    rig = TreeRig()
    settings = "functions/pci_epf_virtio/f/pci_epf_virtio.0"
    await rig.run(
        f"mkdir functions/pci_epf_virtio/f\necho full > {settings}/duplex\necho SPEED_DUPLEX > {settings}/features_off"
    )
    await refused(
        errno.EINVAL, rig.run("ln -s functions/pci_epf_virtio/f controllers/pcie0/"), "duplex: requires feature"
    )
