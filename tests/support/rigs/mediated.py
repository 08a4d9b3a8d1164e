"""A mediated network device between two hosts."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal

import attrs
import pytest
import trio
import trio.testing
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from drivers.contracts.ports import ETH_HLEN, HEADER_SIZE
from drivers.mediator import Mediator, MediatorStatistics
from vnet.ends.mediated import MediatorEnd
from vnet.ends.net import net_specs
from vnet.ports.packet.memory import MemoryPort
from vnet.system.device import Device
from vnet.system.world import open_world
from vnet.testing import FRAME, NetPair, Options, bounded
from vnet.topology import Topology, check

OVER = pytest.mark.parametrize("transport", ["pci", "epf_mailbox", "ntb"], indirect=True)
NEEDS_CSUM = 1
MSS = 1400
HEADER = bytes(HEADER_SIZE)
TSO = ("HOST_TSO4", "HOST_TSO6", "HOST_USO", "GUEST_TSO4", "GUEST_TSO6", "GUEST_USO4", "GUEST_USO6")
CSUM = ("CSUM", "GUEST_CSUM", *TSO)


@attrs.frozen
class Mediated(Options):
    """Differences from the usual mediated pair."""

    queue_size: int = 64
    local_features_off: tuple[str, ...] = ()
    rings: tuple[Literal["split", "packed"], Literal["split", "packed"]] = ("split", "split")
    """Options of the other host's driver, and of the endpoint's own."""

    def topology(self) -> Topology:
        made = super().topology()
        devices = {
            name: attrs.evolve(
                spec,
                mode="mediated",
                local_features_off=self.local_features_off,
                ring=self.rings[0],
                local_ring=self.rings[1],
            )
            for name, spec in net_specs(made.devices).items()
        }
        return check(attrs.evolve(made, devices=devices), "test")


class MediatedPair(NetPair):
    """A pair whose device has another driver behind it."""

    @property
    def local(self) -> Device:
        """The device of the endpoint's own driver."""
        assert self.device.local is not None
        return self.device.local

    @property
    def mediator(self) -> Mediator:
        end = self.device.device_end
        assert isinstance(end, MediatorEnd)
        return end.settings

    @property
    def ports(self) -> tuple[MemoryPort, MemoryPort]:
        return self.driver_port, self.device_port

    def statistics(self, way: int) -> MediatorStatistics:
        return self.mediator.statistics[(self.device.name, self.local.name)[way]]


@asynccontextmanager
async def open_mediated(options: Mediated = Mediated()) -> AsyncIterator[MediatedPair]:
    async with open_world(options.topology(), "test") as world:
        await world.wait_up()
        await trio.testing.wait_all_tasks_blocked()
        yield MediatedPair(world)


async def cross(pair: MediatedPair, way: int, frame: bytes = FRAME, header: bytes = HEADER) -> tuple[bytes, bytes]:
    """Send one frame, and what arrives of it, without num_buffers."""
    source, sink = pair.ports[way], pair.ports[1 - way]
    assert source.inject(frame, header)
    with bounded():
        head, came = await sink.receive()
    await trio.testing.wait_all_tasks_blocked()
    return head[:10] + bytes(2), came


async def drained(port: MemoryPort) -> list[tuple[bytes, bytes]]:
    await trio.testing.wait_all_tasks_blocked()
    frames = []
    while True:
        try:
            frames.append(port.receive_nowait())
        except trio.WouldBlock:
            return frames
        await trio.testing.wait_all_tasks_blocked()


def large(kind: str, size: int = 20_000) -> tuple[bytes, bytes]:
    """A GSO frame and its virtio_net_hdr."""
    v6 = kind.endswith("6")
    packet: Packet = Ether(dst="02:00:00:00:00:02", src="02:00:00:00:00:01")
    packet = packet / (IPv6(src="2001:2::1", dst="2001:2::2") if v6 else IP(src="198.18.0.1", dst="198.18.0.2"))
    start = ETH_HLEN + (40 if v6 else 20)
    tcp = kind.startswith("tso")
    packet = packet / (TCP(sport=1, dport=2, seq=1 << 31, flags="PA") if tcp else UDP(sport=1, dport=2))
    gso, field, hlen = (4 if v6 else 1, 16, 20) if tcp else (5, 6, 8)
    data = (b"0123456789abcdef" * (size // 16 + 1))[:size]
    return struct.pack("<BBHHHHH", NEEDS_CSUM, gso, start + hlen, MSS, start, field, 0), bytes(packet / data)
