"""Values with which no system comes up are refused when the topology is read: file, key, value, reason in a line."""

from __future__ import annotations

import copy
import tomllib
from pathlib import Path

import attrs
import pytest

from support.topologies import refusal
from vnet.ends import DEVICE_TYPES
from vnet.ends.blk import DiskSpec, DiskStoreSpec
from vnet.ends.net import NetSpec, PortSpec
from vnet.ends.rpmsg import ChannelSpec, RpmsgEndSpec
from vnet.ends.scsi import InitiatorSpec, LunSpec, TargetsSpec
from vnet.errors import ConfigError
from vnet.spec import FaultSpec, HostSpec, LinkSpec, NtbSpec
from vnet.topology import parse, parse_device
from vnet.topology.reader import from_tables
from vnet.topology.samples import built_in_text

NET, BLK, SCSI, RPMSG = "devices.net0", "devices.blk0", "devices.scsi0", "devices.rpmsg0"
IPV6 = "addresses = ['198.18.0.1/24', '2001:2::1/64']"


DEVICES = [
    ("net", "queue_size = 1", f"{NET}.queue_size = 1: must be a power of two"),
    ("net", "queue_size = 65536", f"{NET}.queue_size = 65536: must be a power of two"),
    ("net", "mac = '00:00:00:00:00:00'", f"{NET}.mac = '00:00:00:00:00:00': must be a unicast MAC address"),
    ("net", "mac = 'ff:ff:ff:ff:ff:ff'", f"{NET}.mac = 'ff:ff:ff:ff:ff:ff': must be a unicast MAC address"),
    (
        "net",
        "mac = '02:00:00:00:00:05'\nfeatures_off = ['MAC']",
        f"{NET}.mac = '02:00:00:00:00:05': requires feature MAC, which features_off removes",
    ),
    (
        "net",
        "speed = 10\nfeatures_off = ['speed_duplex']",
        f"{NET}.speed = 10: requires feature SPEED_DUPLEX, which features_off removes",
    ),
    (
        "net",
        "duplex = 'full'\nfeatures_off = ['SPEED_DUPLEX']",
        f"{NET}.duplex = 'full': requires feature SPEED_DUPLEX, which features_off removes",
    ),
    (
        "net",
        "queue_pairs = 2\nfeatures_off = ['MQ']",
        f"{NET}.queue_pairs = 2: requires feature MQ, which features_off removes",
    ),
    (
        "net",
        "rx_buffer = 65\nfeatures_off = ['MRG_RXBUF']",
        f"{NET}.rx_buffer = 65: requires feature MRG_RXBUF, which features_off removes",
    ),
    (
        "net",
        "rx_buffer = 762\nqueue_size = 2",
        f"{NET}.rx_buffer = 762: must be larger: 2 buffers must hold a frame of 1526 bytes",
    ),
    (
        "net",
        "mtu = 1501\nfeatures_off = ['MTU', 'CSUM', 'GUEST_CSUM']",
        f"{NET}.mtu = 1501: must be at most 1500: features_off removes MTU",
    ),
    (
        "net",
        f"mtu = 1279\ndriver = {{ {IPV6} }}",
        f"{NET}.driver.addresses = ['198.18.0.1/24', '2001:2::1/64']: must be IPv4 only: IPv6 needs",
    ),
    (
        "net",
        "mtu = 68\ndevice = { routes = ['::/0'] }",
        f"{NET}.device.routes = ['::/0']: must be IPv4 only: IPv6 needs an MTU of 1280 bytes",
    ),
    *(
        ("net", f"driver = {{ addresses = ['{text}'] }}", f"{NET}.driver.addresses = ['{text}']: must be addresses")
        for text in ("::1/128", "127.0.0.1/8", "fe80::1%vnet0/64", "255.255.255.255/32", "0.0.0.0/0", "::/64")
    ),
    (
        "net",
        f"driver = {{ {IPV6} }}\ndevice = {{ addresses = ['198.18.0.2/24', '2001:2:0::1/64'] }}",
        f"{NET}.device.addresses = ['198.18.0.2/24', '2001:2:0::1/64']: must differ from driver.addresses (2001:",
    ),
    *(
        (
            "net",
            f"driver = {{ {IPV6}, routes = ['{network} via {router}'] }}",
            f"{NET}.driver.routes[0] = '{network} via {router}': must be via another host in a network of the ",
        )
        for network, router in (
            ("198.18.9.0/24", "198.18.1.1"),
            ("198.18.9.0/24", "198.18.0.1"),
            ("198.18.9.0/24", "198.18.0.255"),
            ("198.18.9.0/24", "198.18.0.0"),
            ("2001:2:9::/64", "2001:2:1::1"),
        )
    ),
    (
        "net",
        "driver = { routes = ['::/0 via fe80::1%a'] }",
        f"{NET}.driver.routes = ['::/0 via fe80::1%a']: must be routes",
    ),
    *(
        (
            "net",
            f"device = {{ ifname = '{name}' }}",
            f"{NET}.device.ifname = '{name}': must be an interface name",
        )
        for name in ("", "lo", "all", "default", "..", "a/b", "a:b", "a" * 16)
    ),
    *(
        (
            "net",
            f"driver = {{ kind = 'memory', {key} = {value} }}",
            f"{NET}.driver.{key} = {shown}: must be absent for a memory port",
        )
        for key, value, shown in (
            ("netns", "'a'", "'a'"),
            ("ifname", "'a'", "'a'"),
            ("routes", "['::/0']", "['::/0']"),
            ("forward", "true", "true"),
            ("txqueuelen", "1", "1"),
        )
    ),
    ("blk", "queue_size = 2", f"{BLK}.queue_size = 2: must be at least 4 for a blk device"),
    ("scsi", "queue_size = 2", f"{SCSI}.queue_size = 2: must be at least 4 for a scsi device"),
    ("blk", "queues = 0", f"{BLK}.queues = 0: must be between 1 and 16"),
    ("blk", "device = { size = 0 }", f"{BLK}.device.size = 0: must be between 1 and 1073741824 (MiB)"),
    ("blk", "device = { size = 1, shared = true }", f"{BLK}.device.shared = true: must be false for a memory store"),
    ("blk", "device = { store = 'file', path = '' }", f"{BLK}.device.path = '': must be a file path"),
    ("blk", 'device = { size = 1, serial = "a\\n" }', f'{BLK}.device.serial = "a\\n": must be at most 20 printable'),
    ("blk", "driver = { nbd = '' }", f"{BLK}.driver.nbd = '': must be a socket path"),
    (
        "scsi",
        "device.luns = [{ size = 1, lun = 16384 }]",
        f"{SCSI}.device.luns[0].lun = 16384: must be between 0 and 16383",
    ),
    ("rpmsg", "to_driver = 59", f"{RPMSG}.to_driver = 59: must be between 60 and 65551 (bytes)"),
    (
        "rpmsg",
        "driver.channels = [{ name = 'a', addr = 4294967295 }]",
        f"{RPMSG}.driver.channels[0].addr = 4294967295: must be a 32-bit address other than 53 and 4294967295",
    ),
]


@pytest.mark.parametrize(("kind", "keys", "line"), DEVICES)
def test_a_value_of_a_device_that_can_not_work_is_refused(kind: str, keys: str, line: str) -> None:
    assert refusal(built_in_text(kind, keys=keys)).startswith(line)


@pytest.mark.parametrize("value", ["['net']", "3", "true", "{}", "1.5"])
def test_the_type_of_a_device_is_text(value: str) -> None:
    line = refusal(built_in_text("net").replace('type = "net"', f"type = {value}"))
    assert line.startswith(f"{NET}.type = ")
    assert line.endswith(": must be text in quotes")


TRANSPORT = [
    (
        "scsi",
        "epf_mailbox",
        "queues = 7",
        f"{SCSI}.queues = 7: must be less: it takes 9 queues, and transport epf_mailbox carries 8",
    ),
    ("scsi", "ntb", "queues = 7", f"{SCSI}.queues = 7: must be less: it takes 9 queues, and transport ntb carries 8"),
    ("blk", "ntb", "queues = 9", f"{BLK}.queues = 9: must be less: it takes 9 queues, and transport ntb carries 8"),
    ("net", "epf_mailbox", "queue_pairs = 4", f"{NET}.queue_pairs = 4: must be less: it takes 9 queues"),
    ("net", "mmio", "peer_uid = 3", f"{NET}.peer_uid = 3: must be absent for transport mmio"),
    ("net", "ntb", "queue_pairs = 3\nqueue_size = 32768", "ntbs.ntb0.mw: must be at least "),
    ("net", "pci", "queue_pairs = 64\nqueue_size = 32768", "hosts.rc.memory: must be at least "),
]


@pytest.mark.parametrize(("kind", "transport", "keys", "line"), TRANSPORT)
def test_a_device_beyond_its_transport_or_memory_is_refused(kind: str, transport: str, keys: str, line: str) -> None:
    assert refusal(built_in_text(kind, transport, keys)).startswith(line)


LINKS = [
    (
        "faults = { flap_every_ms = 50, flap_ms = 50 }",
        "faults.flap_every_ms = 50.0: must be above 50 (flap_ms), or the link is never up",
    ),
    (
        "faults = { flap_every_ms = 10, flap_ms = 20 }",
        "faults.flap_every_ms = 10.0: must be above 20 (flap_ms), or the link is never up",
    ),
    ("faults = { flap_every_ms = 0 }", "faults.flap_every_ms = 0.0: must be above 0 and at most 3600000 (ms)"),
    ("faults = { flap_ms = inf }", "faults.flap_ms = inf: must be above 0 and at most 3600000 (ms)"),
    ("faults = { timeouts = nan }", "faults.timeouts = nan: must be between 0 and 1 (a probability)"),
    ("faults = { timeouts = 1.01 }", "faults.timeouts = 1.01: must be between 0 and 1 (a probability)"),
    ("faults = { seed = 1.0 }", "faults.seed = 1.0: must be a whole number"),
    ("trace = ''", "trace = '': must be a file path"),
    ("lanes = 0", "lanes = 0: must be one of"),
    ("max_payload = 0", "max_payload = 0: must be one of"),
    ("read_latency_ns = -1", "read_latency_ns = -1: must be between 0 and 1000000000 (ns)"),
]


@pytest.mark.parametrize(("keys", "line"), LINKS)
def test_a_value_of_a_link_that_can_not_work_is_refused(keys: str, line: str) -> None:
    assert refusal(built_in_text("net", link=keys)).startswith(f"links.pcie0.{line}")


def test_a_root_complex_has_as_many_links_as_buses() -> None:
    def topology(count: int) -> str:
        links = "".join(f"[links.l{i}]\nroot = 'rc'\nendpoint = 'ep'\n" for i in range(count))
        return f"[hosts.rc]\n[hosts.ep]\n{links}[devices]\n"

    assert len(parse(topology(255)).links) == 255
    why = "must be another host: rc has 255 links already, each of which is a bus"
    assert refusal(topology(256)) == f"links.l255.root = 'rc': {why}"


def test_memory_below_the_need_of_the_drivers_is_refused_with_that_need() -> None:
    text = built_in_text("net").replace("[hosts.rc]", "[hosts.rc]\nmemory = 32")
    assert refusal(text) == (
        "hosts.rc.memory = 32: must be at least 33 MiB for the drivers (net0 33), and at most 61440"
    )


def test_a_host_with_too_many_drivers_is_refused_in_a_line_that_names_some_of_them() -> None:
    devices = "".join(f"[devices.n{i}]\ntype = 'rpmsg'\nhost = 'rc'\ntransport = 'mmio'\n" for i in range(2000))
    line = refusal(f"[hosts.rc]\nmemory = 1\n{devices}")
    assert line.startswith("hosts.rc.memory = 1: must be at least ")
    assert "n19 1 and 1980 more" in line


def test_a_window_below_the_need_of_its_driver_is_refused_with_that_need() -> None:
    text = built_in_text("net", "ntb").replace("[ntbs.ntb0]", "[ntbs.ntb0]\nmw = 32")
    assert refusal(text) == "ntbs.ntb0.mw = 32: must be at least 33 MiB for the driver of net0, and at most 2048"


# Files and sockets that two would use

TWICE = [
    (
        "driver.nbd = 'a'\n[devices.b]\ntype = 'blk'\nlink = 'pcie0'\nfunction = 1\ndriver.nbd = 'x/../a'",
        "driver.nbd",
        "blk0.driver",
    ),
    ("driver.nbd = 'a'\ndevice = { store = 'file', path = './a' }", "device.path", "blk0.driver"),
    (
        "[devices.b]\ntype = 'blk'\nlink = 'pcie0'\nfunction = 1\ndevice = { store = 'file', path = 'trace' }",
        "device.path",
        None,
    ),
]


@pytest.mark.parametrize(("keys", "field", "owner"), TWICE)
def test_a_file_or_socket_that_another_part_has_is_refused_without_a_word_of_namespaces(
    keys: str, field: str, owner: str | None
) -> None:
    line = refusal(built_in_text("blk", keys=keys, link="trace = 'trace'"))
    device = "b" if "devices.b" in keys else "blk0"
    path = Path("a" if owner else "trace").absolute()
    has = f"devices.{owner}" if owner else "links.pcie0"
    assert line == f"devices.{device}.{field} = '{path}': already used by {has}"


# Addresses that are made


@pytest.mark.parametrize(("key", "other"), [("mac", 1), ("peer_mac", 0)])
@pytest.mark.parametrize("index", [0, 7])
def test_an_address_that_is_given_is_never_that_of_the_other_end(key: str, other: int, index: int) -> None:
    made = NetSpec().macs(index)
    given = NetSpec(**{key: made[other].hex(":")}).macs(index)  # type: ignore[arg-type]
    assert given[1 - other] == made[other]
    assert given[other] not in made


def test_a_device_without_a_topology_is_checked_alike() -> None:
    with pytest.raises(ConfigError, match=r"^t: queue_size = 2: must be at least 4 for a blk device"):
        parse_device({"type": "blk", "queue_size": 2}, "t")


# Every key of every record, with values of every type that TOML has

TYPES = (
    "''",
    "'x'",
    "['x']",
    "[]",
    "{}",
    "{ x = 1 }",
    "true",
    "0",
    "-1",
    "1.5",
    "nan",
    "inf",
    "1979-05-27",
    "07:32:00",
    "[[]]",
    "[{}]",
)
RECORDS: list[tuple[str, str, type]] = [
    ("net", "hosts.rc", HostSpec),
    ("net", "links.pcie0", LinkSpec),
    ("net", "links.pcie0.faults", FaultSpec),
    ("net", "ntbs.ntb0", NtbSpec),
    *((kind, f"devices.{kind}0", DEVICE_TYPES[kind].spec) for kind in ("net", "blk", "scsi", "rpmsg")),
    *(("net", f"devices.net0.{end}", PortSpec) for end in ("driver", "device")),
    ("blk", "devices.blk0.driver", DiskSpec),
    ("blk", "devices.blk0.device", DiskStoreSpec),
    ("scsi", "devices.scsi0.driver", InitiatorSpec),
    ("scsi", "devices.scsi0.device", TargetsSpec),
    ("scsi", "devices.scsi0.device.luns", LunSpec),
    ("rpmsg", "devices.rpmsg0.driver", RpmsgEndSpec),
    ("rpmsg", "devices.rpmsg0.device.channels", ChannelSpec),
]


@pytest.mark.parametrize(("kind", "path", "record"), RECORDS, ids=lambda each: each if isinstance(each, str) else None)
def test_a_value_of_another_type_is_one_line_with_its_place(kind: str, path: str, record: type) -> None:
    transport = "ntb" if path.startswith("ntbs") else "pci"
    raw = tomllib.loads(built_in_text(kind, transport))
    for field in attrs.fields(record):
        for text in TYPES:
            value = tomllib.loads(f"value = {text}")["value"]
            changed = copy.deepcopy(raw)
            *tables, last = path.split(".")
            table = changed
            for name in tables:
                table = table.setdefault(name, {})
            listed = last in ("luns", "channels")
            there = [{"name": "a"} if last == "channels" else {"size": 1}] if listed else {}
            actual = table.setdefault(last, there)
            (actual[0] if listed else actual)[field.name] = value
            try:
                from_tables(changed, "t.toml")
            except ConfigError as exc:
                line = str(exc)
                place = path if path.startswith(("hosts", "links", "ntbs")) else f"devices.{kind}0"
                assert line.startswith(f"t.toml: {place}"), line
                assert "\n" not in line
