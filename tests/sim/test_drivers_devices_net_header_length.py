"""Exact lengths of the headers of segmented frames (GUEST_HDRLEN)."""

from __future__ import annotations

import struct
from typing import Literal

import attrs
import pytest
import trio.testing

from drivers.devices.net.header import GsoType, set_header_length
from drivers.devices.net.layout import NetFeature
from vnet.testing import NetPair, Options, open_pair, over, unharmed

EXACT = Options(queue_size=16, control=True, features_on=("GUEST_HDRLEN",))
ETHER = bytes.fromhex("020000000002 020000000001")
FOUR = b"\x08\0\x45" + bytes(8) + b"\x06" + bytes(10)
SIX = b"\x86\xdd\x60" + bytes(5) + b"\x06\x40" + bytes(32)
TAG = b"\x81\0\0\5"


def segmented(before: bytes, kind: int, words: int = 5, hint: int = 0) -> tuple[bytes, bytes, int]:
    """Return header and frame with a TCP header of so many words, or a UDP header; and the bytes of its headers."""
    start = len(ETHER + before)
    udp = kind == GsoType.UDP_L4
    transport = bytes(8) if udp else bytes(12) + bytes((words << 4,)) + bytes(4 * words - 13)
    header = struct.pack("<BBHHHHH", 1, kind, hint, 100, start, 6 if udp else 16, 0)
    return header, ETHER + before + transport + bytes(400), start + len(transport)


FRAMES = {
    "TCP": segmented(FOUR, GsoType.TCPV4),
    "TCP with options": segmented(FOUR, GsoType.TCPV4, 8, hint=54),
    "TCP with the longest header": segmented(FOUR, GsoType.TCPV4, 15, hint=300),
    "TCP with ECN": segmented(FOUR, GsoType.TCPV4 | 0x80, 6, hint=54),
    "TCP over IPv6": segmented(SIX, GsoType.TCPV6, 8, hint=14),
    "UDP": segmented(FOUR, GsoType.UDP_L4, hint=200),
    "UDP over IPv6, tagged": segmented(TAG + SIX, GsoType.UDP_L4, hint=1),
}
WHOLE = struct.pack("<BBHHHHH", 1, 0, 77, 0, 34, 16, 0), ETHER + FOUR + bytes(60), 77
"""A frame that is not segmented: its hint stays."""


async def lengths(pair: NetPair, *frames: tuple[bytes, bytes, int]) -> list[int]:
    """Send frames to the device; return the lengths of headers that arrive."""
    got = []
    for header, frame, _ in frames:
        assert pair.driver_port.inject(frame, header)
        await trio.testing.wait_all_tasks_blocked()
        actual, same = pair.device_port.receive_nowait()
        assert (same, actual[:2], actual[4:]) == (frame, header[:2], header[4:])
        got.append(int.from_bytes(actual[2:4], "little"))
    return got


@pytest.mark.every_transport
@pytest.mark.virtio("NET-DRV-49")
async def test_the_driver_gives_the_exact_length_of_the_headers() -> None:
    async with open_pair(EXACT) as pair, unharmed(pair):
        assert pair.virtio.has(NetFeature.GUEST_HDRLEN)
        assert await lengths(pair, *FRAMES.values(), WHOLE) == [size for *_, size in (*FRAMES.values(), WHOLE)]


@pytest.mark.parametrize("ring", ["split", "packed"])
async def test_lengths_are_exact_also_in_front_of_a_hash_report(ring: Literal["split", "packed"]) -> None:
    with over("pci", ring):
        async with open_pair(attrs.evolve(EXACT, features_on=("GUEST_HDRLEN", "HASH_REPORT"))) as pair, unharmed(pair):
            assert await lengths(pair, *FRAMES.values()) == [size for *_, size in FRAMES.values()]
            await pair.transfer(1 << 16)


async def test_without_the_feature_the_hint_of_the_port_stays() -> None:
    async with open_pair(attrs.evolve(EXACT, features_on=())) as pair, unharmed(pair):
        assert not pair.vhost.device_features >> NetFeature.GUEST_HDRLEN & 1
        hints = [int.from_bytes(header[2:4], "little") for header, *_ in FRAMES.values()]
        assert await lengths(pair, *FRAMES.values()) == hints


def test_a_frame_without_its_transport_header_is_left_as_it_is() -> None:
    header, frame, _ = FRAMES["TCP with options"]
    for size in (12, 13, 40, 12 + 34 + 12):
        data = bytearray((header + frame)[:size])
        set_header_length(memoryview(data), 0)
        assert bytes(data) == (header + frame)[:size]
