"""Topology keys of transports on a host or behind a mailbox, and of routes between networks."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from drivers.transports.epf_mailbox import MailboxOptions
from support.topologies import TWO_HOSTS
from vnet.ends.net import net_specs
from vnet.errors import ConfigError
from vnet.linux.netns import Route
from vnet.topology import parse

LINKED = (
    TWO_HOSTS
    + """\
[devices.net0]
link = "pcie0"
"""
)
ON_HOST = """\
[hosts.soc]
[devices.net0]
transport = "mmio"
host = "soc"
"""


def test_two_devices_on_one_host_do_not_clash_as_functions_of_one_link_would() -> None:
    second = ON_HOST + "[devices.net1]\ntransport = 'mmio'\nhost = 'soc'\n"
    driver = "driver = { ifname = 'vnet1' }\ndevice = { ifname = 'vnet1' }\n"
    assert list(parse(second + driver).devices) == ["net0", "net1"]
    with pytest.raises(
        ConfigError, match=r"net1\.driver\.ifname.*already used by devices\.net0\.driver in the same namespace"
    ):
        parse(second)


ABROAD = """\
[hosts.rc]
[devices.net0]
transport = "vhost_user"
host = "rc"
socket = "/tmp/net0.sock"
"""
NOT_OURS = "must be absent with socket: the device belongs to another process"
REFUSED = {
    "a port of a device that is not ours": (ABROAD + "device = { kind = 'tap' }", "net0.device", NOT_OURS),
    "a store of a device that is not ours": (ABROAD + "type = 'blk'\ndevice = { size = 1 }", "net0.device", NOT_OURS),
    "no path": (ABROAD.replace("/tmp/net0.sock", ""), "socket = ''", "must be a socket path"),
    "a path too long": (ABROAD.replace("/tmp", 107 * "x"), "socket = ", "must be a socket path of 1 to 107 bytes"),
    "a socket within a host": (
        ON_HOST + "socket = '/tmp/s'",
        "socket = '/tmp/s'",
        "must be absent for transport mmio",
    ),
    "a user without a socket": (
        ABROAD.replace("socket = ", "# ") + "peer_uid = 1000",
        "peer_uid = 1000",
        "must be absent without socket",
    ),
    "a user within a host": (ON_HOST + "peer_uid = 0", "peer_uid = 0", "must be absent for transport mmio"),
    "no user at all": (ABROAD + "peer_uid = -1", "peer_uid = -1", "must be a user id between 0 and 4294967294"),
    "mediated without a peer": (
        ABROAD + "mode = 'mediated'",
        "mode = 'mediated'",
        "there is nothing to mediate between",
    ),
    "a link under a platform device": (
        LINKED + "transport = 'mmio'",
        "link = 'pcie0'",
        "transport mmio needs the key host",
    ),
    "a host under a PCI function": (LINKED + "host = 'rc'", "host = 'rc'", "transport pci needs the key link"),
    "no host": ("[hosts.soc]\n[devices.net0]\ntransport = 'mmio'", "host: ", "must be one of soc"),
    "no such host": (ON_HOST.replace('host = "soc"', 'host = "rc"'), "host = 'rc'", "must be one of soc"),
    "a function on a platform": (ON_HOST + "function = 1", "function = 1", "must be absent for transport mmio"),
    "polling virtio-pci": (LINKED + "poll = true", "poll = true", "must be absent for transport pci"),
    "polling by number": (LINKED + "transport = 'epf_mailbox'\npoll = 1", "poll = 1", "must be true or false"),
    "a route that is none": (LINKED + "driver = { routes = ['elsewhere'] }", "routes", "must be routes such as"),
    "a router that is none": (LINKED + "driver = { routes = ['::/0 via me'] }", "routes", "must be routes such as"),
    "a router of the other family": (LINKED + "driver = { routes = ['::/0 via 198.18.0.1'] }", "routes", "routes such"),
}


def test_a_device_of_another_program_has_one_end_here() -> None:
    topology = parse(ABROAD)
    [device] = net_specs(topology.devices).values()
    assert device.foreign
    hosts = topology.ends(device)
    assert hosts == ("rc", "/tmp/net0.sock")
    assert [side for side, _, _ in device.ports(hosts)] == ["driver"]
    assert list(device.hints("vnet", "net0", hosts)) == []
    assert [netns.name for netns in topology.namespaces("vnet")] == ["vnet-rc"]


@pytest.mark.parametrize(("text", "what", "why"), REFUSED.values(), ids=REFUSED)
def test_a_setting_that_its_transport_does_not_have_is_refused_in_one_line(text: str, what: str, why: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text, "t.toml")
    line = str(caught.value)
    assert line.startswith("t.toml: devices.net0.")
    assert what in line
    assert why in line
    assert "\n" not in line


def test_a_mailbox_may_be_polled() -> None:
    device = parse(LINKED + "transport = 'epf_mailbox'\npoll = true").devices["net0"]
    assert device.options == MailboxOptions(poll=True)


def test_routes_are_networks_with_or_without_a_router() -> None:
    text = "driver = { routes = ['198.18.1.0/24 via 198.18.0.2', '2001:2:0:1::/64'], forward = true }"
    port = net_specs(parse(LINKED + text).devices)["net0"].driver
    assert port.forward
    assert [Route.parse(route) for route in port.routes] == [
        Route(ip_network("198.18.1.0/24"), ip_address("198.18.0.2")),
        Route(ip_network("2001:2:0:1::/64")),
    ]
