"""A refusal of the kernel is an error of the setting that caused it, with the true cause."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.machine import NETNS, MakeNetns, ip
from vnet.errors import ConfigError
from vnet.linux.netns import in_netns
from vnet.system.world import open_world
from vnet.topology import parse

PORT = "devices.net0.driver"
SWITCHES = ("net.ipv6.conf.all.disable_ipv6", "net.ipv6.conf.default.disable_ipv6")


def topology(netns: str, keys: str) -> str:
    return (
        '[hosts.rc]\n[hosts.ep]\n[links.pcie0]\nroot = "rc"\nendpoint = "ep"\n[devices.net0]\nlink = "pcie0"\n'
        f'driver = {{ netns = "{netns}", {keys} }}\ndevice = {{ kind = "memory" }}\n'
    )


async def refusal(netns: str, keys: str) -> str:
    with pytest.raises(ConfigError) as caught:
        async with open_world(parse(topology(netns, keys)), f"t{os.getpid()}-port"):
            pass
    return str(caught.value)


async def test_ipv6_that_is_off_is_named_with_the_address_that_needs_it(netns: MakeNetns) -> None:
    given = netns("off")

    def switch_off() -> None:
        for name in SWITCHES:
            Path("/proc/sys", *name.split(".")).write_text("1", encoding="ascii")

    await in_netns(given, switch_off)
    assert await refusal(given, "addresses = ['198.18.0.1/24', '2001:2::1/64']") == (
        f"topology: {PORT}.addresses = '2001:2::1/64': IPv6 is off in the namespace; "
        f"try there: sysctl -w {SWITCHES[0]}=0 {SWITCHES[1]}=0"
    )


async def test_a_name_that_the_namespace_has_already_is_named(netns: MakeNetns) -> None:
    given = netns("taken")
    ip("-n", given, "link", "add", "veth0", "type", "veth", "peer", "name", "veth1")
    assert await refusal(given, "ifname = 'veth0'") == (
        f"topology: {PORT}.ifname = 'veth0': the namespace has an interface of this name and of another kind"
    )


@pytest.fixture
def stale(privileged: None) -> Iterator[str]:
    """A name in the folder of namespaces that no namespace is behind."""
    path = NETNS / f"t{os.getpid()}-stale"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    yield path.name
    path.unlink()


async def test_a_name_without_a_namespace_is_no_missing_right(stale: str) -> None:
    with pytest.raises(
        OSError, match=f"a name left behind without a network namespace; try: ip netns del {stale}"
    ) as caught:
        async with open_world(parse(topology(stale, "kind = 'tun'")), f"t{os.getpid()}-port"):
            pass
    assert (caught.value.errno, caught.value.filename) == (errno.EINVAL, str(NETNS / stale))
