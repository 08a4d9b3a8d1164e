"""Every mix of TUN, TAP and memory at the two ends of a running device carries IPv4 and IPv6 both ways."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import attrs
import pytest
import trio
from scapy.layers.inet import ICMP, IP
from scapy.layers.inet6 import ICMPv6EchoReply, ICMPv6EchoRequest, ICMPv6ND_NA, ICMPv6ND_NS, ICMPv6NDOptDstLLAddr, IPv6
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet

from support.machine import NETNS, MakeNetns, RequireTool, ip
from vnet.ports.packet.memory import MemoryPort
from vnet.ports.packet.tun import TunPort
from vnet.system.world import World, open_world
from vnet.topology import parse
from vnet.traffic.kernel import ping

pytestmark = pytest.mark.usefixtures("privileged", "no_leaks")

MIXES = [mix for mix in itertools.product(("tun", "tap", "memory"), repeat=2) if mix != ("memory", "memory")]
SIDES = ("driver", "device")
HOSTS = ("rc", "ep")
NAMED = ("02:00:00:00:00:33", "02:00:00:00:00:55")
MADE = ("02:00:00:00:00:01", "02:00:00:00:00:02")
_serial = itertools.count(1)


@asynccontextmanager
async def running(kinds: tuple[str, str], named: tuple[str, ...] = (), mode: str = "direct") -> AsyncIterator[World]:
    name = f"vx{os.getpid()}-{next(_serial)}"
    lines = [f'{key} = "{mac}"' for key, mac in zip(("mac", "peer_mac"), named, strict=False)]
    for number, (side, kind) in enumerate(zip(SIDES, kinds, strict=True), 1):
        lines.append(
            f'{side} = {{ kind = "{kind}", addresses = ["198.18.0.{number}/24", "2001:2::{number}/64"] }}'
            if kind != "memory"
            else f'{side} = {{ kind = "memory" }}'
        )
    text = "\n".join(
        ("[hosts.rc]", "[hosts.ep]", "[links.pcie0]", 'root = "rc"', 'endpoint = "ep"', "[devices.net0]",
         'link = "pcie0"', f'mode = "{mode}"', *lines)
    )  # fmt: skip
    async with open_world(parse(text, "test"), name) as world:
        await world.wait_up()
        yield world
    assert not list(NETNS.glob(f"{name}-*"))


@attrs.define
class Station:
    """A host behind a memory port, made with scapy: it answers for its addresses, and asks."""

    port: MemoryPort
    number: int
    mac: str
    answers: list[str] = attrs.field(factory=list)

    @property
    def addresses(self) -> tuple[str, str]:
        return f"198.18.0.{self.number}", f"2001:2::{self.number}"

    async def run(self) -> None:
        while True:
            _, frame = await self.port.receive()
            if (reply := self.reply(Ether(frame))) is not None:
                self.port.inject(bytes(Ether(src=self.mac, dst=frame[6:12].hex(":")) / reply))

    def reply(self, frame: Packet) -> Packet | None:
        ipv4, ipv6 = self.addresses
        if ARP in frame and frame[ARP].op == 1 and frame[ARP].pdst == ipv4:
            return ARP(op=2, hwsrc=self.mac, psrc=ipv4, hwdst=frame[ARP].hwsrc, pdst=frame[ARP].psrc)
        if ICMPv6ND_NS in frame and frame[ICMPv6ND_NS].tgt == ipv6:
            output = ICMPv6ND_NA(R=0, S=1, O=1, tgt=ipv6) / ICMPv6NDOptDstLLAddr(lladdr=self.mac)
            return IPv6(src=ipv6, dst=frame[IPv6].src, hlim=255) / output
        if ICMP in frame and frame[IP].dst == ipv4 and frame[ICMP].type == 8:
            return IP(src=ipv4, dst=frame[IP].src) / ICMP(type=0, id=frame[ICMP].id, seq=frame[ICMP].seq) / frame.load
        if ICMPv6EchoRequest in frame and frame[IPv6].dst == ipv6:
            requests = frame[ICMPv6EchoRequest]
            echo = ICMPv6EchoReply(id=requests.id, seq=requests.seq, data=requests.data)
            return IPv6(src=ipv6, dst=frame[IPv6].src) / echo
        if ICMP in frame and frame[ICMP].type == 0 and frame[IP].dst == ipv4:
            self.answers.append(frame[IP].src)
        if ICMPv6EchoReply in frame and frame[IPv6].dst == ipv6:
            self.answers.append(frame[IPv6].src)
        return None

    async def ping(self, to: str, mac: str) -> None:
        """Return when ``to`` has answered. Raises trio.TooSlowError."""
        head = Ether(src=self.mac, dst=mac)
        ipv4, ipv6 = self.addresses
        echo = IP(src=ipv4, dst=to) / ICMP() if "." in to else IPv6(src=ipv6, dst=to) / ICMPv6EchoRequest(data=b"ping")
        with trio.fail_after(10):
            self.port.inject(bytes(head / echo / b"ping"))
            while to not in self.answers:  # noqa: ASYNC110  the station's task appends
                await trio.sleep(0.01)


async def answers(world: World, host: str, to: str) -> bool:
    # An answer that comes too late for the first request, on a busy machine, is none to the others.
    return (await ping(f"{world.name}-{host}", to, count=3)).lost < 3


async def all_pings(world: World, kinds: tuple[str, str], macs: tuple[str, ...]) -> None:
    async with trio.open_nursery() as nursery:
        stations = {}
        for number, side in enumerate(SIDES):
            if kinds[number] == "memory":
                station = Station(world.memory_port("net0", side), number + 1, macs[number])
                stations[number] = station
                nursery.start_soon(station.run)
        for here, there in ((0, 1), (1, 0)):
            for to in (f"198.18.0.{there + 1}", f"2001:2::{there + 1}"):
                if here in stations:
                    await stations[here].ping(to, macs[there])
                else:
                    assert await answers(world, HOSTS[here], to), f"{HOSTS[here]} to {to}"
        nursery.cancel_scope.cancel()


def mac_of(world: World, host: str) -> str:
    [actual] = json.loads(ip("-n", f"{world.name}-{host}", "-j", "link", "show", "vnet0"))
    return str(actual["address"])


@pytest.mark.parametrize("named", [(), NAMED], ids=["no MAC named", "both named"])
@pytest.mark.parametrize("kinds", MIXES, ids="-".join)
async def test_both_families_cross_both_ways(
    kinds: tuple[str, str], named: tuple[str, ...], require_tool: RequireTool
) -> None:
    require_tool("ping", "ip")
    async with running(kinds, named) as world:
        macs = named or MADE
        for host, kind, mac in zip(HOSTS, kinds, macs, strict=True):
            if kind == "tap":
                assert mac_of(world, host) == mac
        await all_pings(world, kinds, macs)


@pytest.mark.parametrize("kinds", [("tun", "tap"), ("tap", "tun")], ids="-".join)
async def test_a_mediated_device_carries_them_too(kinds: tuple[str, str], require_tool: RequireTool) -> None:
    require_tool("ping")
    async with running(kinds, mode="mediated") as world:
        await all_pings(world, kinds, MADE)


@pytest.mark.parametrize("named", [(), NAMED], ids=["no MAC named", "both named"])
async def test_a_station_with_another_mac_is_found_and_so_is_one_behind_a_bridge(
    named: tuple[str, ...], netns: MakeNetns, require_tool: RequireTool
) -> None:
    require_tool("ping", "ip")
    other = netns("c")
    async with running(("tun", "tap"), named) as world:
        ep = f"{world.name}-ep"
        await all_pings(world, ("tun", "tap"), named or MADE)
        await trio.to_thread.run_sync(partial(ip, "-n", ep, "link", "set", "vnet0", "address", "02:00:00:00:00:aa"))
        for here, there in (("198.18.0.1", "198.18.0.2"), ("2001:2::1", "2001:2::2")):
            assert await answers(world, "ep", here)
            assert await answers(world, "rc", there)

        def bridge() -> None:
            ip("-n", ep, "link", "add", "br0", "type", "bridge")
            ip("-n", ep, "link", "set", "vnet0", "master", "br0")
            ip("-n", ep, "link", "add", "v0", "type", "veth", "peer", "name", "v0", "netns", other)
            ip("-n", ep, "link", "set", "v0", "master", "br0", "up")
            ip("-n", ep, "link", "set", "br0", "up")
            ip("-n", other, "addr", "add", "2001:2::3/64", "dev", "v0", "nodad")
            ip("-n", other, "addr", "add", "198.18.0.3/24", "dev", "v0")
            ip("-n", other, "link", "set", "v0", "up")

        await trio.to_thread.run_sync(bridge)
        for to in ("198.18.0.3", "2001:2::3"):
            assert await answers(world, "rc", to)
        device = world.devices["net0"].driver_end
        port = device.settings.port  # type: ignore[attr-defined]
        assert isinstance(port, TunPort)
        before = port.statistics().drops.get("no_neighbour", 0)
        unanswered = ["ip", "netns", "exec", f"{world.name}-rc", "ping", "-c1", "-W1", "198.18.0.77"]
        done = await trio.run_process(unanswered, check=False, capture_stdout=True)
        assert done.returncode == 1
        with trio.fail_after(10):
            while port.statistics().drops.get("no_neighbour", 0) <= before:  # noqa: ASYNC110  nothing tells
                await trio.sleep(0.05)


async def test_a_probe_for_the_address_of_a_tun_is_answered(require_tool: RequireTool) -> None:
    """Linux then marks the address as a duplicate, and takes it away from use."""
    require_tool("ip", "busybox")
    async with running(("tap", "tun")) as world:
        rc = f"{world.name}-rc"
        probe = ["ip", "netns", "exec", rc, "busybox", "arping", "-D", "-q", "-c", "2", "-w", "5", "-I", "vnet0"]
        for to, taken in (("198.18.0.2", 1), ("198.18.0.9", 0)):
            assert (await trio.run_process([*probe, to], check=False, capture_stdout=True)).returncode == taken

        def duplicate() -> None:
            ip("netns", "exec", rc, "sysctl", "-qw", "net.ipv6.conf.vnet0.accept_dad=1")
            ip("-n", rc, "addr", "add", "2001:2::2/64", "dev", "vnet0")

        await trio.to_thread.run_sync(duplicate)
        shown = partial(ip, "-n", rc, "-6", "addr", "show", "dev", "vnet0", "to", "2001:2::2/128")
        with trio.fail_after(15):
            while "dadfailed" not in (output := await trio.to_thread.run_sync(shown)):
                assert "tentative" in output, output
                await trio.sleep(0.1)
