"""The part of a topology on one host: links lead to other processes, and devices keep the side on that host."""

from __future__ import annotations

import pytest

from vnet.errors import ConfigError
from vnet.process_ends import RemoteEnd
from vnet.topology import DEFAULT, parse, part_of

TWO = """
[hosts.rc]
[hosts.ep]
[hosts.other]
[links.pcie0]
root = "rc"
endpoint = "ep"
vfio_user = "/run/link"
generation = 4
trace = "trace.txt"
{faults}
[links.pcie1]
root = "other"
endpoint = "ep"
vfio_user = "/run/other"
[devices.net0]
link = "pcie0"
[devices.blk0]
type = "blk"
link = "pcie0"
function = 1
driver = {{ nbd = "/tmp/nbd" }}
device = {{ store = "file", path = "/tmp/disk", size = 1 }}
[devices.net1]
link = "pcie1"
device = {{ ifname = "vnet1" }}
[devices.net2]
transport = "mmio"
host = "rc"
driver = {{ ifname = "a0" }}
device = {{ ifname = "a1" }}
"""


def test_the_root_s_part_has_the_drivers() -> None:
    part = part_of(parse(TWO.format(faults="")), "rc", "t.toml")
    assert list(part.hosts) == ["rc"]
    [(name, link)] = part.links.items()
    assert (name, link.root, link.endpoint) == ("pcie0", "rc", RemoteEnd("/run/link"))
    assert (link.timed, link.trace, link.lossy) == (False, None, False), "the endpoint's process simulates the link"
    assert list(part.devices) == ["net0", "blk0", "net2"]
    assert {name: (device.driven, device.foreign) for name, device in part.devices.items()} == {
        "net0": (True, True),
        "blk0": (True, True),
        "net2": (True, False),
    }
    assert [claim[-1] for _, claim in part.devices["blk0"].claims(("rc", ""))] == ["/tmp/nbd"]
    assert [netns.name for netns in part.namespaces("rc")] == ["rc-rc", "rc-rc", "rc-rc-dev"]


def test_the_endpoint_s_part_has_the_devices() -> None:
    part = part_of(parse(TWO.format(faults="")), "ep", "t.toml")
    assert {name: link.root for name, link in part.links.items()} == {
        "pcie0": RemoteEnd("/run/link"),
        "pcie1": RemoteEnd("/run/other"),
    }
    assert part.links["pcie0"].timed
    assert part.links["pcie0"].trace == "trace.txt"
    assert list(part.devices) == ["net0", "blk0", "net1"]
    assert not any(device.driven for device in part.devices.values())
    assert [claim[-1] for _, claim in part.devices["blk0"].claims(("", "ep"))] == ["/tmp/disk"]
    assert list(part.sockets()) == [("pcie0", "/run/link"), ("pcie0", "/run/link.1"), ("pcie1", "/run/other")]


@pytest.mark.parametrize(("faults", "lossy"), [("", False), ("faults = { lost_doorbells = 0.1 }", True)])
def test_the_root_looks_again_if_the_other_process_loses_notifications(faults: str, lossy: bool) -> None:
    assert part_of(parse(TWO.format(faults=faults)), "rc", "t.toml").links["pcie0"].lossy is lossy


def test_an_unknown_host_is_one_line_with_those_that_there_are() -> None:
    with pytest.raises(ConfigError) as caught:
        part_of(parse(DEFAULT), "middle", "t.toml")
    assert str(caught.value) == "t.toml: --only = 'middle': must be one of rc, ep"


def test_a_link_without_a_socket_leads_to_no_other_process() -> None:
    with pytest.raises(ConfigError) as caught:
        part_of(parse(DEFAULT), "ep", "t.toml")
    assert (
        str(caught.value)
        == "t.toml: links.pcie0.vfio_user: must be given, or stream: each host is a process of its own"
    )


@pytest.mark.parametrize("host", ["h1", "soc", "h2"])
def test_a_device_on_an_ntb_stays_in_one_process(host: str) -> None:
    text = """
        [hosts.h1]
        [hosts.soc]
        [hosts.h2]
        [links.a]
        root = "h1"
        endpoint = "soc"
        vfio_user = "/run/a"
        [links.b]
        root = "h2"
        endpoint = "soc"
        vfio_user = "/run/b"
        [ntbs.ntb0]
        host = "soc"
        primary = "a"
        secondary = "b"
        [devices.net0]
        transport = "ntb"
        ntb = "ntb0"
    """
    with pytest.raises(ConfigError) as caught:
        part_of(parse(text), host, "t.toml")
    assert "devices.net0.ntb" in str(caught.value)
