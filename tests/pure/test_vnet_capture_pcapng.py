"""pcapng as others read it, and a reader that takes a stream in any pieces."""

from __future__ import annotations

import io
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pcapng import FileScanner

from vnet.capture import pcapng
from vnet.capture.pcapng import (
    EPB_FLAGS,
    OPT_COMMENT,
    NotPcapng,
    PacketBlock,
    PcapngInterface,
    PcapngReader,
    PcapngStatistics,
    interface_block,
    option,
    packet_block,
    section_block,
    statistics_block,
)

TIME = 1_700_000_000_123_456_789
FILE = (
    section_block("system", "program")
    + interface_block(1, 96, "net0", "a port")
    + packet_block(0, TIME, b"12345", 60, option(OPT_COMMENT, "Grüße") + option(EPB_FLAGS, b"\1\0\0\0"))
    + interface_block(252, 0, "pcie0", "a link")
    + packet_block(1, TIME + 1, b"", 0)
    + statistics_block(0, TIME, 4, 3)
)
NET0, PCIE0 = PcapngInterface(0, 1, 96, "net0", "a port"), PcapngInterface(1, 252, 0, "pcie0", "a link")
BLOCKS = [
    NET0,
    PacketBlock(NET0, TIME, b"12345", 60, {OPT_COMMENT: "Grüße".encode(), EPB_FLAGS: b"\1\0\0\0"}),
    PCIE0,
    PacketBlock(PCIE0, TIME + 1, b"", 0, {}),
    PcapngStatistics(NET0, 4, 3),
]


@pytest.mark.filterwarnings("ignore:Field type should not be:DeprecationWarning")  # of the reader's own tables
def test_another_reader_finds_all_blocks_with_times_in_nanoseconds() -> None:
    section, port, packet, link, empty, statistics = FileScanner(io.BytesIO(FILE))
    assert (section.options["shb_hardware"], section.options["shb_userappl"]) == ("system", "program")
    assert (port.link_type, port.snaplen, port.options["if_name"]) == (1, 96, "net0")
    assert port.timestamp_resolution == 1e-9
    assert (link.link_type, link.options["if_description"]) == (252, "a link")
    assert (packet.packet_data, packet.packet_len, packet.options["opt_comment"]) == (b"12345", 60, "Grüße")
    assert packet.timestamp_high << 32 | packet.timestamp_low == TIME
    assert packet.options["epb_flags"].inout == "inbound"
    assert (empty.interface_id, empty.packet_data) == (1, b"")
    assert (statistics.options["isb_ifrecv"], statistics.options["isb_ifdrop"]) == (4, 3)


@given(st.lists(st.integers(0, len(FILE))))
def test_a_stream_is_read_in_any_pieces(cuts: list[int]) -> None:
    reader = PcapngReader()
    ends = [0, *sorted(cuts), len(FILE)]
    parts = [FILE[start:end] for start, end in itertools.pairwise(ends)]
    assert [block for part in parts for block in reader.feed(part)] == BLOCKS
    assert reader.packets == 2


def test_packets_can_be_counted_only() -> None:
    reader = PcapngReader(skip_packets=True)
    assert list(reader.feed(FILE)) == [block for block in BLOCKS if not isinstance(block, PacketBlock)]
    assert reader.packets == 2


def test_a_long_option_is_cut() -> None:
    *_, packet = PcapngReader().feed(FILE + packet_block(0, TIME, b"", 0, option(OPT_COMMENT, "x" * 70_000)))
    assert isinstance(packet, PacketBlock)
    assert packet.options[OPT_COMMENT] == b"x" * 0xFFFF


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n",
        packet_block(0, TIME, b"", 0),
        section_block("", "").replace(b"\x4d\x3c\x2b\x1a", b"\x1a\x2b\x3c\x4d"),
        FILE + packet_block(7, TIME, b"", 0),
        FILE + pcapng._START.pack(6, 1 << 31),
        FILE + pcapng._START.pack(6, 13),
        FILE + pcapng._block(pcapng.BlockType.INTERFACE, b"\0\0"),
    ],
    ids=["http", "no section", "big-endian", "unknown interface", "too long", "unaligned", "short"],
)
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(NotPcapng):
        list(PcapngReader().feed(data))
