"""Packets of the transaction layer as bytes: known bytes, both ways, and every refusal of bad ones."""

from __future__ import annotations

from random import Random

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.tlps import compare, random_tlp
from vnet.link.transaction.codec import emit, parse
from vnet.link.transaction.ecrc import ecrc
from vnet.link.transaction.errors import EcrcMismatch, MalformedTlp, PrefixedTlp, TlpError, UnsupportedTlp
from vnet.link.transaction.fields import (
    AddressType,
    Attribute,
    CompletionStatus,
    MessageCode,
)
from vnet.link.transaction.packets import (
    Completion,
    ConfigRead,
    ConfigWrite,
    Header,
    MemoryRead,
    MemoryWrite,
    Message,
    Tlp,
)

HEADER = Header(0x0100, tag=0x5A)
WORD = bytes.fromhex("11223344")
KNOWN: dict[str, tuple[Tlp, str]] = {
    "read of 32 bits": (
        MemoryRead(header=HEADER, address=0xFEBC_1000, length=2, first=0xF, last=0xF),
        "00000002 01005aff febc1000",
    ),
    "write of 64 bits": (
        MemoryWrite(header=HEADER, address=0x12_3456_7890, first=0b0110, data=WORD),
        "60000001 01005a06 0000001234567890 11223344",
    ),
    "read of 4 KiB has length 0": (
        MemoryRead(header=HEADER, address=0x1000, length=1024, last=0xF),
        "00000000 01005aff 00001000",
    ),
    "all fields of the first word": (
        MemoryWrite(
            header=Header(0xFFFF, 0x3FF, 7, Attribute(7), poisoned=True),
            address=0,
            address_type=AddressType.TRANSLATED,
            data=WORD,
        ),
        "40fc7801 ffffff0f 00000000 11223344",
    ),
    "configuration read, type 0": (
        ConfigRead(header=HEADER, target=0x0208, register=0x104),
        "04000001 01005a0f 02080104",
    ),
    "configuration write, type 1": (
        ConfigWrite(header=HEADER, target=0x0300, register=4, enabled=3, config_type=1, data=WORD),
        "45000001 01005a03 03000004 11223344",
    ),
    "completion with data": (
        Completion(header=HEADER, completer=0x0208, byte_count=4096, lower_address=0x40, data=WORD),
        "4a000001 02080000 01005a40 11223344",
    ),
    "completion, unsupported request": (
        Completion(header=HEADER, completer=0x0208, status=CompletionStatus.UNSUPPORTED_REQUEST),
        "0a000000 02082004 01005a00",
    ),
    "completion, completer abort": (
        Completion(header=HEADER, completer=0x0208, status=CompletionStatus.COMPLETER_ABORT),
        "0a000000 02088004 01005a00",
    ),
    "INTx": (
        Message(header=Header(0x0208), code=MessageCode.DEASSERT_INTB),
        "34000000 02080025 0000000000000000",
    ),
    "fatal error": (
        Message(header=Header(0x0208), code=MessageCode.ERR_FATAL),
        "30000000 02080033 0000000000000000",
    ),
    "slot power": (
        Message(header=Header(0), code=MessageCode.SET_SLOT_POWER_LIMIT, data=bytes.fromhex("fa010000")),
        "74000001 00000050 0000000000000000 fa010000",
    ),
}


def outcome(data: bytes) -> Tlp | TlpError:
    try:
        return parse(data)
    except TlpError as error:
        return error


@pytest.mark.parametrize("name", KNOWN)
def test_packets_have_the_bytes_of_the_specification(name: str) -> None:
    packet, expected = KNOWN[name]
    assert emit(packet) == bytes.fromhex(expected)
    assert parse(bytes.fromhex(expected)) == packet


@given(seed=st.integers(0), digest=st.booleans())
def test_emitted_packets_are_parsed_as_the_same(seed: int, digest: bool) -> None:
    packet = random_tlp(Random(seed))
    packet = attrs.evolve(packet, header=attrs.evolve(packet.header, digest=digest))
    assert parse(emit(packet)) == packet


@given(st.binary(max_size=64) | st.binary(min_size=1, max_size=1).map(lambda first: first + bytes(15)))
def test_bytes_are_a_packet_or_one_error(data: bytes) -> None:
    """A packet that was parsed has bytes that are parsed as the same: reserved bits are all that is lost."""
    match outcome(data):
        case TlpError() as error:
            assert error.log == data[:16]
            assert str(error)
        case packet:
            assert parse(emit(packet)) == packet


@given(seed=st.integers(0), bit=st.integers(0), digest=st.booleans())
def test_a_packet_with_a_changed_bit_is_a_packet_or_one_error(seed: int, bit: int, digest: bool) -> None:
    packet = random_tlp(Random(seed))
    data = bytearray(emit(attrs.evolve(packet, header=attrs.evolve(packet.header, digest=digest))))
    bit %= len(data) * 8
    data[bit // 8] ^= 1 << bit % 8
    match outcome(bytes(data)):
        case EcrcMismatch():
            assert digest
        case TlpError() as error:
            assert "\n" not in str(error)
        case other:
            assert parse(emit(other)) == other


def test_cocotbext_pcie_packs_and_unpacks_the_same_bytes() -> None:
    """`python tests/support/tlps.py 100000` compares more."""
    assert [line for line in map(compare, range(4000)) if line] == []


REFUSED: dict[str, tuple[str, type[TlpError], str]] = {
    "nothing": ("", MalformedTlp, "0 bytes: must be whole doublewords"),
    "part of a doubleword": ("00000001 01005a0f 000000", MalformedTlp, "11 bytes: must be whole doublewords"),
    "header cut off": ("00000001 01005a0f", MalformedTlp, "8 bytes: the header, its length and TD ask for 12"),
    "less data than the length": ("40000002 01005aff 00000000 11223344", MalformedTlp, "16 bytes: .* ask for 20"),
    "more data than the length": (
        "40000001 01005a0f 00000000 11223344 11223344",
        MalformedTlp,
        "20 bytes: .* ask for 16",
    ),
    "data behind a read": ("00000001 01005a0f 00000000 11223344", MalformedTlp, "16 bytes: .* ask for 12"),
    "no digest": ("00008001 01005a0f 00000000", MalformedTlp, "12 bytes: .* ask for 16"),
    "wrong digest": ("00008001 01005a0f 00000000 00000000", EcrcMismatch, "digest 00000000: the bytes before it have"),
    "local prefix": ("8e000000 00000001 01005a0f 00000000", PrefixedTlp, "a TLP prefix of type 0x0e"),
    "end-to-end prefix": ("91000000 00000001 01005a0f 00000000", PrefixedTlp, "a TLP prefix of type 0x11"),
    "undefined Fmt": ("a0000001 01005a0f 00000000", MalformedTlp, "Fmt 5 with Type 0x00: there is no such packet"),
    "undefined Type": ("1f000001 01005a0f 00000000", MalformedTlp, "Fmt 0 with Type 0x1f"),
    "configuration with a long header": ("24000001 01005a0f 00000000 00000000", MalformedTlp, "Fmt 1 with Type 0x04"),
    "reserved routing": ("36000000 02080020 00000000 00000000", MalformedTlp, "Fmt 1 with Type 0x16"),
    "hints": ("00010001 01005a0f 00000000", UnsupportedTlp, r"processing hints \(TH\)"),
    "reserved address type": ("00000c01 01005a0f 00000000", MalformedTlp, r"address type \(AT\) = 3"),
    "translation request that writes": ("40000401 01005a0f 00000000 11223344", MalformedTlp, "can't be a translation"),
    "long header for a low address": (
        "20000001 01005a0f 00000000 fee00000",
        MalformedTlp,
        "64-bit addresses for 0x",
    ),
    "page crossed": ("00000002 01005aff 00000ffc", MalformedTlp, "2 doublewords at 0xffc cross a boundary of 4 KiB"),
    "last byte enables of one doubleword": ("00000001 01005aff 00000000", MalformedTlp, "has no last one"),
    "no last byte enables": ("00000002 01005a0f 00000000", MalformedTlp, "both must enable a byte"),
    "no first byte enables": ("00000002 01005af0 00000000", MalformedTlp, "both must enable a byte"),
    "gap": ("00000003 01005af5 00000000", MalformedTlp, "byte enables 0101 and 1111: must have no gap"),
    "gap in an odd pair": ("00000002 01005a5f 00000004", MalformedTlp, "must have no gap in 2 doublewords at 0x4"),
    "poisoned read": ("00004001 01005a0f 00000000", MalformedTlp, r"poisoned \(EP\) without data"),
    "poisoned configuration read": ("04004001 01005a0f 00000000", MalformedTlp, r"poisoned \(EP\) without data"),
    "poisoned completion": ("0a004000 02080004 01005a00", MalformedTlp, r"poisoned \(EP\) without data"),
    "poisoned message": ("34004000 02080020 00000000 00000000", MalformedTlp, r"poisoned \(EP\) without data"),
    "configuration of two doublewords": ("04000002 01005a0f 00000000", MalformedTlp, "a length of 1 doubleword"),
    "configuration with last byte enables": ("04000001 01005aff 00000000", MalformedTlp, "last byte enables 0"),
    "configuration with a class": ("04100001 01005a0f 00000000", MalformedTlp, "traffic class 0 and no attributes"),
    "configuration with attributes": ("04001001 01005a0f 00000000", MalformedTlp, "traffic class 0 and no attributes"),
    "configuration with an address type": ("04000401 01005a0f 00000000", MalformedTlp, "AT 0"),
    "data with a failure": (
        "4a000001 02082004 01005a00 11223344",
        MalformedTlp,
        "data with status UNSUPPORTED",
    ),
    "more data than counted": (
        "4a000002 02080004 01005a00 11223344 55667788",
        MalformedTlp,
        "8 bytes of data with a byte count of 4",
    ),
    "modified byte count": ("0a000000 02081004 01005a00", UnsupportedTlp, "modified byte count"),
    "unknown message": ("34000000 0208007f 00000000 00000000", UnsupportedTlp, "a message with code 0x7f"),
    "wrong routing": ("30000000 02080020 00000000 00000000", MalformedTlp, "ASSERT_INTA with routing 0: must be 4"),
    "message with a class": ("34100000 02080020 00000000 00000000", MalformedTlp, "traffic class 1: must be 0"),
    "slot power without data": ("34000000 00000050 00000000 00000000", MalformedTlp, "0 bytes of data: must have 4"),
    "INTx with data": ("74000001 02080020 00000000 00000000 11223344", MalformedTlp, "4 bytes of data: must have 0"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_bad_packet_is_refused_with_one_error(name: str) -> None:
    data, error, message = REFUSED[name]
    with pytest.raises(error, match=message) as caught:
        parse(bytes.fromhex(data))
    assert caught.type is error
    assert caught.value.log == bytes.fromhex(data)[:16]


def test_data_above_the_maximum_payload_is_refused() -> None:
    packet = MemoryWrite(header=HEADER, address=0, last=0xF, data=bytes(132))
    assert parse(emit(packet), 256) == packet
    with pytest.raises(MalformedTlp, match="132 bytes of data: more than the maximum payload, 128"):
        parse(emit(packet), 128)


def test_a_reserved_status_is_an_unsupported_request_and_reserved_bits_are_ignored() -> None:
    packet = parse(bytes.fromhex("0a020c03 0208e004 01005a80"))
    assert packet == Completion(
        header=HEADER, completer=0x0208, status=CompletionStatus.UNSUPPORTED_REQUEST, byte_count=4
    )


def digest_by_bits(packet: bytes) -> bytes:
    """Return the ECRC as section 2.7.1 describes it, bit by bit."""
    register = 0xFFFF_FFFF
    for position, value in enumerate(packet):
        byte = value | {0: 0x01, 2: 0x40}.get(position, 0)
        for bit in range(8):
            feedback = register >> 31 ^ byte >> bit & 1
            register = (register << 1 & 0xFFFF_FFFF) ^ (0x04C1_1DB7 if feedback else 0)
    register ^= 0xFFFF_FFFF
    field = sum((register >> bit & 1) << (bit // 8 * 8 + 7 - bit % 8) for bit in range(32))
    return field.to_bytes(4, "big")


@given(st.binary(min_size=12, max_size=64))
def test_the_digest_is_that_of_the_specification(packet: bytes) -> None:
    assert ecrc(packet) == digest_by_bits(packet)


def test_the_digest_stays_if_a_switch_changes_the_variant_bits() -> None:
    """A bridge turns type 1 into type 0, and may mark data as damaged."""
    packet = ConfigWrite(header=attrs.evolve(HEADER, digest=True), target=0x0300, register=4, config_type=1, data=WORD)
    data = bytearray(emit(packet))
    data[0] ^= 1
    data[2] ^= 0x40
    header = attrs.evolve(packet.header, poisoned=True)
    assert parse(bytes(data)) == attrs.evolve(packet, config_type=0, header=header)
    data[2] ^= 1
    with pytest.raises(TlpError):
        parse(bytes(data))


def test_a_changed_bit_of_data_is_found_by_the_digest() -> None:
    data = bytearray(
        emit(MemoryWrite(header=attrs.evolve(HEADER, digest=True), address=0, last=0xF, data=bytes(range(64))))
    )
    for bit in range(16 * 8, len(data) * 8):
        data[bit // 8] ^= 1 << bit % 8
        with pytest.raises(EcrcMismatch):
            parse(bytes(data))
        data[bit // 8] ^= 1 << bit % 8
