"""Frames as Ethernet packets: what options say, and the way back."""

from __future__ import annotations

import struct

import pytest

from drivers.contracts.events import FrameEvent, Source
from support.captures import SOURCE, blocks, captured, frame, record
from vnet.capture.frames import describe_header, parse_frame
from vnet.capture.pcapng import EPB_FLAGS, EPB_PACKETID, OPT_COMMENT, PacketBlock, PcapngInterface


def header(flags: int = 0, gso: int = 0, length: int = 0, size: int = 0, start: int = 0, offset: int = 0) -> bytes:
    return struct.pack("<BBHHHHH", flags, gso, length, size, start, offset, 1)


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (header(), ""),
        (header(1, start=34, offset=16), "checksum needed from byte 34, at 50"),
        (header(2), "checksum is valid"),
        (
            header(1, 1, 66, 1448, 34, 16),
            "checksum needed from byte 34, at 50; TCP over IPv4 to segment by 1448 bytes, headers 66 bytes",
        ),
        (header(0, 0x84, 86, 1428), "TCP over IPv6 to segment by 1428 bytes with ECN, headers 86 bytes"),
        (header(0, 5, 42, 1472), "UDP to segment by 1472 bytes, headers 42 bytes"),
        (header(0, 3, 42, 1472), "gso_type 0x3 to segment by 1472 bytes, headers 42 bytes"),
        (struct.pack("<BBHHHHH", 0, 0, 0, 0, 0, 0, 3), "3 buffers"),
    ],
)
def test_a_header_is_described_in_words(made: bytes, text: str) -> None:
    assert describe_header(made) == text


@pytest.mark.parametrize(("name", "flags"), [("FrameReceived", 1), ("FrameSent", 2)])
def test_options_tell_direction_number_queue_and_chain(name: str, flags: int) -> None:
    _, packet, _ = blocks(record([frame(name, header=header(2))]))
    assert isinstance(packet, PacketBlock)
    assert packet.options == {
        OPT_COMMENT: b"transmitq1, chain 3; checksum is valid",
        EPB_FLAGS: bytes([flags, 0, 0, 0]),
        EPB_PACKETID: bytes([7, 0, 0, 0, 0, 0, 0, 0]),
    }


@pytest.mark.parametrize("name", ["FrameReceived", "FrameSent"])
@pytest.mark.parametrize("chain", [0, 3, None])
@pytest.mark.parametrize("side", ["driver", "device"])
def test_a_frame_is_read_back(name: str, chain: int | None, side: str) -> None:
    made = frame(name, source=Source("h", "net0", side, "receiveq1", "", "tap 0"), chain=chain)  # type: ignore[arg-type]
    (read,) = captured([made])
    assert isinstance(read.event, FrameEvent)
    assert type(read.event) is type(made)
    assert (read.event.source, read.event.chain, read.event.frame) == (made.source, chain, 7)
    assert (read.event.data(), read.event.size, read.header) == (made.data(), 114, "")


@pytest.mark.parametrize(
    ("description", "options"),
    [
        ("eth0", {OPT_COMMENT: b"transmitq1, chain 3"}),
        ("port p of net0, the driver's side, on host rc", {OPT_COMMENT: b"hello"}),
        ("port p of net0, the driver's side, on host rc", {OPT_COMMENT: b"transmitq1, chain 3"}),
    ],
)
def test_a_packet_of_another_program_is_no_frame(description: str, options: dict[int, bytes]) -> None:
    with pytest.raises(ValueError, match="net0: a frame"):
        parse_frame(PacketBlock(PcapngInterface(0, 1, 0, "net0", description), 0, b"", 0, options))


def test_a_frame_has_no_link() -> None:
    """Ethernet packets have no place for it, and their port is enough."""
    (read,) = captured([frame()])
    assert read.event.source == Source("rc", "net0", "driver", "transmitq1", "", SOURCE.port)
