"""A running network device from the kernel's side: queues, filters, addresses, carrier, MTU."""

from __future__ import annotations

import itertools
import json
import os
import re
import socket
import struct
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Any

import pytest
import trio
from scapy.layers.inet import ICMP, IP
from scapy.layers.l2 import ARP, Dot1Q, Ether

from drivers.devices.net.device.device import NetPlug
from drivers.devices.net.driver.driver import NetSettings
from support.commands import command
from support.machine import NETNS, RequireTool, ip
from support.native import NEEDS_NATIVE
from support.paths import TOPOLOGIES
from vnet.linux.netns import netns_command, run_in_netns
from vnet.system.world import World, open_world
from vnet.topology import load, parse
from vnet.traffic.kernel import iperf3, iperf3_server, ping

pytestmark = pytest.mark.usefixtures("privileged", "no_leaks")

MULTIQUEUE = (TOPOLOGIES / "multiqueue.toml").read_text()
KINDS = {"tun": MULTIQUEUE.replace('"tap"', '"tun"'), "tap": MULTIQUEUE}
ONE_PAIR = MULTIQUEUE.replace("queue_pairs = 4", "queue_pairs = 1")
OTHER = "02:00:00:00:00:0a"
ETH_P_ALL, SOL_PACKET, PACKET_AUXDATA = 3, 263, 8
PATIENCE = 60.0
_serial = itertools.count(1)


@asynccontextmanager
async def running(text: str) -> AsyncIterator[World]:
    name = f"vc{os.getpid()}-{next(_serial)}"
    async with open_world(parse(text), name) as world:
        await world.wait_up()
        yield world
    assert not list(NETNS.glob(f"{name}-*"))


async def change(world: World, setting: str, value: str = "") -> None:
    await command(world, "device-set", name="net0", setting=setting, value=value)


def ends(world: World) -> tuple[NetSettings, NetPlug]:
    driver, device = world.devices["net0"].driver_end.settings, world.devices["net0"].device_end.settings
    assert isinstance(driver, NetSettings)
    assert isinstance(device, NetPlug)
    return driver, device


async def seen(what: str, look: Any) -> None:
    """Wait until it is so."""
    with trio.move_on_after(PATIENCE):
        while not await trio.to_thread.run_sync(look):  # noqa: ASYNC110  the kernel has no event for it
            await trio.sleep(0.01)
        return
    pytest.fail(f"not within {PATIENCE:g} s: {what}")


def link(world: World, host: str, ifname: str = "vnet0") -> dict[str, Any]:
    [actual] = json.loads(ip("-n", world.netns(host), "-d", "-j", "link", "show", ifname))
    assert isinstance(actual, dict)
    return actual


def vlan_of(frame: Ether) -> int:
    """The kernel removes a tag before a program sees the frame, and keeps it aside."""
    return frame[Dot1Q].vlan if Dot1Q in frame else getattr(frame, "vlan_aside", 0)


@contextmanager
def sniffer(netns: str, ifname: str = "vnet0") -> Iterator[socket.socket]:
    """Every frame of an interface, without making it promiscuous."""
    with run_in_netns(netns, partial(socket.socket, socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))) as raw:
        raw.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
        raw.bind((ifname, ETH_P_ALL))
        raw.setblocking(False)
        yield raw


def frames(raw: socket.socket) -> Iterator[Ether]:
    """Those that came in so far."""
    while True:
        try:
            data, aside, _, (_, _, kind, *_) = raw.recvmsg(2048, 256)
        except BlockingIOError:
            return
        if kind != socket.PACKET_OUTGOING:
            frame = Ether(data)
            # struct tpacket_auxdata: status, lengths, offsets, then the tag.
            frame.vlan_aside = next((struct.unpack_from("<H", body, 16)[0] & 0xFFF for _, _, body in aside), 0)
            yield frame


def vlan_on(netns: str) -> bool:
    """Put VLAN 5 on the interface; False where the kernel has none."""
    try:
        ip("-n", netns, "link", "add", "link", "vnet0", "name", "vnet0.5", "type", "vlan", "id", "5")
    except subprocess.CalledProcessError as error:
        if "not supported" in error.stderr or "Unknown device type" in error.stderr:
            return False
        raise
    return True


@pytest.mark.parametrize("kind", KINDS)
async def test_parallel_streams_spread_over_the_pairs_and_each_flow_keeps_to_its_own(
    kind: str, require_tool: RequireTool
) -> None:
    require_tool("iperf3", "ping")
    async with running(KINDS[kind]) as world, iperf3_server(world.netns("ep")):
        settings, plug = ends(world)
        await seen("four pairs in use", lambda: plug.bound is not None and plug.bound.pairs == 4)
        for reverse in (False, True):
            result = await iperf3(
                world.netns("rc"), "198.18.0.2", seconds=2, udp=False, bitrate="0", streams=8, reverse=reverse
            )
            assert result.complete
        used = [pair for pair in plug.figures.pairs if pair.received.packets > 20 and pair.sent.packets > 20]
        assert len(used) > 1, "eight streams went over one pair"
        for pair in plug.figures.pairs:
            assert not pair.received.drops
            assert set(pair.sent.drops) <= {"filter_multicast", "filter_vlan"}

        def crossed() -> bool:
            """Whether the device received all that the driver sent, except background traffic."""
            sent = sum(pair.sent.packets for pair in settings.figures.pairs)
            return sent - sum(pair.received.packets for pair in plug.figures.pairs) < 20

        await seen("what was sent has crossed", crossed)
        for count in ("1", "3", "all"):
            await change(world, "pairs", count)
            for host, address in (("rc", "198.18.0.2"), ("ep", "198.18.0.1"), ("rc", "2001:2::2")):
                actual = await ping(world.netns(host), address, count=5)
                assert (actual.sent, actual.lost) == (5, 0)


async def test_the_interface_of_the_driver_is_followed_and_what_is_not_for_it_is_filtered(
    require_tool: RequireTool,
) -> None:
    require_tool("ping", "ip")
    async with running(ONE_PAIR) as world:
        _, plug = ends(world)
        bound = plug.bound
        assert bound is not None
        rc, ep = world.netns("rc"), world.netns("ep")
        assert (await ping(rc, "198.18.0.2", count=2)).lost == 0
        drops = plug.figures.pairs[0].sent.drops

        ip("-n", rc, "link", "set", "vnet0", "promisc", "on")
        await seen("promiscuous", lambda: bound.reception.promisc)
        ip("-n", rc, "link", "set", "vnet0", "promisc", "off")
        await seen("not promiscuous", lambda: not bound.reception.promisc)

        stranger = Ether(dst="02:00:00:00:00:77", src="02:00:00:00:00:02") / IP(dst="198.18.0.77") / ICMP()
        tagged = Ether(dst="02:00:00:00:00:01", src="02:00:00:00:00:02") / Dot1Q(vlan=5) / IP() / ICMP()
        with sniffer(rc) as inside, sniffer(ep) as outside:
            for each in (stranger, tagged):
                outside.send(bytes(each))
            await seen("strangers filtered", lambda: drops.get("filter_unicast", 0) >= 1)
            await seen("a VLAN without an interface is filtered", lambda: drops.get("filter_vlan", 0) >= 1)
            got = list(frames(inside))
            assert not [f for f in got if f.dst == stranger.dst or vlan_of(f)]

            await change(world, "vlans", "5")
            await seen("the VLAN let in", lambda: set(bound.reception.vlans or ()) == {0, 5})
            outside.send(bytes(tagged))
            await seen("a frame of the VLAN", lambda: any(vlan_of(f) == 5 for f in frames(inside)))
            await change(world, "vlans", "none")
            before = drops["filter_vlan"]
            outside.send(bytes(tagged))
            await seen("the VLAN filtered again", lambda: drops["filter_vlan"] > before)
            if vlan_on(rc):
                await seen("the VLAN of an interface let in", lambda: set(bound.reception.vlans or ()) == {0, 5})
                ip("-n", rc, "link", "del", "vnet0.5")
                await seen("the VLAN not let in", lambda: set(bound.reception.vlans or ()) == {0})

        with sniffer(ep) as outside:
            ip("-n", rc, "link", "set", "vnet0", "address", OTHER)
            await seen("another address", lambda: bound.mac.hex(":") == OTHER)
            await seen("announced", lambda: any(f.src == OTHER and ARP in f for f in frames(outside)))
        for host, address in (("rc", "198.18.0.2"), ("ep", "198.18.0.1"), ("ep", "2001:2::1")):
            assert (await ping(world.netns(host), address, count=2)).lost == 0
        world.links["pcie0"].bring_down()
        world.links["pcie0"].bring_up()
        await world.wait_up()
        assert link(world, "rc")["address"] == OTHER
        await seen("the same address after a reset", lambda: bound.mac.hex(":") == OTHER)


def link_mode(world: World, host: str) -> list[str]:
    """Speed and duplex mode as ethtool shows them."""
    argv = netns_command(world.netns(host), ["ethtool", "vnet0"])
    shown = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    return re.findall(r"(?:Speed|Duplex): (\S+)", shown)


@pytest.mark.parametrize(
    ("given", "shown"),
    [('speed = 40000\nduplex = "half"', ["40000Mb/s", "Half"]), ("", ["Unknown!", "Unknown!"])],
    ids=["given", "unknown"],
)
@pytest.mark.parametrize("kind", ["tun", "tap"])
async def test_ethtool_shows_the_devices_speed_and_duplex_at_both_ends(
    require_tool: RequireTool, kind: str, given: str, shown: list[str]
) -> None:
    require_tool("ethtool")
    text = ONE_PAIR.replace('"tap"', f'"{kind}"')
    text = text.replace("speed = 25000", given).replace('duplex = "full"', "")
    async with running(text) as world:
        for host in ("rc", "ep"):
            assert await trio.to_thread.run_sync(link_mode, world, host) == shown


async def test_carrier_mtu_and_an_announcement_arrive_at_the_drivers_interface(require_tool: RequireTool) -> None:
    require_tool("ping", "ip")
    async with running(ONE_PAIR) as world:
        settings, _ = ends(world)
        assert (settings.speed, settings.duplex.name) == (25000, "FULL")
        await change(world, "carrier", "off")
        for host in ("rc", "ep"):
            await seen("no carrier", lambda: "NO-CARRIER" in link(world, host)["flags"])  # noqa: B023
        await change(world, "carrier", "on")
        for host in ("rc", "ep"):
            await seen("carrier", lambda: "NO-CARRIER" not in link(world, host)["flags"])  # noqa: B023
        assert (await ping(world.netns("rc"), "198.18.0.2", count=2)).lost == 0
        for mtu in (1400, 9000):
            await change(world, "mtu", str(mtu))
            for host in ("rc", "ep"):
                await seen("the MTU", lambda: link(world, host)["mtu"] == mtu)  # noqa: B023
            await world.wait_up()
            assert (await ping(world.netns("rc"), "198.18.0.2", count=2, size=mtu - 28)).lost == 0
        with sniffer(world.netns("ep")) as outside:
            await change(world, "announce")
            events: set[str] = set()

            def announced() -> bool:
                for f in frames(outside):
                    if ARP in f and f.dst == "ff:ff:ff:ff:ff:ff" and f[ARP].psrc == f[ARP].pdst:
                        events.add(f[ARP].psrc)
                    elif f.dst == "33:33:00:00:00:01":
                        events.add(f.payload.src)
                return {"198.18.0.1", "2001:2::1"} <= events

            await seen("every address announced", announced)
        await seen("acknowledged", lambda: not world.devices["net0"].vhost.config[6] & 2)


@NEEDS_NATIVE
@pytest.mark.parametrize(("file", "place"), [("multiqueue", "rc"), ("vhost_user", "box")])
async def test_frames_cross_in_c_while_python_waits_and_every_counter_adds_up(
    file: str, place: str, require_tool: RequireTool
) -> None:
    """Over vhost-user each side has shuttles of its own, which notify each other by events."""
    require_tool("ping", "ip")
    text = (TOPOLOGIES / f"{file}.toml").read_text().replace("queue_pairs = 4", "queue_pairs = 1")
    async with running(text) as world:
        assert (await ping(world.netns(place), "198.18.0.2", count=20, interval=0.05)).lost == 0
        assert world.shuttles is not None
        assert world.shuttles.carried >= 20
        settings, plug = ends(world)
        near, far = settings.port.statistics(), plug.port.statistics()
        driver, device = settings.figures.pairs[0], plug.figures.pairs[0]
        for received, sent, reader, writer in (
            (near.rx_packets, far.tx_packets, driver.sent, device.received),
            (far.rx_packets, near.tx_packets, device.sent, driver.received),
        ):
            assert received == reader.packets + reader.drops.total()
            assert reader.packets == writer.packets + writer.drops.total()
            assert writer.packets == sent
        for queue, own in zip(world.devices["net0"].driver_queues, world.devices["net0"].device_queues, strict=True):
            assert queue.statistics().chains - queue.statistics().returned == queue.ring.state().in_flight
            assert own.statistics().returned >= queue.statistics().returned


def test_the_example_is_what_its_comment_says() -> None:
    topology = load(TOPOLOGIES / "multiqueue.toml")
    assert topology.devices["net0"].queue_count == ("queue_pairs", 9)
