"""TUN and TAP ports in namespaces, joined by a loop."""

from __future__ import annotations

import subprocess
from ipaddress import ip_interface
from typing import Literal

import pytest
import trio

from drivers.contracts.ports import NO_OFFLOADS, Offloads
from support.machine import MakeNetns
from vnet.linux.netns import netns_command
from vnet.ports.packet.open import PortConfig
from vnet.ports.packet.tap import TapPort
from vnet.ports.packet.tun import TunPort

Kind = Literal["tun", "tap"]
Port = TunPort | TapPort


@pytest.fixture
def names(netns: MakeNetns) -> tuple[str, str]:
    return netns("a"), netns("b")


def config(kind: Kind, netns: str, number: int) -> PortConfig:
    addresses = tuple(ip_interface(a) for a in (f"198.18.0.{number}/24", f"2001:2::{number}/64"))
    return PortConfig(kind=kind, netns=netns, addresses=addresses)


async def go(port: Port, mac: bytes | None = None, offloads: Offloads = NO_OFFLOADS) -> Port:
    await port.start(mac=mac, offloads=offloads, mtu=None)
    port.set_carrier(True)
    return port


async def run(netns: str, *argv: str, check: bool = True) -> str:
    with trio.fail_after(60):
        done = await trio.run_process(
            netns_command(netns, argv), capture_stdout=True, stderr=subprocess.STDOUT, check=False
        )
    assert not check or done.returncode == 0, done.stdout.decode()
    return done.stdout.decode()
