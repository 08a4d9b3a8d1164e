"""Checks of a topology report all problems, and none that follows from an invalid record."""

from __future__ import annotations

from support.topologies import errors, places
from vnet.topology import DEFAULT


def test_a_reference_to_an_invalid_record_is_no_problem() -> None:
    text = DEFAULT.replace('root = "rc"', "root = 3")
    assert places(text) == ["links.pcie0.root"]
    assert places(text.replace("[hosts.ep]", "[hosts.ep]\nmemory = 0")) == ["hosts.ep.memory", "links.pcie0.root"]


def test_a_message_lists_invalid_records_too() -> None:
    text = DEFAULT.replace("[hosts.ep]", "[hosts.ep]\nmemory = 0").replace('root = "rc"', "root = 'x'")
    assert str(errors(text)[1]) == "t.toml: links.pcie0.root = 'x': must be one of rc, ep"


def test_sizes_and_shared_resources_are_checked_beside_other_problems() -> None:
    text = DEFAULT.replace("[hosts.rc]", "[hosts.rc]\nmemory = 1") + "frob = 1\n"
    others = (f"[devices.net{number}]\nlink = 'pcie0'\nfunction = {number}\n" for number in (1, 2))
    assert places(text + "".join(others)) == [
        "hosts.rc.memory",
        "devices.net0.frob",
        "devices.net2.driver.ifname",
        "devices.net2.device.ifname",
    ]


def test_ntbs_are_checked_beside_unknown_links() -> None:
    text = """
    [hosts.a]
    [hosts.b]
    [links.x]
    root = "a"
    endpoint = "b"
    [ntbs.n]
    host = "b"
    primary = "x"
    secondary = "y"
    [ntbs.m]
    host = "c"
    primary = "y"
    secondary = "x"
    [devices]
    """
    assert {error.path: error.value for error in errors(text)} == {
        "ntbs.n.secondary": "y",
        "ntbs.m.primary": "y",
        "ntbs.m.secondary": "x",
    }


def test_names_that_are_no_names_are_all_reported() -> None:
    assert [error.value for error in errors("[hosts.A]\n[hosts.b]\n[hosts.C]\n[links.'']\n[devices]")][:2] == ["A", "C"]


def test_a_message_lists_a_bounded_number_of_names() -> None:
    hosts = "".join(f"[hosts.h{number}]\n" for number in range(1000))
    [error] = errors(f"{hosts}[links.l]\nroot = 'x'\nendpoint = 'h1'\n[devices]\n")
    assert str(error).endswith(", h19 and 980 more")
