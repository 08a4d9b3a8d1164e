"""What a virtio_net_hdr says of checksums is not lost on its way to a TUN or a TAP, and no offset in it is believed."""

from __future__ import annotations

import struct
from collections.abc import Awaitable, Callable
from ipaddress import ip_address

import pytest
from frame_rig import NEEDS_CSUM, virtio_net_hdr
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.packet import Packet
from tun_rig import HEADER, IPV4, IPV6, OWN, PEER, PLAIN, Socket, ipv4, receive, tap, tun

from vnet.ports.packets import MESSAGE_MAX
from vnet.ports.tap import TapPort
from vnet.ports.tun import TunPort
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
@pytest.mark.parametrize("make", [tun, tap])
@pytest.mark.parametrize(
    ("packet", "start", "offset", "protocol"),
    [(V4 / TCP() / BODY, 20, 16, 6), (V4 / UDP() / BODY, 20, 6, 17), (V6 / TCP() / BODY, 40, 16, 6)],
    ids=["TCP", "UDP", "TCP over IPv6"],
)
async def test_a_checksum_that_the_device_vouches_for_is_left_to_the_kernel_and_not_looked_at(
    device: Socket,
    make: Callable[[Socket], Awaitable[TunPort | TapPort]],
    packet: Packet,
    start: int,
    offset: int,
    protocol: int,
) -> None:
    port = await make(device)
    data = bytearray(bytes(packet))
    data[start + offset : start + offset + 2] = b"\xab\xcd"
    wanted = bytearray(data)
    wanted[start + offset : start + offset + 2] = pseudo_sum(bytes(data), start, protocol).to_bytes(2, "big")
    ethernet = OWN + PEER + (IPV4 if start == 20 else IPV6)
    before, shift = (b"", 0) if make is tun else (ethernet, 14)
    for _ in range(2):
        assert port.send(virtio_net_hdr(DATA_VALID) + ethernet, [memoryview(data)])
        assert device.read() == HEADER.pack(NEEDS_CSUM, 0, 0, 0, start + shift, offset, 0) + before + wanted
    assert port.send(PLAIN + ethernet, [memoryview(data)])
    assert device.read() == PLAIN + before + data
    assert (port.statistics().tx_packets, port.statistics().drops) == (3, {})


@pytest.mark.hostile("D10")
@pytest.mark.parametrize("off", [(), ("GUEST_CSUM",)], ids=["GUEST_CSUM", "no GUEST_CSUM"])
async def test_a_driver_believes_a_device_that_vouches_only_if_they_agreed_on_checksums(off: tuple[str, ...]) -> None:
    async with open_pair(Options(features_off=off)) as pair, unharmed(pair), hostile_device(pair) as device:
        for flags, kept in ((DATA_VALID, 0 if off else DATA_VALID), (0xFE, 0 if off else DATA_VALID), (0xFC, 0)):
            device.deliver(virtio_net_hdr(flags, count=1) + FRAME)
            with bounded():
                header, frame = await pair.driver_port.receive()
            assert (header[0], frame) == (kept, FRAME)
        device.deliver(virtio_net_hdr(0xFF, start=14, offset=6, count=1) + FRAME)
        if not off:
            with bounded():
                assert (await pair.driver_port.receive())[0][0] == NEEDS_CSUM


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
