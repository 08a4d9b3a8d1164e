"""A topology file is read whole or refused with one line that says where what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from rings.features import RingFeature
from support.paths import TOPOLOGIES
from support.topologies import TWO_HOSTS
from vnet.ends.net import net_specs
from vnet.errors import ConfigError
from vnet.topology import DEFAULT, load, parse

BASE = (
    TWO_HOSTS
    + """\
[devices.net0]
link = "pcie0"
"""
)
DEVICE = "devices.net0"
NO_FEATURE = "unknown feature {}; known are CSUM, GUEST_CSUM, "


def refusal(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(text, "t.toml")
    line = str(caught.value)
    assert "\n" not in line
    return line


@pytest.mark.parametrize("path", sorted(TOPOLOGIES.glob("*.toml")), ids=lambda path: path.stem)
def test_every_example_is_one(path: Path) -> None:
    assert load(path).devices


def test_the_built_in_topology_is_that_of_the_first_example() -> None:
    assert parse(DEFAULT) == load(TOPOLOGIES / "rc_ep.toml")


def test_the_built_in_topology_is_two_hosts_a_link_and_a_network_device() -> None:
    topology = parse(DEFAULT)
    assert list(topology.hosts) == ["rc", "ep"]
    assert (topology.links["pcie0"].root, topology.links["pcie0"].endpoint) == ("rc", "ep")
    device = net_specs(topology.devices)["net0"]
    assert (device.type, device.transport, device.link, device.function) == ("net", "pci", "pcie0", 0)
    assert device.driver.addresses == ("198.18.0.1/24", "2001:2::1/64")
    assert device.device.addresses == ("198.18.0.2/24", "2001:2::2/64")


def test_a_missing_key_has_a_default() -> None:
    topology = parse(BASE)
    device = net_specs(topology.devices)["net0"]
    assert topology.hosts["rc"].memory == 128
    assert (device.type, device.transport, device.queue_size, device.mtu) == ("net", "pci", 256, 1500)
    assert (device.features_off, device.features_off_mask()) == ((), 0)
    for port in (device.driver, device.device):
        assert (port.kind, port.ifname, port.addresses, port.netns) == ("tun", "vnet0", (), None)


def test_features_are_switched_off_by_name() -> None:
    device = parse(BASE + 'features_off = ["EVENT_IDX", "indirect_desc"]').devices["net0"]
    assert device.features_off_mask() == 1 << RingFeature.EVENT_IDX | 1 << RingFeature.INDIRECT_DESC


@pytest.mark.parametrize(
    ("extra", "line"),
    [
        ("velocity = 1", f"{DEVICE}.velocity = 1: unknown key; known are "),
        ("[frob]", "frob = {}: unknown key; known are hosts, links, devices"),
        ("driver = { speed = 1 }", f"{DEVICE}.driver.speed = 1: unknown key; known are kind, "),
        ("queue_size = 3", f"{DEVICE}.queue_size = 3: must be a power of two between 2 and 32768"),
        ("queue_size = 65536", f"{DEVICE}.queue_size = 65536: must be a power of two between 2 and 32768"),
        ("queue_size = '256'", f"{DEVICE}.queue_size = '256': must be a whole number"),
        ("queue_size = true", f"{DEVICE}.queue_size = true: must be a whole number"),
        ("mtu = 67", f"{DEVICE}.mtu = 67: must be between 68 and 65521 (bytes)"),
        ("mtu = 1500.0", f"{DEVICE}.mtu = 1500.0: must be a whole number"),
        ("mtu = nan", f"{DEVICE}.mtu = nan: must be a whole number"),
        ("function = 8", f"{DEVICE}.function = 8: must be between 0 and 7"),
        ("queue_pairs = 0", f"{DEVICE}.queue_pairs = 0: must be between 1 and 64"),
        ("queue_pairs = '2'", f"{DEVICE}.queue_pairs = '2': must be a whole number"),
        (
            "queue_pairs = 2\nfeatures_off = ['CTRL_VQ']",
            f"{DEVICE}.queue_pairs = 2: requires feature CTRL_VQ, which features_off removes",
        ),
        (
            "transport = 'epf_mailbox'\nqueue_pairs = 4",
            f"{DEVICE}.queue_pairs = 4: must be less: it takes 9 queues, and transport epf_mailbox carries 8",
        ),
        (
            "mode = 'mediated'\nqueue_pairs = 2",
            f"{DEVICE}.queue_pairs = 2: must be absent in mode mediated: it has one queue pair and no control queue",
        ),
        (
            "mode = 'mediated'\nvlans = [5]",
            f"{DEVICE}.vlans = [5]: must be absent in mode mediated: it has one queue pair",
        ),
        ("speed = 0", f"{DEVICE}.speed = 0: must be between 1 and 2147483647 (Mbit/s)"),
        ("duplex = 'both'", f"{DEVICE}.duplex = 'both': must be one of full, half"),
        ("vlans = [4096]", f"{DEVICE}.vlans = [4096]: must be VLAN ids between 0 and 4095"),
        ("promisc = 1", f"{DEVICE}.promisc = 1: must be true or false"),
        ("rx_buffer = 1", f"{DEVICE}.rx_buffer = 1: must be between 64 and 1048576 (bytes)"),
        ("type = 'disk'", f"{DEVICE}.type = 'disk': must be one of net"),
        ("transport = 'isa'", f"{DEVICE}.transport = 'isa': must be one of pci"),
        ("mac = '01:00:5e:00:00:01'", f"{DEVICE}.mac = '01:00:5e:00:00:01': must be a unicast MAC address, "),
        ("mac = 'nonsense'", f"{DEVICE}.mac = 'nonsense': must be a unicast MAC address, "),
        (
            "mac = '02:00:00:00:00:0A'\npeer_mac = '02:00:00:00:00:0a'",
            f"{DEVICE}.peer_mac = '02:00:00:00:00:0a': must differ from mac",
        ),
        ("features_off = ['FROB']", f"{DEVICE}.features_off = ['FROB']: {NO_FEATURE.format('FROB')}"),
        ("features_off = ['VERSION_1']", f"{DEVICE}.features_off = ['VERSION_1']: {NO_FEATURE.format('VERSION_1')}"),
        (
            "features_on = ['MTU']",
            f"{DEVICE}.features_on = ['MTU']: unknown feature MTU; known are ACCESS_PLAT",
        ),
        (
            "transport = 'epf_mailbox'\nfeatures_on = ['notification_data']",
            f"{DEVICE}.features_on = ['notification_data']: devices over epf_mailbox can't offer NOTIFICATION_DATA",
        ),
        (
            "features_on = ['rss']\nqueue_pairs = 2\nmode = 'mediated'",
            f"{DEVICE}.features_on = ['rss']: must be without RSS in mode mediated: it has no control queue",
        ),
        ("features_on = ['RSS']", f"{DEVICE}.features_on = ['RSS']: RSS requires queue_pairs above 1"),
        (
            "features_on = ['IN_ORDER']\nfeatures_off = ['in_order']",
            f"{DEVICE}.features_on = ['IN_ORDER']: features_off removes IN_ORDER",
        ),
        ("features_off = 'CSUM'", f"{DEVICE}.features_off = 'CSUM': must be a list"),
        ("features_off = [1]", f"{DEVICE}.features_off[0] = 1: must be text in quotes"),
        ("driver = 3", f"{DEVICE}.driver = 3: must be a table"),
        ("driver = []", f"{DEVICE}.driver = []: must be a table"),
        ("driver = { kind = 'veth' }", f"{DEVICE}.driver.kind = 'veth': must be one of tun, tap, memory"),
        ("device = { kind = 1 }", f"{DEVICE}.device.kind = 1: must be one of tun, tap, memory"),
        ("driver = { ifname = 'a b' }", f"{DEVICE}.driver.ifname = 'a b': must be an interface name "),
        (
            "driver = { ifname = 'sixteen-letters0' }",
            f"{DEVICE}.driver.ifname = 'sixteen-letters0': must be an interface name of at most 15 characters",
        ),
        ("driver = { netns = '../etc' }", f"{DEVICE}.driver.netns = '../etc': must be the name of a namespace"),
        ("driver = { txqueuelen = 0 }", f"{DEVICE}.driver.txqueuelen = 0: must be between 1 and 1048576 (packets)"),
        ("driver = { addresses = '198.18.0.1/24' }", f"{DEVICE}.driver.addresses = '198.18.0.1/24': must be a list"),
        ("driver = { addresses = [1] }", f"{DEVICE}.driver.addresses[0] = 1: must be text in quotes"),
        (
            "driver = { addresses = ['198.18.0.1'] }",
            f"{DEVICE}.driver.addresses = ['198.18.0.1']: must be addresses with prefix length, such as ",
        ),
        (
            "driver = { addresses = ['ff02::1/64'] }",
            f"{DEVICE}.driver.addresses = ['ff02::1/64']: must be addresses with prefix length, such as ",
        ),
        ("[links.pcie1]\nroot = 'rc'", "links.pcie1.endpoint: must be given"),
        ("[links.pcie1]\nroot = 'rc'\nendpoint = 'x'", "links.pcie1.endpoint = 'x': must be one of rc, ep"),
        ("[links.pcie1]\nroot = 'rc'\nendpoint = 'rc'", "links.pcie1.endpoint = 'rc': must differ from root"),
        ("[links.pcie1]\nroot = 1\nendpoint = 'ep'", "links.pcie1.root = 1: must be text in quotes"),
        ("[devices.net1]\nlink = 'x'", "devices.net1.link = 'x': must be one of pcie0"),
        ("[devices.net1]\nfunction = 1", "devices.net1.link: must be one of pcie0"),
        ("[devices.net1]\nlink = 'pcie0'", "devices.net1.function = 0: already used by net0 on the same link"),
        (
            "[devices.net1]\nlink = 'pcie0'\nfunction = 1",
            "devices.net1.driver.ifname = 'vnet0': already used by devices.net0.driver in the same namespace",
        ),
        (
            "[hosts.Rc]",
            "hosts = 'Rc': must be a lower-case letter, then at most 31 lower-case letters, digits, - and _",
        ),
        (
            "[hosts.'../up']",
            "hosts = '../up': must be a lower-case letter, then at most 31 lower-case letters, digits, - and _",
        ),
        ("[hosts.other]\nmemory = 0", "hosts.other.memory = 0: must be between 1 and 61440 (MiB)"),
        ("[hosts.other]\nmemory = 61441", "hosts.other.memory = 61441: must be between 1 and 61440 (MiB)"),
        ("[hosts.rc]", "not valid TOML: Cannot declare ('hosts', 'rc') twice"),
        ("frob", "not valid TOML: Expected '=' after a key in a key/value pair "),
    ],
)
def test_a_mistake_is_reported_in_one_line_with_file_path_value_and_reason(extra: str, line: str) -> None:
    assert refusal(BASE + extra).startswith(f"t.toml: {line}")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "hosts: must be given"),
        ("hosts = {}\nlinks = {}", "devices: must be given"),
        ("hosts = 3\nlinks = {}\ndevices = {}", "hosts = 3: must be a table"),
        ("hosts = []\nlinks = {}\ndevices = {}", "hosts = []: must be a table"),
        ("hosts = { rc = 3 }\nlinks = {}\ndevices = {}", "hosts.rc = 3: must be a table"),
    ],
)
def test_missing_keys_and_other_shapes_are_reported_too(text: str, line: str) -> None:
    assert refusal(text) == f"t.toml: {line}"


def test_any_value_stays_on_its_line() -> None:
    assert r'"a\nb"' in refusal(BASE + 'mac = "a\\nb"')


@pytest.mark.parametrize(
    ("driver", "device"),
    [
        ("ifname = 'vnet1'", "ifname = 'vnet1'"),
        ("netns = 'one'", "netns = 'two'"),
        ("kind = 'memory'", "kind = 'memory'"),
    ],
)
def test_ports_of_one_host_differ_in_interface_or_namespace_or_need_neither(driver: str, device: str) -> None:
    second = f"[devices.net1]\nlink = 'pcie0'\nfunction = 1\ndriver = {{ {driver} }}\ndevice = {{ {device} }}"
    assert list(parse(BASE + second).devices) == ["net0", "net1"]


def test_only_namespaces_that_are_the_hosts_own_are_made() -> None:
    topology = parse(BASE + "driver = { netns = 'given' }")
    assert topology.own_netns("t") == ("t-ep",)
    assert [topology.host_netns("t", host) for host in topology.hosts] == ["given", "t-ep"]
    assert parse(BASE + "driver = { kind = 'memory' }").host_netns("t", "rc") is None


def test_a_file_that_can_not_be_read_is_one_line_too(tmp_path: Path) -> None:
    missing, binary = tmp_path / "missing.toml", tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe")
    refused = ((missing, "No such file or directory"), (tmp_path, "Is a directory"), (binary, "must be UTF-8 text"))
    for path, why in refused:
        with pytest.raises(ConfigError, match=why) as caught:
            load(path)
        assert str(caught.value).startswith(f"{path}: ")


def test_a_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "t.toml"
    path.write_text(DEFAULT, encoding="utf-8")
    assert load(path) == parse(DEFAULT)
