"""Interfaces of TUN and TAP ports: settings, deletion, and namespaces."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from ipaddress import ip_address, ip_network
from pathlib import Path

import attrs
import pytest
import trio

from drivers.contracts.ports import HEADER_SIZE, NO_OFFLOADS, Offloads
from drivers.errors import PortGone
from support.machine import NETNS, ip
from support.rigs.ports import Kind, config, go, names, run
from vnet.errors import PrivilegeError
from vnet.linux.netns import Route, interface_statistics, open_netns, run_in_netns
from vnet.ports.packet.open import PortConfig, open_packet_port
from vnet.ports.packet.tap import TapPort
from vnet.ports.packet.tun import TunPort

__all__ = ["names"]  # a fixture


Port = TunPort | TapPort
pytestmark = pytest.mark.usefixtures("privileged", "no_leaks")
MACS = (b"\x02\0\0\0\0\x0a", b"\x02\0\0\0\0\x0b")


def link(netns: str) -> dict[str, object]:
    [actual] = json.loads(ip("-n", netns, "-j", "link", "show", "vnet0"))
    assert isinstance(actual, dict)
    return actual


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
        actual = link(names[0])
        assert (actual["mtu"], actual["txqlen"], actual["address"]) == (1400, 123, MACS[1].hex(":"))
        assert "dev vnet0" in ip("-n", names[0], "route", "show", "198.19.1.0/24")
        assert "via 2001:2::9 dev vnet0" in ip("-n", names[0], "-6", "route", "show", "2001:2:0:1::/64")
        assert "tentative" not in ip("-n", names[0], "-6", "addr", "show", "dev", "vnet0")


async def test_offloads_are_found_by_trying(names: tuple[str, str]) -> None:
    async with open_packet_port(config("tun", names[0], 1)) as port:
        assert port.caps & Offloads(True, True, True) == Offloads(True, True, True)


async def test_the_kernels_counters_can_be_read(names: tuple[str, str]) -> None:
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
        (("pathlib.Path.exists", lambda _: False), "/dev/net/tun is missing; try: sudo modprobe tun"),
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
    output = without_capabilities(program)
    assert output[0].startswith("no right to make the interface vnet0; try: ")
    assert output[1].startswith("no right to make the network namespace t-not-made; try: ")
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
    """Between the carrier and that, the kernel drops packets: the port must not count as up yet."""

    async def becomes(running: bool) -> None:
        with trio.fail_after(60):
            while port.liveness.live != running:  # noqa: ASYNC110  the kernel has no event for it
                await trio.sleep(0.001)

    async with open_packet_port(config(kind, names[0], 1)) as port:
        assert not port.liveness.live
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
        assert not port.liveness.live
    assert not port.liveness.live
