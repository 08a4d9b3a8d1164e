"""A checksum that a device vouches for (DATA_VALID) is made one that is left to do, which Linux takes from a TAP."""

from __future__ import annotations

import struct

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6
from scapy.layers.l2 import ARP
from scapy.packet import Packet, Padding

from drivers.contracts.ports import HEADER_SIZE, NO_OFFLOADS, Offloads
from drivers.devices.net.header import DATA_VALID, NEEDS_CSUM
from drivers.devices.net.software import convert_data_valid
from support.rigs.segments import (
    CASES,
    CSUM_ONLY,
    ETHER,
    PIECES,
    PLAIN,
    Case,
    finished,
    pseudo,
    unsummed,
    views,
)


def vouch(frame: bytes, *sizes: int, able: Offloads = CSUM_ONLY) -> tuple[bytes, bytes]:
    header = struct.pack("<BBHHHHH", DATA_VALID, 0, 0, 0, 0, 0, 1)
    head, rest = convert_data_valid(header + frame[:14], views(frame[14:], *sizes), able)
    assert len(head) == HEADER_SIZE + 14
    return head[:HEADER_SIZE], head[HEADER_SIZE:] + b"".join(rest)


SHORT = [attrs.evolve(case, size=min(case.size, 1400)) for case in CASES if case.extended < 400]


@pytest.mark.parametrize("case", SHORT, ids=lambda case: case.name or "plain")
@PIECES
@pytest.mark.virtio("NET-DRV-69")
def test_a_vouched_checksum_is_left_to_do_with_any_value_in_its_field(case: Case, sizes: tuple[int, ...]) -> None:
    whole = bytes(case.packet())
    for value in (0xABCD, 1):
        header, frame = vouch(unsummed(whole, case.start + case.field, value), *sizes)
        assert header == case.header(gso=False)
        assert frame == pseudo(whole, case)
        assert finished(header, [memoryview(frame)], NO_OFFLOADS) == [(PLAIN, whole)]
        assert vouch(unsummed(whole, case.start + case.field, value), *sizes, able=NO_OFFLOADS) == (PLAIN, whole)


@pytest.mark.parametrize(
    "packet",
    [
        IP(src="198.18.0.1", dst="198.18.0.2") / ICMP() / b"ping",
        IPv6(src="2001:2::1", dst="2001:2::2") / ICMPv6EchoRequest(data=b"ping"),
        IP(src="198.18.0.1", dst="198.18.0.2") / TCP() / Padding(bytes(6)),
    ],
    ids=["ICMP", "ICMPv6", "padded"],
)
def test_the_checksum_of_any_protocol_that_linux_checks_is_found(packet: Packet) -> None:
    whole = bytes(ETHER / packet)
    size = len(bytes(packet)) - len(packet.lastlayer().load if isinstance(packet.lastlayer(), Padding) else b"")
    start = 14 + (40 if IPv6 in packet else 20)
    offset = 16 if TCP in packet else 2
    header, frame = vouch(unsummed(whole, start + offset, 0xABCD))
    assert header == struct.pack("<BBHHHHH", NEEDS_CSUM, 0, 0, 0, start, offset, 0)
    # The padding is no part of the packet, and the kernel cuts it off before it fills the checksum in.
    assert finished(header, [memoryview(frame[: 14 + size])], NO_OFFLOADS) == [(PLAIN, whole[: 14 + size])]


UDP_PLAIN = bytes(Case(tcp=False, size=100).packet())
UNTOUCHED = {
    "UDP without a checksum": unsummed(UDP_PLAIN, 14 + 20 + 6),
    "the first fragment": unsummed(UDP_PLAIN, 14 + 6, 0x2000),
    "a later fragment": unsummed(UDP_PLAIN, 14 + 6, 0x0010),
    "another protocol": bytes(ETHER / IP(src="198.18.0.1", dst="198.18.0.2", proto=253) / bytes(100)),
    "ARP": bytes(ETHER / ARP()),
    "no more than its Ethernet header": bytes(ETHER)[:14],
    "cut before the checksum": UDP_PLAIN[: 14 + 20 + 7],
    "cut within the IP header": UDP_PLAIN[: 14 + 19],
    "IPv6, cut": bytes(Case(v6=True).packet())[: 14 + 39],
}


@pytest.mark.parametrize("frame", UNTOUCHED.values(), ids=UNTOUCHED)
def test_a_frame_without_a_checksum_to_find_goes_on_as_it_is(frame: bytes) -> None:
    assert vouch(frame) == (struct.pack("<BBHHHHH", 0, 0, 0, 0, 0, 0, 1), frame)


@given(case=st.sampled_from(CASES), size=st.integers(0, 200), noise=st.binary(max_size=80))
def test_any_vouched_frame_keeps_its_size(case: Case, size: int, noise: bytes) -> None:
    frame = (case.frame()[:size] + noise).ljust(14, b"\0")
    assert len(vouch(frame)[1]) == len(frame)
