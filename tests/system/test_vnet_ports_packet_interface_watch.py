"""Ports follow their interfaces: new names, other namespaces, deletion, addresses that come and go."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from ipaddress import ip_address
from typing import Literal

import attrs
import pytest
import trio

from drivers.contracts.events import Events, Reporter, Source
from drivers.contracts.ports import NO_OFFLOADS
from drivers.errors import PortGone
from support.machine import MakeNetns, ip
from vnet.linux.netns import create_netns, has_netns, remove_netns
from vnet.ports.packet.interface_watch import Watches, open_watches
from vnet.ports.packet.open import PortConfig, open_packet_port
from vnet.ports.packet.tap import TapPort
from vnet.ports.packet.tun import TunPort

Kind = Literal["tun", "tap"]
Port = TunPort | TapPort

pytestmark = pytest.mark.usefixtures("privileged", "no_leaks")


@attrs.define
class Followed:
    """A live port, and what its watches reported."""

    port: Port
    netns: str
    watches: Watches
    lines: list[str]

    def has(self, address: str) -> bool:
        return ip_address(address).packed in self.port.addresses

    @property
    def namespaces(self) -> int:
        return len(self.watches._by_namespace)


@asynccontextmanager
async def followed(kind: Kind, netns: str) -> AsyncIterator[Followed]:
    lines: list[str] = []
    config = PortConfig(kind=kind, netns=netns, mtu=1500)
    reporter = Reporter(Events(lifecycle=lambda event: lines.append(attrs.asdict(event)["why"])), Source())
    async with open_watches(reporter) as watches, open_packet_port(config, watches=watches) as port:
        await start(port)
        yield Followed(port, netns, watches, lines)


async def start(port: Port, mtu: int | None = None) -> None:
    await port.start(mac=b"\x02\0\0\0\0\x0a", offloads=NO_OFFLOADS, mtu=mtu)
    port.set_carrier(True)


def run(*argv: str, given: str = "") -> None:
    """While it runs, no task does."""
    subprocess.run(argv, input=given.encode(), check=True)


async def becomes(true: Callable[[], bool]) -> None:
    with trio.fail_after(60):
        while not true():  # noqa: ASYNC110  the kernel's message arrives when it does
            await trio.sleep(0.005)


@pytest.mark.parametrize("kind", ["tun", "tap"])
async def test_a_renamed_interface_is_the_same_interface(netns: MakeNetns, kind: Kind) -> None:
    name = netns("a")
    async with followed(kind, name) as this:
        ip("-n", name, "link", "set", "vnet0", "name", "eth1")
        ip("-n", name, "addr", "add", "198.18.0.1/24", "dev", "eth1")
        await becomes(lambda: this.port.ifname == "eth1" and this.has("198.18.0.1"))
        this.port.stop()
        ip("-n", name, "addr", "add", "198.18.9.1/24", "dev", "eth1")
        ip("-n", name, "link", "set", "eth1", "name", "eth2")
        await start(this.port, mtu=1400)
        assert this.has("198.18.9.1"), "known as soon as it is started"
        assert "mtu 1400" in ip("-n", name, "link", "show", "eth2")
        await becomes(lambda: this.port.liveness.live)
        await this.port.announce()
        ip("-n", name, "addr", "add", "2001:2::1/64", "nodad", "dev", "eth2")
        ip("-n", name, "addr", "del", "198.18.0.1/24", "dev", "eth2")
        await becomes(lambda: this.has("2001:2::1") and not this.has("198.18.0.1"))
        assert this.has("198.18.9.1")
        assert this.lines == []


@pytest.mark.parametrize("kind", ["tun", "tap"])
async def test_an_interface_is_followed_to_other_namespaces_which_are_left_alone_after_it(
    netns: MakeNetns, kind: Kind
) -> None:
    name, box = netns("a"), netns("box")
    async with followed(kind, name) as this:
        ip("-n", name, "link", "set", "vnet0", "netns", box)
        ip("-n", box, "link", "set", "vnet0", "up")
        ip("-n", box, "addr", "add", "198.18.0.9/24", "dev", "vnet0")
        await becomes(lambda: this.port.liveness.live and this.has("198.18.0.9"))
        assert this.namespaces == 1
        await start(this.port, mtu=1300)
        assert "mtu 1300" in ip("-n", box, "link", "show", "vnet0")
        ip("-n", box, "link", "set", "vnet0", "down")
        await becomes(lambda: not this.port.liveness.live)
        ip("-n", box, "link", "set", "vnet0", "netns", name, "name", "eth9")
        ip("-n", name, "link", "set", "eth9", "up")
        await becomes(lambda: this.port.liveness.live and this.port.ifname == "eth9" and not this.has("198.18.0.9"))
        assert this.namespaces == 1
        await start(this.port)
        assert this.lines == []
    assert "eth9" not in ip("-n", name, "link")


async def test_a_namespace_whose_name_was_deleted_is_still_the_interfaces(netns: MakeNetns) -> None:
    name = netns("a")
    async with followed("tun", name) as this:
        remove_netns(name)
        await start(this.port, mtu=1400)
        await this.port.announce()
        await becomes(lambda: this.port.liveness.live)
        assert this.lines == []


async def test_another_namespace_with_the_name_of_ours_stays(netns: MakeNetns) -> None:
    name = netns("a")
    remove_netns(name)
    async with followed("tun", name) as this:
        remove_netns(name)
        create_netns(name)
        await start(this.port)
    assert has_netns(name)


@pytest.mark.hostile("N08")
@pytest.mark.parametrize("kind", ["tun", "tap"])
async def test_a_deleted_interface_is_reported_once_and_every_waiter_hears_of_it(netns: MakeNetns, kind: Kind) -> None:
    name = netns("a")
    async with followed(kind, name) as this:
        messages: list[str] = []
        why = f"vnet0 in {name} was deleted"

        async def wait() -> None:
            try:
                while True:
                    await this.port.wait_state(this.port.state)
            except PortGone as error:
                messages.append(str(error))

        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(wait)
                ip("-n", name, "link", "del", "vnet0")
        await wait()
        for use in (this.port.announce, lambda: start(this.port)):
            with pytest.raises(PortGone):
                await use()
        this.port.stop()
        this.port.set_carrier(True)
        assert (messages, this.lines, this.namespaces) == ([why] * 2, [why], 0)


async def test_lost_messages_cost_one_reading_of_the_namespace_and_no_state(netns: MakeNetns) -> None:
    name = netns("a")
    async with followed("tap", name) as this:
        [watch] = this.watches._by_namespace.values()
        watch.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # which overflows: nothing is read meanwhile
        lines = [f"link set lo mtu {mtu}" for mtu in range(20000, 20100)]
        lines += ["link set vnet0 promisc on", "addr add 198.18.0.1/24 dev vnet0"]
        run("ip", "-n", name, "-batch", "-", given="\n".join(lines))
        await becomes(lambda: this.port.state.promisc and this.has("198.18.0.1"))
        assert watch._table.readings >= 2


async def test_a_macvlan_elsewhere_makes_its_interface_promiscuous_without_a_message(netns: MakeNetns) -> None:
    name, box = netns("a"), netns("box")
    async with followed("tap", name) as this, trio.open_nursery() as nursery:
        ip("-n", name, "link", "add", "mv0", "link", "vnet0", "type", "macvlan", "mode", "bridge")
        ip("-n", name, "link", "set", "mv0", "netns", box)
        await becomes(lambda: this.port.liveness.live and not this.port.state.promisc)
        nursery.start_soon(this.port.wait_state, this.port.state)
        ip("-n", box, "link", "set", "mv0", "up")
        await becomes(lambda: this.port.state.promisc)
