"""Topology keys of NTBs."""

from __future__ import annotations

import pytest

from support.paths import TOPOLOGIES
from vnet.errors import ConfigError
from vnet.topology import Topology, load, parse

EXAMPLE = TOPOLOGIES / "ntb.toml"
TEXT = EXAMPLE.read_text(encoding="utf-8")


def change(*pairs: tuple[str, str]) -> str:
    text = TEXT
    for old, new in pairs:
        assert old in text
        text = text.replace(old, new)
    return text


def test_the_driver_is_at_the_secondary_end_and_the_device_at_the_primary() -> None:
    topology: Topology = load(EXAMPLE)
    assert topology.ends(topology.devices["net0"]) == ("host2", "host1")
    assert topology.own_netns("vnet") == ("vnet-host1", "vnet-host2")
    assert topology.ntbs["ntb0"].mw == 64


def test_a_topology_without_ntbs_has_none() -> None:
    assert not parse("[hosts.a]\n[devices.net0]\ntransport = 'mmio'\nhost = 'a'\n").ntbs


SECOND = '[devices.net1]\ntransport = "ntb"\nntb = "ntb0"\ndriver = { ifname = "b" }\ndevice = { ifname = "b" }\n'
FUNCTION = '[devices.net1]\nlink = "pcie0"\nfunction = 0\ndriver = { ifname = "b" }\ndevice = { ifname = "b" }\n'
REFUSED = {
    "an NTB of its own for each device": (TEXT + SECOND, "devices.net1.ntb", "already used by net0"),
    "its function is taken": (TEXT + FUNCTION, "devices.net1.function", "already used by ntb ntb0 on the same link"),
    "no such NTB": (change(('ntb = "ntb0"', 'ntb = "ntb1"')), "devices.net0.ntb", "must be one of ntb0"),
    "no NTB": (change(('ntb = "ntb0"\n', "")), "devices.net0.ntb", "must be one of ntb0"),
    "a link and an NTB": (
        change(('ntb = "ntb0"', 'ntb = "ntb0"\nlink = "pcie0"')),
        "net0.link",
        "transport ntb needs the key ntb",
    ),
    "a function number": (
        change(('ntb = "ntb0"', 'ntb = "ntb0"\nfunction = 1')),
        "net0.function",
        "must be absent for transport ntb",
    ),
    "no such link": (change(('primary = "pcie0"', 'primary = "pcie9"')), "ntbs.ntb0.primary", "pcie0, pcie1"),
    "no such host": (
        change(('host = "soc"', 'host = "sox"')),
        "ntbs.ntb0.primary",
        "must be a link whose endpoint is sox: there is none",
    ),
    "a link that ends elsewhere": (
        change(('root = "host2"\nendpoint = "soc"', 'root = "soc"\nendpoint = "host2"')),
        "ntbs.ntb0.secondary",
        "must be a link whose endpoint is soc: pcie0",
    ),
    "one link twice": (
        change(('secondary = "pcie1"', 'secondary = "pcie0"')),
        "ntbs.ntb0.secondary",
        "must be a link from another host",
    ),
    "two links of one host": (
        change(('root = "host2"', 'root = "host1"')),
        "ntbs.ntb0.secondary",
        "must be a link from another host",
    ),
    "no memory for the window": (
        change(("mw = 64", "mw = 128")),
        "ntbs.ntb0.mw",
        "must be below 128: the window is part of the memory of host host2",
    ),
    "a window of nothing": (change(("mw = 64", "mw = 0")), "ntbs.ntb0.mw", "must be between 1 and 2048 (MiB)"),
    "a bad name": (change(("[ntbs.ntb0]", "[ntbs.NTB]")), "ntbs", "lower-case"),
    "an unknown key": (change(("mw = 64", "mv = 64")), "ntbs.ntb0.mv", "unknown key"),
    "two NTBs on one link": (
        TEXT + '[ntbs.ntb1]\nhost = "soc"\nprimary = "pcie1"\nsecondary = "pcie0"\n',
        "ntbs.ntb1",
        "already used by ntb ntb0",
    ),
}


@pytest.mark.parametrize(("text", "where", "why"), REFUSED.values(), ids=REFUSED)
def test_an_impossible_value_is_refused_in_one_line(text: str, where: str, why: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text, "t.toml")
    line = str(caught.value)
    assert where in line
    assert why in line
    assert "\n" not in line
