"""TUN and TAP ports over a pair of datagram sockets that stands in for /dev/net/tun."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from drivers.contracts.ports import Offloads, PacketPort
from vnet.linux.netlink.link_table import InterfaceState
from vnet.ports.packet.tap import TapPort
from vnet.ports.packet.tun import TunPort

OWN, PEER, OTHER = (b"\x02\0\0\0\0" + bytes([last]) for last in (1, 2, 3))
PLAIN = bytes(12)
IPV4, IPV6, ARP = b"\x08\x00", b"\x86\xdd", b"\x08\x06"
ALL = Offloads(csum=True, tso4=True, tso6=True, uso=True)
HEADER = struct.Struct("<BBHHHHH")

OUR_IP, PEER_IP = (ip_address(address).packed for address in ("198.18.0.1", "198.18.0.2"))


class Socket:
    """One end of a pair of sockets in place of a TUN."""

    def __init__(self) -> None:
        self.far, self.near = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.far.settimeout(0)
        self.near.setblocking(False)

    def fileno(self) -> int:
        return self.near.fileno()

    def close(self) -> None:
        self.near.close()
        self.far.close()

    def read(self) -> bytes:
        return self.far.recv(70000)

    def write(self, data: bytes) -> None:
        self.far.send(data)


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[Socket]:
    """A stand-in that takes every request, on an interface with one IPv4 address."""
    monkeypatch.setattr("fcntl.ioctl", lambda *_: 0)
    device = Socket()
    yield device
    device.close()


async def tun(device: Socket, peer: bytes | None = PEER, offloads: Offloads = ALL) -> TunPort:
    port = TunPort(device, "vnet0", mac=OTHER, peer_mac=peer)
    port.interface_changed(InterfaceState("vnet0", addresses=(OUR_IP,)))
    await port.start(mac=OWN, offloads=offloads, mtu=None)
    return port


async def tap(device: Socket, offloads: Offloads = ALL) -> TapPort:
    port = TapPort(device, "vnet0")
    await port.start(mac=OWN, offloads=offloads, mtu=None)
    return port


def ipv4(to: str = "198.18.0.2", payload: bytes = bytes(range(100))) -> bytes:
    return b"\x45" + bytes(11) + OUR_IP + ip_address(to).packed + payload


def ipv6(to: str = "2001:2::2", payload: bytes = bytes(range(100))) -> bytes:
    return b"\x60" + bytes(7) + ip_address("2001:2::1").packed + ip_address(to).packed + payload


def room(*sizes: int) -> list[memoryview]:
    return [memoryview(bytearray(size)) for size in sizes]


def receive(port: PacketPort, *sizes: int) -> bytes:
    segs = room(*(sizes or (70000,)))
    got = port.recv_into(segs)
    return b"".join(segs)[:got]


def accounted(port: PacketPort) -> int:
    stats = port.statistics()
    return stats.rx_packets + stats.tx_packets + sum(stats.drops.values())


def frame(ethertype: bytes = IPV4, to: bytes = OWN, header: bytes = PLAIN) -> bytes:
    return header + to + PEER + ethertype


def arp(operation: int, sender_mac: bytes, sender: bytes, target_mac: bytes, target: bytes) -> bytes:
    return bytes.fromhex("00010800060400") + bytes([operation]) + sender_mac + sender + target_mac + target
