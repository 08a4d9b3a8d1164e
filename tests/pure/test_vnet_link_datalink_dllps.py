"""DLLPs and frames as bytes: checksums against other implementations, damage of every bit."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from cocotbext.pcie.core.dllp import Dllp as Reference
from cocotbext.pcie.core.dllp import DllpType
from hypothesis import given
from hypothesis import strategies as st

from vnet.link.datalink.crc import dllp_crc, lcrc
from vnet.link.datalink.dllps import Ack, CreditPhase, Dllp, FlowControl, emit, parse
from vnet.link.datalink.errors import BadFrame, DataLinkError
from vnet.link.datalink.frames import NULLIFIED, SequencedTlp, frame_dllp, frame_tlp, open_frame
from vnet.link.transaction.flow import Flow

TLP = bytes(range(16))
TYPES = {
    (CreditPhase.INIT1, Flow.POSTED): DllpType.INIT_FC1_P,
    (CreditPhase.INIT1, Flow.NON_POSTED): DllpType.INIT_FC1_NP,
    (CreditPhase.INIT1, Flow.COMPLETION): DllpType.INIT_FC1_CPL,
    (CreditPhase.INIT2, Flow.POSTED): DllpType.INIT_FC2_P,
    (CreditPhase.INIT2, Flow.NON_POSTED): DllpType.INIT_FC2_NP,
    (CreditPhase.INIT2, Flow.COMPLETION): DllpType.INIT_FC2_CPL,
    (CreditPhase.UPDATE, Flow.POSTED): DllpType.UPDATE_FC_P,
    (CreditPhase.UPDATE, Flow.NON_POSTED): DllpType.UPDATE_FC_NP,
    (CreditPhase.UPDATE, Flow.COMPLETION): DllpType.UPDATE_FC_CPL,
}
PACKETS = st.builds(Ack, st.integers(0, 4095), st.booleans()) | st.builds(
    FlowControl, st.sampled_from(CreditPhase), st.sampled_from(Flow), st.integers(0, 255), st.integers(0, 4095)
)


def crc_by_bits(data: bytes) -> bytes:
    """Return CRC-32 with polynomial 0x04C11DB7, the lowest bit of each byte first, as in figure 3-14."""
    crc = 0xFFFF_FFFF
    for byte in data:
        for bit in range(8):
            feedback = crc >> 31 ^ byte >> bit & 1
            crc = crc << 1 & 0xFFFF_FFFF ^ (0x04C1_1DB7 if feedback else 0)
    inverted = crc ^ 0xFFFF_FFFF
    return int(f"{inverted:032b}"[::-1], 2).to_bytes(4, "little")


def flips(data: bytes) -> Iterator[bytes]:
    for bit in range(len(data) * 8):
        yield (int.from_bytes(data, "big") ^ 1 << bit).to_bytes(len(data), "big")


@given(PACKETS)
def test_cocotbext_packs_the_same_dllps(packet: Dllp) -> None:
    reference = Reference()
    if isinstance(packet, Ack):
        reference.type = DllpType.NAK if packet.negative else DllpType.ACK
        reference.seq = packet.sequence
    else:
        reference.type = TYPES[packet.phase, packet.flow]
        reference.hdr_fc, reference.data_fc = packet.headers, packet.data
    assert emit(packet) == reference.pack_crc()
    assert parse(emit(packet)) == packet


@given(PACKETS)
def test_no_damaged_bit_of_a_dllp_is_accepted(packet: Dllp) -> None:
    for damaged in flips(emit(packet)):
        with pytest.raises(BadFrame) as info:
            parse(damaged)
        assert info.value.error is DataLinkError.BAD_DLLP


@pytest.mark.parametrize("kind", [0x20, 0x31, 0x48, 0x41, 0x70, 0x02])
def test_dllps_of_other_kinds_and_channels_are_ignored(kind: int) -> None:
    body = bytes((kind, 0, 0, 0))
    assert parse(body + dllp_crc(body)) is None


@given(st.binary(max_size=64))
def test_the_lcrc_is_that_of_a_computation_by_bits(data: bytes) -> None:
    assert lcrc(data) == crc_by_bits(data)


def test_a_frame_has_eight_bytes_around_its_tlp_as_the_cost_of_a_link_counts() -> None:
    frame = frame_tlp(0xABC, TLP)
    assert (frame[0], frame[1:3], frame[3:19], frame[-1]) == (0xFB, b"\x0a\xbc", TLP, 0xFD)
    assert len(frame) == len(TLP) + 8
    assert open_frame(frame) == SequencedTlp(0xABC, TLP)
    assert len(frame_dllp(emit(Ack(0)))) == 8


def test_no_damaged_bit_of_a_tlp_is_accepted() -> None:
    for damaged in flips(frame_tlp(7, TLP)):
        with pytest.raises(BadFrame) as info:
            open_frame(damaged)
        assert info.value.error in (DataLinkError.BAD_TLP, DataLinkError.RECEIVER)


def test_a_tlp_that_its_sender_took_back_is_dropped_in_silence() -> None:
    frame = frame_tlp(7, TLP)
    inverted = bytes(byte ^ 0xFF for byte in frame[-5:-1])
    assert open_frame(frame[:-5] + inverted + NULLIFIED) is None


@pytest.mark.parametrize("frame", [b"", b"\xfb\xfd", b"\xfb" + bytes(17) + b"\xfd", b"\x00" * 20, b"\x5c\x00\xfe"])
def test_symbols_that_frame_nothing_are_a_receiver_error(frame: bytes) -> None:
    with pytest.raises(BadFrame) as info:
        open_frame(frame)
    assert info.value.error is DataLinkError.RECEIVER
