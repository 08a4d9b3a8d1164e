"""Checksum fields of a virtio_net_hdr reach a TUN or TAP, and no offset in it is trusted."""

from __future__ import annotations

import struct
from ipaddress import ip_address

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from drivers.contracts.ports import ETH_HLEN
from rings.memory import Addr
from support.rigs.frames import NEEDS_CSUM, virtio_net_hdr
from support.rigs.tun import HEADER, IPV6, OWN, PEER, PLAIN, Socket, ipv4, receive, tun
from vnet.ports.packet.packets import MESSAGE_MAX
from vnet.testing import FRAME, Options, bounded, hostile_device, open_pair, unharmed

DATA_VALID = 2
V4 = IP(src="198.18.0.2", dst="198.18.0.1")
V6 = IPv6(src="2001:2::2", dst="2001:2::1")
BODY = bytes(range(99))


def pseudo_sum(packet: bytes, start: int, protocol: int) -> int:
    """The sum over the pseudo header (RFC 9293, RFC 8200)."""
    addresses = packet[12:20] if packet[0] >> 4 == 4 else packet[8:40]
    data = addresses + struct.pack(">II", len(packet) - start, protocol)
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    return (total & 0xFFFF) + (total >> 16)


@pytest.mark.virtio("NET-DRV-69")
@pytest.mark.hostile("D10")
@pytest.mark.parametrize("off", [(), ("GUEST_CSUM",)], ids=["GUEST_CSUM", "no GUEST_CSUM"])
@pytest.mark.parametrize(
    ("packet", "start", "offset", "protocol"),
    [(V4 / TCP() / BODY, 20, 16, 6), (V4 / UDP() / BODY, 20, 6, 17), (V6 / TCP() / BODY, 40, 16, 6)],
    ids=["TCP", "UDP", "TCP over IPv6"],
)
async def test_a_checksum_that_the_device_vouches_for_is_one_left_to_do(
    packet: Packet, start: int, offset: int, protocol: int, off: tuple[str, ...]
) -> None:
    """Linux ignores DATA_VALID of frames written to a TUN or TAP, and would find the checksum wrong.

    passt vouches without an agreement on checksums, and Linux's own driver believes it.
    """
    data = bytearray(bytes(Ether(src=PEER, dst=OWN) / packet))
    at = ETH_HLEN + start + offset
    data[at : at + 2] = b"\xab\xcd"
    wanted = bytearray(data)
    wanted[at : at + 2] = pseudo_sum(bytes(data[ETH_HLEN:]), start, protocol).to_bytes(2, "big")
    undone = virtio_net_hdr(NEEDS_CSUM, start=ETH_HLEN + start, offset=offset)
    async with open_pair(Options(features_off=off)) as pair, unharmed(pair), hostile_device(pair) as device:
        for flags in (DATA_VALID, 0xFE, DATA_VALID):
            device.deliver(virtio_net_hdr(flags, count=1) + data)
            with bounded():
                header, frame = await pair.driver_port.receive()
            assert (header[:10] + bytes(2), frame) == (undone, bytes(wanted))
        for flags in (0, 0xFC):
            device.deliver(virtio_net_hdr(flags, count=1) + data)
            with bounded():
                header, frame = await pair.driver_port.receive()
            assert (header[:10], frame) == (PLAIN[:10], bytes(data))
        assert pair.settings.figures.pairs[0].received.drops == {}


async def test_a_checksum_that_is_left_to_do_is_not_vouched_for_as_well() -> None:
    async with open_pair(Options()) as pair, unharmed(pair), hostile_device(pair) as device:
        device.deliver(virtio_net_hdr(NEEDS_CSUM | DATA_VALID, start=14, offset=6, count=1) + FRAME)
        with bounded():
            header, frame = await pair.driver_port.receive()
        assert (header[:10], frame) == (virtio_net_hdr(NEEDS_CSUM, start=14, offset=6)[:10], FRAME)


@pytest.mark.parametrize("rx_buffer", [64, 256])
async def test_a_vouched_checksum_is_found_though_its_frame_is_merged(rx_buffer: int) -> None:
    whole = bytes(Ether(src=PEER, dst=OWN) / V4 / TCP() / bytes(900))
    pieces = range(0, len(whole) + 12, rx_buffer)
    async with open_pair(Options(rx_buffer=rx_buffer)) as pair, unharmed(pair), hostile_device(pair) as device:
        data = virtio_net_hdr(DATA_VALID, count=len(pieces)) + whole
        ring = device.rings[0]
        first = ring.used_idx
        for number, piece in enumerate(pieces):
            part = data[piece : piece + rx_buffer]
            head = ring.entry(first + number)
            device.memory.view(Addr(ring.read(head).addr), len(part), True)[:] = part
            ring.give(head, len(part))
        device.call(0)
        with bounded():
            header, frame = await pair.driver_port.receive()
        assert header[0] == NEEDS_CSUM
        assert len(frame) == len(whole)
        assert frame[: ETH_HLEN + 20 + 16] == whole[: ETH_HLEN + 20 + 16]


@pytest.mark.parametrize(("start", "passes"), [(20, True), (65_521, True), (65_522, False), (0xFFFF, False)])
async def test_an_offset_beyond_what_the_header_can_say_costs_its_own_frame(
    device: Socket, start: int, passes: bool
) -> None:
    port = await tun(device)
    device.write(HEADER.pack(NEEDS_CSUM, 0, 0xFFFF, 0, start, 0, 0) + ipv4())
    got = receive(port)
    if passes:
        assert HEADER.unpack_from(got)[4] == start + 14
    assert port.statistics().drops == ({} if passes else {"bad_csum": 1})
    device.write(PLAIN + ipv4(str(ip_address("198.18.0.2"))))
    assert receive(port)


async def test_no_more_is_read_of_a_solicitation_than_one_link_carries(device: Socket) -> None:
    """A frame of 64 KiB with thousands of options costs what any other frame costs."""
    port = await tun(device)
    head = PLAIN + b"\x33\x33\xff\0\0\1" + PEER + IPV6
    start = bytes(IPv6(src="2001:2::2", dst="ff02::1:ff00:1", hlim=255, nh=58, plen=65_480)) + bytes((135, 0))
    assert port.send(head, [memoryview(start.ljust(MESSAGE_MAX + 1, b"\0")), Unread(64_000)])  # type: ignore[list-item]
    assert port.statistics().tx_packets == 1
    assert port.recv_into([memoryview(bytearray(2000))]) == 0


class Unread:
    """A part of a frame that must not be read."""

    def __init__(self, size: int) -> None:
        self._size = size

    def __len__(self) -> int:
        return self._size
