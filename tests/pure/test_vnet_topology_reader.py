"""All problems of a topology file are reported in its order, and each is one line."""

from __future__ import annotations

import pytest

from support.topologies import errors, places
from vnet.errors import ConfigError
from vnet.topology import DEFAULT, parse, parse_device

MANY = """\
[hosts.rc]
memory = "512"
[hosts.ep]
[links.pcie0]
root = "rc"
endpoint = "ep"
lanes = 3
generation = 9
[links.pcie1]
rot = "rc"
endpoint = "ep"
faults = { seed = "x", flap_ms = 0 }
[links.pcie2]
root = "rc"
endpoint = "ep"
faults = { flap_every_ms = 1.0, flap_ms = 5 }
[devices.net0]
queue_sise = 4
mtu = 5
link = "pci0"
driver = { kind = "veth", addresses = ["198.18.0.1/24", 1, 2], txqueuelen = 0 }
[devices.net1]
link = "pcie1"
features_off = ["FROB"]
mac = "02:00:00:00:00:01"
peer_mac = "02:00:00:00:00:01"
[devices.net2]
link = "pcie0"
queue_pairs = 2
features_off = ["MQ"]
[devices.net3]
type = "nte"
queues = 3
[devices.blk0]
type = "blk"
transport = "mmio"
host = "rc"
device = { path = "x" }
[devices.scsi0]
type = "scsi"
link = "pcie0"
[devices.rpmsg0]
type = "rpmsg"
link = "pcie0"
driver.channels = [{ name = "a", addr = 53 }, { nam = "b" }]
"""
PLACES = [
    "hosts.rc.memory",
    "links.pcie0.lanes",
    "links.pcie0.generation",
    "links.pcie1.rot",
    "links.pcie1.faults.seed",
    "links.pcie1.faults.flap_ms",
    "links.pcie2.faults.flap_every_ms",
    "devices.net0.queue_sise",
    "devices.net0.mtu",
    "devices.net0.link",
    "devices.net0.driver.kind",
    "devices.net0.driver.addresses[1]",
    "devices.net0.driver.addresses[2]",
    "devices.net0.driver.txqueuelen",
    "devices.net1.features_off",
    "devices.net1.peer_mac",
    "devices.net2.queue_pairs",
    "devices.net3.type",
    "devices.blk0.device.path",
    "devices.blk0.device.size",
    "devices.scsi0.function",
    "devices.rpmsg0.driver.channels[0].addr",
    "devices.rpmsg0.driver.channels[1].nam",
    "devices.rpmsg0.function",
]


def test_all_problems_of_a_file_are_reported_in_its_order() -> None:
    assert places(MANY) == PLACES


def test_the_error_is_about_the_first_problem_and_has_the_others() -> None:
    first, *others = errors(MANY)
    assert str(first) == "t.toml: hosts.rc.memory = '512': must be a whole number"
    assert first.more == tuple(others)
    assert not any(error.more for error in others)


def test_a_mended_file_has_no_problem() -> None:
    assert parse(DEFAULT).devices


def test_tables_of_any_depth_are_one_line() -> None:
    [error] = errors(f"[devices]\n[hosts.a]\n{'x.' * 10_000}x = 1\n")
    assert len(str(error)) < 200


@pytest.mark.parametrize("number", ["1" * 5000, f"0x{'f' * 5000}"])
def test_a_number_of_any_length_is_one_line(number: str) -> None:
    [error] = errors(f"[devices]\n[hosts.a]\nmemory = {number}\n")
    assert len(str(error)) < 200


def test_a_file_of_many_errors_has_them_all() -> None:
    text = "[hosts.a]\n" + "".join(f"key{number} = 1\n" for number in range(1000)) + "[devices]\n"
    assert places(text) == [f"hosts.a.key{number}" for number in range(1000)]


def test_a_device_outside_a_topology_has_all_its_problems_too() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_device({"type": "net", "mtu": 1, "mac": 3, "driver": {"kind": "x"}}, "f")
    assert [error.path for error in caught.value.all] == ["mtu", "mac", "driver.kind"]
