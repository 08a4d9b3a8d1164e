"""Real TUN and TAP interfaces in namespaces, joined by nothing but a loop: real ping, real TCP, real deletion."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path
from typing import Any, Literal

import attrs
import pytest
import trio

from drivers.contracts.ports import ALL_OFFLOADS, ETH_HLEN, HEADER_SIZE, NO_OFFLOADS, Offloads
from drivers.errors import PortGone
from support.machine import NETNS, MakeNetns, RequireTool, ip
from vnet.errors import PrivilegeError
from vnet.linux.netns import Route, interface_statistics, netns_command, open_netns, run_in_netns
from vnet.ports.packet.open import PortConfig, open_packet_port
from vnet.ports.packet.tap import TapPort
from vnet.ports.packet.tun import TunPort
from vnet.traffic.kernel import ping

Kind = Literal["tun", "tap"]
Port = TunPort | TapPort

pytestmark = pytest.mark.usefixtures("privileged", "no_leaks")

MACS = (b"\x02\0\0\0\0\x0a", b"\x02\0\0\0\0\x0b")
KINDS: list[tuple[Kind, Kind]] = [("tun", "tun"), ("tun", "tap"), ("tap", "tap")]


@pytest.fixture
def names(netns: MakeNetns) -> tuple[str, str]:
    return netns("a"), netns("b")


def config(kind: Kind, netns: str, number: int) -> PortConfig:
    addresses = tuple(ip_interface(a) for a in (f"198.18.0.{number}/24", f"2001:2::{number}/64"))
    return PortConfig(kind=kind, netns=netns, addresses=addresses)


@attrs.define
class Bridge:
    """Two ports, and what went from one to the other."""

    a: Port
    b: Port
    largest: int = 0
    flags: int = 0

    async def forward(self, source: Port, target: Port) -> None:
        view = memoryview(bytearray(70000))
        while True:
            for _ in range(64):
                size = source.recv_into([view])
                if not size:
                    await source.wait_readable()
                    break
                self.largest = max(self.largest, size - HEADER_SIZE)
                self.flags |= view[0]
                while not target.send(bytes(view[:26]), [view[26:size]]):
                    await target.wait_writable()
            await trio.lowlevel.checkpoint()

    def drops(self) -> dict[str, int]:
        return {**self.a.statistics().drops, **self.b.statistics().drops}


async def go(port: Port, mac: bytes | None = None, offloads: Offloads = NO_OFFLOADS) -> Port:
    await port.start(mac=mac, offloads=offloads, mtu=None)
    port.set_carrier(True)
    return port


@asynccontextmanager
async def bridged(names: tuple[str, str], kinds: tuple[Kind, Kind], offloads: Offloads) -> AsyncIterator[Bridge]:
    configs = [config(kind, name, number) for kind, name, number in zip(kinds, names, (1, 2), strict=True)]
    async with open_packet_port(configs[0]) as a, open_packet_port(configs[1]) as b:
        bridge = Bridge(a, b)
        for port, mac in zip((a, b), MACS, strict=True):
            await go(port, mac, offloads & a.caps & b.caps)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bridge.forward, a, b)
            nursery.start_soon(bridge.forward, b, a)
            yield bridge
            nursery.cancel_scope.cancel()


async def run(netns: str, *argv: str, check: bool = True) -> str:
    with trio.fail_after(60):
        done = await trio.run_process(
            netns_command(netns, argv), capture_stdout=True, stderr=subprocess.STDOUT, check=False
        )
    assert not check or done.returncode == 0, done.stdout.decode()
    return done.stdout.decode()


def link(netns: str) -> dict[str, object]:
    [found] = json.loads(ip("-n", netns, "-j", "link", "show", "vnet0"))
    assert isinstance(found, dict)
    return found


# Traffic


@pytest.mark.parametrize("kinds", KINDS, ids="-".join)
async def test_ping_crosses_at_once_in_both_families_and_directions(
    names: tuple[str, str], kinds: tuple[Kind, Kind], require_tool: RequireTool
) -> None:
    require_tool("ping")
    async with bridged(names, kinds, ALL_OFFLOADS) as bridge:
        for netns, number in ((names[0], 2), (names[1], 1)):
            for address in (f"198.18.0.{number}", f"2001:2::{number}"):
                for size in (56, 60000):
                    assert (await ping(netns, address, count=3, size=size)).failure() == ""
        assert bridge.drops() == {}
        stats = bridge.a.statistics()
        assert stats.tx_packets == bridge.b.statistics().rx_packets


async def test_the_link_local_address_the_kernel_gave_is_answered_for(
    names: tuple[str, str], require_tool: RequireTool
) -> None:
    require_tool("ping")
    async with bridged(names, ("tun", "tap"), ALL_OFFLOADS):
        [found] = json.loads(ip("-n", names[0], "-6", "-j", "addr", "show", "vnet0", "scope", "link"))
        [address] = [entry["local"] for entry in found["addr_info"] if entry]
        assert (await ping(names[1], f"{address}%vnet0", count=2)).failure() == ""


async def test_a_tun_is_still_there_when_a_kernel_asks_again(names: tuple[str, str], require_tool: RequireTool) -> None:
    """Linux asks a known neighbour by unicast from time to time, by ARP and by solicitation."""
    require_tool("ping")
    async with bridged(names, ("tun", "tap"), ALL_OFFLOADS):
        for address in ("198.18.0.1", "2001:2::1"):
            await run(names[1], "ping", "-c2", "-i0.05", "-W2", address)
            ip("-n", names[1], "neigh", "change", address, "dev", "vnet0", "nud", "probe")
            with trio.fail_after(60):
                while "REACHABLE" not in ip(  # noqa: ASYNC110  the kernel tells nobody
                    "-n", names[1], "neigh", "show", address
                ):
                    await trio.sleep(0.05)


@pytest.mark.parametrize("kinds", KINDS, ids="-".join)
@pytest.mark.parametrize("offloads", [ALL_OFFLOADS, Offloads(csum=True), NO_OFFLOADS], ids=["gso", "csum", "none"])
async def test_tcp_crosses_with_what_was_agreed_and_nothing_more(
    names: tuple[str, str], kinds: tuple[Kind, Kind], offloads: Offloads, require_tool: RequireTool
) -> None:
    require_tool("iperf3")
    async with bridged(names, kinds, offloads) as bridge, trio.open_nursery() as nursery:
        server = netns_command(names[1], ["iperf3", "-s", "--forceflush"])
        process = await nursery.start(partial(trio.run_process, server, stdout=subprocess.PIPE, check=False))
        assert process.stdout is not None
        while b"listening" not in await process.stdout.receive_some():
            pass
        drain = partial(discard, process.stdout)
        nursery.start_soon(drain)
        for address in ("198.18.0.2", "2001:2::2"):
            for direction in ([], ["-R"]):
                report = await iperf3(names[0], "-n", "20M", "-c", address, *direction)
                assert report["end"].get("sum_received", {}).get("bytes", 0) >= 15_000_000, report
        process.terminate()
        assert (bridge.largest > 20000) == offloads.gso
        assert bridge.largest <= 1514 or offloads.gso
        assert bridge.flags == (1 if offloads.csum else 0)
        assert bridge.drops() == {}


async def iperf3(netns: str, *argv: str) -> Any:
    """The client's report. A server that is not done with the client before it is asked again, for a minute."""
    deadline = trio.current_time() + 60
    while "error" in (report := json.loads(await run(netns, "iperf3", "-J", *argv, check=False))):
        assert trio.current_time() < deadline, report["error"]
        await trio.sleep(0.1)
    return report


async def discard(stream: trio.abc.ReceiveStream) -> None:
    async for _ in stream:
        pass


@pytest.mark.hostile("N04")
@pytest.mark.parametrize(
    "header",
    [(1, 0, 0, 0, 2000, 16, 0), (1, 1, 0, 0, 34, 16, 0), (1, 77, 0, 1448, 34, 16, 0), (0, 0, 2000, 0, 0, 0, 0)],
    ids=["checksum behind the end", "segments of no size", "unknown gso type", "header longer than the frame"],
)
@pytest.mark.parametrize("kind", ["tun", "tap"])
async def test_a_header_the_kernel_does_not_take_costs_its_frame_only(
    names: tuple[str, str], kind: Kind, header: tuple[int, ...]
) -> None:
    packet = b"\x45\0\0\x3c" + bytes(5) + b"\x11" + bytes(2) + bytes([198, 18, 0, 9, 198, 18, 0, 1]) + bytes(40)
    ethernet = MACS[0] + MACS[1] + b"\x08\x00"
    async with open_packet_port(config(kind, names[0], 1)) as port:
        await go(port, MACS[0], port.caps)
        head = struct.pack("<BBHHHHH", *header) + ethernet
        assert port.send(head, [memoryview(packet)])
        assert port.send(bytes(HEADER_SIZE) + ethernet, [memoryview(packet)])
        stats = port.statistics()
        assert stats.drops == {"refused": 1}
        assert (stats.tx_packets, stats.tx_bytes) == (1, ETH_HLEN + len(packet))


@pytest.mark.hostile("N05")
async def test_a_frame_without_a_packet_is_refused(names: tuple[str, str]) -> None:
    async with open_packet_port(config("tun", names[0], 1)) as port:
        await go(port, MACS[0])
        assert port.send(bytes(HEADER_SIZE) + MACS[0] + MACS[1] + b"\x08\x00", [])
        assert port.statistics().drops == {"refused": 1}


# The interface


@pytest.mark.hostile("N08")
@pytest.mark.parametrize("kind", ["tun", "tap"])
async def test_a_deleted_interface_ends_a_waiting_reader_and_every_writer(names: tuple[str, str], kind: Kind) -> None:
    async with open_packet_port(config(kind, names[0], 1)) as port:
        await go(port, MACS[0])
        view = memoryview(bytearray(70000))
        turns = 0

        async def read() -> None:
            nonlocal turns
            while True:
                turns += 1
                if not port.recv_into([view]):
                    await port.wait_readable()

        async def read_until_gone() -> None:
            with pytest.raises(PortGone):
                await read()

        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(read_until_gone)
                await trio.sleep(0.05)
                ip("-n", names[0], "link", "del", "vnet0")
        assert turns < 50
        head = bytes(HEADER_SIZE) + MACS[0] + MACS[1] + b"\x08\x00"
        with pytest.raises(PortGone):
            port.send(head, [memoryview(bytes(40))])
        with pytest.raises(PortGone):
            await go(port)
        port.stop()


@pytest.mark.hostile("N08")
async def test_an_interface_that_is_down_drops_and_works_again_when_it_is_up(names: tuple[str, str]) -> None:
    head = bytes(HEADER_SIZE) + MACS[0] + MACS[1] + b"\x08\x00"
    packet = memoryview(b"\x45" + bytes(39))
    async with open_packet_port(config("tun", names[0], 1)) as port:
        await go(port, MACS[0])
        ip("-n", names[0], "link", "set", "vnet0", "down")
        assert port.send(head, [packet])
        assert port.statistics().drops == {"interface_down": 1}
        ip("-n", names[0], "link", "set", "vnet0", "up")
        assert port.send(head, [packet])
        assert port.statistics().drops == {"interface_down": 1}


@pytest.mark.parametrize("kind", ["tun", "tap"])
async def test_the_carrier_is_what_was_set_and_off_around_a_life(names: tuple[str, str], kind: Kind) -> None:
    def carrier() -> bool:
        flags = link(names[0])["flags"]
        assert isinstance(flags, list)
        return "LOWER_UP" in flags

    async with open_packet_port(config(kind, names[0], 1)) as port:
        assert not carrier()
        await go(port)
        assert carrier()
        port.set_carrier(False)
        assert not carrier()
        port.set_carrier(True)
        port.stop()
        assert not carrier()


async def test_an_interface_has_what_it_was_given(names: tuple[str, str]) -> None:
    routes = (Route(ip_network("198.19.1.0/24")), Route(ip_network("2001:2:0:1::/64"), ip_address("2001:2::9")))
    given = attrs.evolve(config("tap", names[0], 1), mtu=9000, txqueuelen=123, routes=routes)
    async with open_packet_port(given) as port:
        await port.start(mac=MACS[1], offloads=NO_OFFLOADS, mtu=1400)
        found = link(names[0])
        assert (found["mtu"], found["txqlen"], found["address"]) == (1400, 123, MACS[1].hex(":"))
        assert "dev vnet0" in ip("-n", names[0], "route", "show", "198.19.1.0/24")
        assert "via 2001:2::9 dev vnet0" in ip("-n", names[0], "-6", "route", "show", "2001:2:0:1::/64")
        assert "tentative" not in ip("-n", names[0], "-6", "addr", "show", "dev", "vnet0")


async def test_offloads_are_found_by_trying(names: tuple[str, str]) -> None:
    async with open_packet_port(config("tun", names[0], 1)) as port:
        assert port.caps & Offloads(True, True, True) == Offloads(True, True, True)


async def test_what_the_kernel_counts_can_be_read(names: tuple[str, str]) -> None:
    async with open_packet_port(config("tun", names[0], 1)) as port:
        await go(port, MACS[0])
        before = interface_statistics(names[0], "vnet0")
        port.send(bytes(HEADER_SIZE) + MACS[0] + MACS[1] + b"\x08\x00", [memoryview(b"\x45" + bytes(39))])
        after = interface_statistics(names[0], "vnet0")
        assert (after.rx_packets, after.rx_bytes) == (before.rx_packets + 1, before.rx_bytes + 40)
    with pytest.raises(OSError, match="vnet0"):
        interface_statistics(names[0], "vnet0")


# Namespaces


async def test_a_namespace_that_a_port_needed_goes_with_it() -> None:
    name = f"t{os.getpid()}-made"
    async with open_packet_port(config("tun", name, 1)):
        assert (NETNS / name).exists()
    assert not (NETNS / name).exists()


async def test_a_namespace_that_was_there_stays(names: tuple[str, str]) -> None:
    async with open_netns(names[0]) as made, open_packet_port(config("tun", names[0], 1)):
        assert not made
    assert (NETNS / names[0]).exists()


async def test_a_namespace_goes_also_when_the_interface_can_not_be_made() -> None:
    name = f"t{os.getpid()}-bad"
    for ifname in ("x" * 16, "lo"):
        with pytest.raises(OSError, match=ifname):
            async with open_packet_port(attrs.evolve(config("tun", name, 1), ifname=ifname)):
                pass
        assert not (NETNS / name).exists()


def test_a_thread_in_a_namespace_leaves_ours_alone(names: tuple[str, str]) -> None:
    def inside() -> int:
        return Path("/proc/thread-self/ns/net").stat().st_ino

    ours = inside()
    assert run_in_netns(names[0], inside) == (NETNS / names[0]).stat().st_ino
    assert inside() == ours
    with pytest.raises(ZeroDivisionError):
        run_in_netns(names[0], lambda: 1 // 0)
    with pytest.raises(FileNotFoundError):
        run_in_netns("no-such-namespace", lambda: None)


async def test_a_command_runs_in_its_namespace(names: tuple[str, str]) -> None:
    shown = await run(names[0], "readlink", "/proc/self/ns/net")
    assert str((NETNS / names[0]).stat().st_ino) in shown


@pytest.mark.parametrize(
    ("patch", "says"),
    [
        (("os.path.exists", lambda _: False), "/dev/net/tun is missing; try: sudo modprobe tun"),
        (("os.access", lambda *_: False), "no right to open /dev/net/tun; try: sudo "),
    ],
)
async def test_missing_privileges_are_one_sentence_with_the_command_that_helps(
    monkeypatch: pytest.MonkeyPatch, patch: tuple[str, Callable[..., bool]], says: str
) -> None:
    monkeypatch.setattr(*patch)
    with pytest.raises(PrivilegeError, match=says):
        async with open_packet_port(PortConfig()):
            pass


def test_without_capabilities_the_error_names_what_may_not_be_done() -> None:
    program = (
        "import trio\n"
        "from vnet.errors import PrivilegeError\n"
        "from vnet.ports.packet.open import PortConfig, open_packet_port\n"
        "async def main(netns):\n"
        "    try:\n"
        "        async with open_packet_port(PortConfig(netns=netns, ifname='vnet0')):\n"
        "            pass\n"
        "    except PrivilegeError as error:\n"
        "        print(error)\n"
        "trio.run(main, None)\n"
        "trio.run(main, 't-not-made')\n"
    )
    said = without_capabilities(program)
    assert said[0].startswith("no right to make the interface vnet0; try: ")
    assert said[1].startswith("no right to make the network namespace t-not-made; try: ")
    assert not (NETNS / "t-not-made").exists()


def without_capabilities(program: str) -> Sequence[str]:
    drop = ["setpriv", "--bounding-set", "-all", "--inh-caps", "-all"]
    # A child of root keeps what its file gives it: nothing, with an empty bounding set.
    done = subprocess.run(
        [*drop, sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout.splitlines()


@pytest.mark.parametrize("kind", ["tun", "tap"])
async def test_a_port_is_running_once_the_kernel_sends_through_it(names: tuple[str, str], kind: Kind) -> None:
    """Between the carrier and that, the kernel drops what it is given: nobody may be told that it is up."""

    async def becomes(running: bool) -> None:
        with trio.fail_after(60):
            while port.running != running:  # noqa: ASYNC110  the kernel tells nobody here
                await trio.sleep(0.001)

    async with open_packet_port(config(kind, names[0], 1)) as port:
        assert not port.running
        await go(port)
        await becomes(True)
        for act, running in (("down", False), ("up", True)):
            ip("-n", names[0], "link", "set", port.ifname, act)
            await becomes(running)
        port.set_carrier(False)
        await becomes(False)
        port.set_carrier(True)
        await becomes(True)
        port.stop()
        assert not port.running
    assert not port.running
