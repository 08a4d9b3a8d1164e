"""rpmsg's bytes: header, announcements, address messages, configuration space."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.devices.rpmsg import RPMSG
from drivers.devices.rpmsg.layout import (
    ADDR_ANY,
    AS_ADDR,
    CONFIG_SIZES,
    HEADER,
    MAX_BUFFER,
    MIN_BUFFER,
    NS_ADDR,
    TABLE,
    AddressMessage,
    AsFlag,
    Malformed,
    NameMessage,
    NsFlag,
    RpmsgConfig,
    RpmsgFeature,
    check_name,
)
from drivers.errors import RpmsgError
from rings.features import mask
from rings.ids import DeviceId

NAMES = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=31)
ADDRS = st.integers(0, ADDR_ANY - 1).filter(lambda addr: addr not in (NS_ADDR, AS_ADDR))


def test_the_header_is_sixteen_little_endian_bytes() -> None:
    assert HEADER.pack(0x01020304, 0x05060708, 0, 0x0A0B, 0x0C0D).hex() == "0403020108070605000000000b0a0d0c"


def test_an_announcement_is_forty_bytes_with_the_name_first() -> None:
    message = NameMessage("rpmsg-client-sample", 1024, NsFlag.AS_ANNOUNCE).emit()
    assert len(message) == 40
    assert message == b"rpmsg-client-sample".ljust(32, b"\0") + struct.pack("<II", 1024, 2)


def test_an_address_message_is_forty_four_bytes() -> None:
    message = AddressMessage("c", 1025, 1024, AsFlag.ASSIGN).emit()
    assert message == b"c".ljust(32, b"\0") + struct.pack("<III", 1025, 1024, 1)


@given(NAMES, ADDRS, st.sampled_from([NsFlag(value) for value in range(4)]))
def test_announcements_come_back_as_they_were(name: str, addr: int, flags: NsFlag) -> None:
    message = NameMessage(name, addr, flags)
    assert NameMessage.parse(message.emit()) == message


@given(NAMES, ADDRS, ADDRS, st.sampled_from(AsFlag))
def test_address_messages_come_back_as_they_were(name: str, dst: int, src: int, flag: AsFlag) -> None:
    message = AddressMessage(name, dst, src, flag)
    assert AddressMessage.parse(message.emit()) == message


@given(st.binary(max_size=80))
def test_any_message_is_understood_or_malformed(data: bytes) -> None:
    for kind in (NameMessage, AddressMessage):
        try:
            message = kind.parse(data)
        except Malformed:
            pass
        else:
            again = message.emit()
            end = again.index(b"\0")
            assert (again[: end + 1], again[32:]) == (data[: end + 1], data[32:])


@pytest.mark.hostile("M02")
@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (bytes(39), "ns_length"),
        (bytes(41), "ns_length"),
        (b"x" * 32 + struct.pack("<II", 1024, 0), "bad_name"),
        (bytes(32) + struct.pack("<II", 1024, 0), "bad_name"),
        (b"\xff".ljust(32, b"\0") + struct.pack("<II", 1024, 0), "bad_name"),
        (b"a\n".ljust(32, b"\0") + struct.pack("<II", 1024, 0), "bad_name"),
        (b"a".ljust(32, b"\0") + struct.pack("<II", 1024, 4), "ns_flags"),
        (b"a".ljust(32, b"\0") + struct.pack("<II", NS_ADDR, 0), "ns_address"),
        (b"a".ljust(32, b"\0") + struct.pack("<II", ADDR_ANY, 0), "ns_address"),
    ],
)
def test_an_announcement_that_says_nothing_is_counted_under_its_cause(data: bytes, cause: str) -> None:
    with pytest.raises(Malformed) as caught:
        NameMessage.parse(data)
    assert caught.value.cause == cause


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (bytes(40), "as_length"),
        (b"a".ljust(32, b"\0") + struct.pack("<III", 1024, 1024, 3), "as_flags"),
        (b"a".ljust(32, b"\0") + struct.pack("<III", ADDR_ANY, 1024, 1), "as_address"),
        (b"a" * 32 + struct.pack("<III", 1024, 1024, 1), "bad_name"),
    ],
)
def test_an_address_message_that_says_nothing_is_counted_under_its_cause(data: bytes, cause: str) -> None:
    with pytest.raises(Malformed) as caught:
        AddressMessage.parse(data)
    assert caught.value.cause == cause


@pytest.mark.parametrize("name", ["", "x" * 32, "tab\t", "é", "nul\0"])
def test_a_name_that_no_announcement_can_carry_is_refused(name: str) -> None:
    with pytest.raises(RpmsgError):
        check_name(name)


def test_the_configuration_is_both_sizes_and_room_for_more() -> None:
    config = RpmsgConfig(1024, 2048)
    assert config.emit() == struct.pack("<II", 1024, 2048).ljust(64, b"\0")
    assert RpmsgConfig.parse(config.emit()[: CONFIG_SIZES.size]) == config


@pytest.mark.parametrize(
    ("size", "valid"), [(0, False), (MIN_BUFFER - 1, False), (MIN_BUFFER, True), (MAX_BUFFER, True), (1 << 31, False)]
)
def test_buffers_hold_every_message_of_the_services_and_no_more_than_the_length_field_can_say(
    size: int, valid: bool
) -> None:
    assert RpmsgConfig(size, 512).valid is RpmsgConfig(512, size).valid is valid
    assert (MIN_BUFFER, MAX_BUFFER) == (60, 65551)


def test_the_address_service_is_not_offered_without_the_name_service() -> None:
    assert TABLE.prune(mask((RpmsgFeature.AS,))) == 0
    assert RPMSG.device_id is DeviceId.RPMSG
