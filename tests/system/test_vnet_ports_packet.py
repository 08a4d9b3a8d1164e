"""Real TUN and TAP interfaces in namespaces, joined by a loop: real ping and real TCP."""

from __future__ import annotations

import json
import struct
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import attrs
import pytest
import trio

from drivers.contracts.ports import ALL_OFFLOADS, ETH_HLEN, HEADER_SIZE, NO_OFFLOADS, Offloads
from support.machine import RequireTool, ip
from support.rigs.ports import Kind, config, go, names, run
from vnet.linux.netns import netns_command
from vnet.ports.packet.open import open_packet_port
from vnet.ports.packet.tap import TapPort
from vnet.ports.packet.tun import TunPort
from vnet.traffic.kernel import ping

__all__ = ["names"]  # a fixture


Port = TunPort | TapPort
pytestmark = pytest.mark.usefixtures("privileged", "no_leaks")
MACS = (b"\x02\0\0\0\0\x0a", b"\x02\0\0\0\0\x0b")
KINDS: list[tuple[Kind, Kind]] = [("tun", "tun"), ("tun", "tap"), ("tap", "tap")]


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
        [actual] = json.loads(ip("-n", names[0], "-6", "-j", "addr", "show", "vnet0", "scope", "link"))
        [address] = [entry["local"] for entry in actual["addr_info"] if entry]
        assert (await ping(names[1], f"{address}%vnet0", count=2)).failure() == ""


async def test_a_tun_is_still_there_when_a_kernel_asks_again(names: tuple[str, str], require_tool: RequireTool) -> None:
    """Linux asks a known neighbour by unicast from time to time, by ARP and by solicitation."""
    require_tool("ping")
    async with bridged(names, ("tun", "tap"), ALL_OFFLOADS):
        for address in ("198.18.0.1", "2001:2::1"):
            await run(names[1], "ping", "-c2", "-i0.05", "-W2", address)
            ip("-n", names[1], "neigh", "change", address, "dev", "vnet0", "nud", "probe")
            with trio.fail_after(60):
                while "REACHABLE" not in ip(  # noqa: ASYNC110  the kernel has no event for it
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
