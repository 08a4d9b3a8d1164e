"""The topology of served devices: names, places, and what it leaves on the machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from vnet.names import NAME
from vnet.system.claim import claim
from vnet.system.export_topology import DeviceExport, export_topology
from vnet.topology import parse_device


@pytest.mark.parametrize(
    ("keys", "socket", "name"),
    [
        ({"type": "blk"}, "blk.sock", "serve-blk"),
        ({"type": "net"}, "/run/VM 1/vhost0.sock", "serve-net-vhost0"),
        ({"type": "net"}, "/run/Ä!.sock", "serve-net"),
        ({"type": "blk"}, f"{'x' * 90}", f"serve-blk-{'x' * 22}"),
    ],
)
def test_the_default_name_of_a_served_device_is_that_of_its_type_and_its_socket(
    keys: dict[str, str], socket: str, name: str
) -> None:
    assert DeviceExport(parse_device(keys, "test"), Path(socket)).name == name
    assert NAME.fullmatch(name)


def test_a_served_device_has_its_socket_and_no_namespace_of_its_own(run_dir: Path) -> None:
    spec = parse_device({"type": "net", "device": {"kind": "tap", "netns": "moon"}}, "test")
    for connect, paths in ((False, ("/s",)), (True, ())):
        with claim("t", export_topology({"net0": DeviceExport(spec, Path("/s"), connect)})) as claimed:
            state = claimed.state
            assert (state.hosts, state.netns, state.paths) == ({"serve": "moon"}, (), paths)


def test_each_function_is_behind_a_link_of_its_own_and_each_back_end_on_our_host() -> None:
    spec = parse_device({"type": "blk"}, "test")
    names = {"a": True, "b": False, "c": True}
    topology = export_topology({name: DeviceExport(spec, Path(name), vfio_user=pci) for name, pci in names.items()})
    assert {name: topology.ends(device) for name, device in topology.devices.items()} == {
        "a": ("client", "serve"),
        "b": ("frontend", "serve"),
        "c": ("client2", "serve"),
    }
    assert topology.carried("pcie1", 0) == ("c", topology.devices["c"])
