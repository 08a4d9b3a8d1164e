"""Links whose end is another process: which keys go together, one line for each that does not."""

from __future__ import annotations

import pytest

from vnet.errors import ConfigError
from vnet.graph.build import of_topology
from vnet.process_ends import SOCKETS_RULE, RemoteEnd
from vnet.topology import parse

FILE = """
[hosts.here]
[links.pcie0]
{ends}
[devices.net0]
link = "pcie0"
{keys}
"""
CLIENT = 'root = { vfio_user = "/run/c" }\nendpoint = "here"'
SERVER = 'root = "here"\nendpoint = { vfio_user = "/run/s" }'


def problem(ends: str, keys: str = "") -> str:
    with pytest.raises(ConfigError) as caught:
        parse(FILE.format(ends=ends, keys=keys), "t.toml")
    assert len(caught.value.all) == 1, caught.value.all
    return str(caught.value).removeprefix("t.toml: ")


def test_a_client_is_the_root_complex_of_a_host_s_endpoint() -> None:
    topology = parse(FILE.format(ends=CLIENT, keys='device = { ifname = "a0" }'))
    assert topology.links["pcie0"].root == RemoteEnd("/run/c")
    device = topology.devices["net0"]
    assert (device.driven, device.foreign) == (False, False)
    assert topology.ends(device) == ("vfio-user /run/c", "here")
    assert list(topology.own_netns("s")) == ["s-here"]
    assert topology.functions("pcie0") == (0,)


def test_a_server_is_the_endpoint_of_a_host_s_root_complex() -> None:
    topology = parse(FILE.format(ends=SERVER.replace("}", ", peer_uid = 7 }"), keys='driver = { ifname = "a0" }'))
    assert topology.links["pcie0"].endpoint == RemoteEnd("/run/s", 7)
    device = topology.devices["net0"]
    assert (device.driven, device.foreign, device.socket) == (True, True, None)
    assert topology.hosts["here"].memory


@pytest.mark.parametrize("ends", [CLIENT, SERVER])
def test_the_graph_has_the_other_process(ends: str) -> None:
    groups = [group.name for group in of_topology("t", parse(FILE.format(ends=ends, keys=""))).groups]
    assert sorted(groups) == sorted(["here", "vfio-user /run/c" if ends is CLIENT else "vfio-user /run/s"])


OWN = "must be absent: memory accesses of an endpoint in another process do not travel this link"
LONG = "/run/" + 102 * "c"
PROBLEMS = [
    (CLIENT, "driver = { ifname = 'a' }", "devices.net0.driver: must be absent: the driver belongs to another process"),
    (SERVER, "device = { ifname = 'a' }", "devices.net0.device: must be absent: the device belongs to another process"),
    (
        CLIENT.replace("}", ", peer_uid = 7 }"),
        "",
        "links.pcie0.root.peer_uid = 7: must be absent at root: the mode of our own socket decides who may connect",
    ),
    (f"{SERVER}\ngeneration = 3", "", f"links.pcie0.generation = 3: {OWN}"),
    (f"{SERVER}\nfaults = {{ timeouts = 0.5 }}", "", f"links.pcie0.faults: {OWN}"),
    (
        f'{SERVER}\nvfio_user = "/run/x"',
        "",
        "links.pcie0.vfio_user = '/run/x': must be absent: one end is another process already",
    ),
    (
        CLIENT.replace('"here"', '{ vfio_user = "/run/s" }'),
        "",
        "links.pcie0.endpoint = 'vfio-user /run/s': must be a host: the root is another process already",
    ),
    ("root = {}\nendpoint = 'here'", "", "links.pcie0.root.vfio_user: must be given"),
    (
        "root = 5\nendpoint = 'here'",
        "",
        "links.pcie0.root = 5: must be text in quotes (a host), or a table (another process)",
    ),
    (
        CLIENT.replace("/run/c", LONG),
        "",
        f"links.pcie0.root.vfio_user = '{LONG}': must be {SOCKETS_RULE}",
    ),
]


@pytest.mark.parametrize(("ends", "keys", "line"), PROBLEMS)
def test_keys_that_do_not_go_together_are_one_line(ends: str, keys: str, line: str) -> None:
    assert problem(ends, keys) == line


def test_sockets_of_two_links_differ() -> None:
    text = FILE.format(ends=CLIENT, keys="") + '[links.pcie1]\nroot = { vfio_user = "/run/c" }\nendpoint = "here"\n'
    with pytest.raises(ConfigError) as caught:
        parse(text, "t.toml")
    assert str(caught.value) == "t.toml: links.pcie1.root.vfio_user = '/run/c': already used by links.pcie0.root"
