"""virtio-scsi's structures are those of the specification, and chains mean the same wherever descriptors end."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.devices.scsi import SCSI
from drivers.devices.scsi.device.request import ControlRequest, VhostScsiRequest
from drivers.devices.scsi.driver.queues import split
from drivers.devices.scsi.driver.result import ScsiEvent, ScsiRequest, read_result
from drivers.devices.scsi.layout import (
    CDB_SIZES,
    EVENT,
    EVENTS_MISSED,
    HEADER,
    NOTIFICATION,
    NOTIFICATION_ANSWER,
    REPORT_LUNS,
    RESPONSE,
    SENSE_SIZES,
    SUPPORTED,
    TABLE,
    TMF,
    WELL_KNOWN,
    AsyncEvent,
    ControlType,
    Lun,
    Response,
    ScsiConfig,
    ScsiConfigField,
    ScsiFeature,
    Tmf,
)
from drivers.devices.scsi.sense import Asc, FieldPointer, Sense, SenseKey
from rings.errors import BadChain
from rings.ids import DeviceId
from rings.memory import Addr

CONFIG = ScsiConfig()


def cut(data: bytes, places: Sequence[int]) -> list[memoryview]:
    """The same bytes in pieces, none of them empty."""
    ends = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    buffer = memoryview(bytearray(data))
    return [buffer[a:b] for a, b in pairwise(ends)]


# Constants


@pytest.mark.virtio("SCSI-DEV-2", "SCSI-DEV-3")
def test_the_configuration_is_that_of_the_specification() -> None:
    raw = ScsiConfig(num_queues=4).emit()
    assert len(raw) == 36
    actual = {field: int.from_bytes(raw[at : at + size], "little") for field, (at, size) in values().items()}
    assert actual[ScsiConfigField.NUM_QUEUES] == 4
    assert (actual[ScsiConfigField.SENSE_SIZE], actual[ScsiConfigField.CDB_SIZE]) == (96, 32)
    assert actual[ScsiConfigField.EVENT_INFO_SIZE] == 16
    assert (
        actual[ScsiConfigField.MAX_CHANNEL],
        actual[ScsiConfigField.MAX_TARGET],
        actual[ScsiConfigField.MAX_LUN],
    ) == (
        0,
        255,
        16383,
    )


def values() -> dict[ScsiConfigField, tuple[int, int]]:
    return {field: field.value for field in ScsiConfigField}


def test_structures_have_the_sizes_of_the_specification() -> None:
    assert (HEADER.size + 32, RESPONSE.size + 96) == (51, 108)
    assert (TMF.size, NOTIFICATION.size, NOTIFICATION_ANSWER.size, EVENT.size) == (24, 16, 5, 16)
    assert SCSI.device_id is DeviceId.SCSI
    assert not SUPPORTED >> ScsiFeature.T10_PI & 1
    assert TABLE.names == {0: "INOUT", 1: "HOTPLUG", 2: "CHANGE", 3: "T10_PI"}
    assert [int(value) for value in Response] == list(range(13))
    assert [int(value) for value in Tmf] == list(range(8))
    assert AsyncEvent(126) == sum(AsyncEvent)
    assert EVENTS_MISSED == 1 << 31
    assert 96 in SENSE_SIZES
    assert 32 in CDB_SIZES


# Logical units


@given(st.integers(0, 255), st.integers(0, 16383))
def test_a_lun_is_what_was_sent(target: int, number: int) -> None:
    lun = Lun(target, number)
    raw = lun.emit()
    assert raw == bytes((1, target, 0x40 | number >> 8, number & 255, 0, 0, 0, 0))
    assert Lun.parse(raw) == Lun.parse(lun.emit_reported()) == lun
    assert lun.emit_single()[2:] == bytes(6)


@pytest.mark.virtio("SCSI-DRV-8")
def test_numbers_below_256_are_reported_by_peripheral_addressing_as_linux_wants_them_in_events() -> None:
    assert Lun(3, 7).emit_reported() == bytes((1, 3, 0, 7, 0, 0, 0, 0))
    assert Lun(3, 300).emit_reported() == bytes((1, 3, 0x41, 0x2C, 0, 0, 0, 0))


@pytest.mark.hostile("K01")
@pytest.mark.parametrize(
    "raw",
    [
        "0000400000000000",
        "0200400000000000",
        "0100400000000001",
        "0100400100010000",
        "0100010000000000",
        "0100800000000000",
        "0100c10200000000",
        "c100000000000000",
        "c101000100000000",
        "ffffffffffffffff",
    ],
)
def test_an_invalid_lun_names_nothing(raw: str) -> None:
    assert Lun.parse(bytes.fromhex(raw)) is None


def test_the_well_known_unit_has_two_names() -> None:
    assert Lun.parse(bytes.fromhex("c101000000000000")) == REPORT_LUNS
    assert REPORT_LUNS.emit() == bytes.fromhex("c101000000000000")
    assert Lun.parse(bytes.fromhex("0107c10100000000")) == Lun(7, WELL_KNOWN)


# Requests


@given(st.binary(max_size=40), st.integers(0, 40), st.lists(st.integers(0, 200)), st.sampled_from([96, 18]))
def test_a_request_is_the_same_wherever_descriptors_end(
    out: bytes, room: int, places: list[int], sense_size: int
) -> None:
    config = ScsiConfig(sense_size=sense_size)
    cdb = bytes(range(32))
    readable = cut(HEADER.pack(Lun(1, 2).emit(), 0x1122334455667788, 0, 0, 0) + cdb + out, places)
    size = RESPONSE.size + sense_size
    writable = cut(b"\xaa" * (size + room), places)
    request = VhostScsiRequest.parse((5, readable, writable), config)
    assert (request.head, request.lun, request.tag, request.cdb) == (5, Lun(1, 2), 0x1122334455667788, cdb)
    assert (request.out_size, b"".join(request.out)) == (len(out), out)
    assert (request.in_size, request.response_size, request.complete) == (room, size, True)
    request.answer(Response.OK, 2, Sense(SenseKey.ILLEGAL_REQUEST, Asc.INVALID_FIELD_IN_CDB), min(5, room))
    raw = b"".join(writable)
    assert RESPONSE.unpack_from(raw) == (18, len(out) + room - min(5, room), 0, 2, 0)
    assert raw[12:30] == Sense(SenseKey.ILLEGAL_REQUEST, Asc.INVALID_FIELD_IN_CDB).emit()
    assert raw[30:size] == bytes(size - 30)
    assert raw[size:] == b"\xaa" * room


@pytest.mark.hostile("K01")
@pytest.mark.parametrize(("read", "write"), [(50, 108), (0, 108), (51, 107), (18, 12)])
def test_a_chain_that_is_too_short_can_still_be_answered(read: int, write: int) -> None:
    writable = cut(b"\xaa" * write, [])
    request = VhostScsiRequest.parse((5, cut(bytes(read), []), writable), CONFIG)
    assert not request.complete
    request.answer(Response.FAILURE, 0, None, 0)
    assert RESPONSE.unpack_from(writable[0]) == (0, 0, 0, 0, 9)


@pytest.mark.hostile("K01", "R14")
@pytest.mark.parametrize("write", [0, 1, 11])
def test_without_room_for_a_response_nothing_can_be_answered(write: int) -> None:
    with pytest.raises(BadChain, match="no room for a response"):
        VhostScsiRequest.parse((5, cut(bytes(51), []), cut(bytes(write), [])), CONFIG)
    if not write:
        with pytest.raises(BadChain, match="no byte for the response"):
            ControlRequest.parse((5, cut(bytes(24), []), []))


@given(st.lists(st.integers(0, 30)), st.integers(1, 8))
def test_a_question_is_the_same_wherever_descriptors_end(places: list[int], room: int) -> None:
    writable = cut(b"\xaa" * room, places)
    tmf = ControlRequest.parse((5, cut(TMF.pack(0, 5, Lun(2, 3).emit(), 99), places), writable))
    assert (tmf.complete, tmf.kind, tmf.function, tmf.lun, tmf.tag) == (True, ControlType.TMF, 5, Lun(2, 3), 99)
    assert tmf.answer(Response.FUNCTION_REJECTED) == 1
    assert b"".join(writable) == b"\x0b" + b"\xaa" * (room - 1)
    writable = cut(b"\xaa" * room, places)
    query = ControlRequest.parse((5, cut(NOTIFICATION.pack(1, Lun(2, 3).emit(), 18), places), writable))
    assert (query.complete, query.kind, query.lun, query.events) == (room >= 5, 1, Lun(2, 3), 18)
    assert query.answer(Response.OK, 16) == (5 if room >= 5 else 0)
    expected = struct.pack("<IB", 16, 0) + b"\xaa" * (room - 5) if room >= 5 else b"\xaa" * (room - 1) + b"\0"
    assert b"".join(writable) == expected


@pytest.mark.parametrize("data", [b"", b"\0\0", TMF.pack(3, 0, bytes(8), 0), TMF.pack(0, 0, bytes(8), 0)[:-1]])
def test_a_question_that_is_none_finds_its_answer_in_the_last_byte(data: bytes) -> None:
    writable = cut(b"\xaa" * 5, [2])
    control = ControlRequest.parse((5, cut(data, []) if data else [], writable))
    assert not control.complete
    assert control.answer(Response.FAILURE) == 0
    assert b"".join(writable) == b"\xaa" * 4 + b"\x09"


# Sense


@given(
    st.sampled_from(SenseKey),
    st.sampled_from(Asc),
    st.none() | st.integers(0, 0xFFFF_FFFF),
    st.none() | st.builds(FieldPointer, st.integers(0, 0xFFFF), st.none() | st.integers(0, 7), st.booleans()),
)
def test_sense_is_what_was_sent(key: SenseKey, asc: Asc, information: int | None, field: FieldPointer | None) -> None:
    sense = Sense(key, asc, information, field if key is SenseKey.ILLEGAL_REQUEST else None)
    raw = sense.emit()
    assert (len(raw), raw[0] & 0x7F, raw[7]) == (18, 0x70, 10)
    assert Sense.parse(raw) == Sense.parse(raw + bytes(78)) == sense
    assert Sense.parse(raw[:14]) == Sense(key, asc, information)


def test_sense_of_others_is_read_or_is_none() -> None:
    assert Sense.parse(bytes.fromhex("7206290000000000")) == Sense(6, 0x2900)
    for raw in (b"", b"\x70", b"\x00" * 18, b"\x7f" + bytes(17)):
        assert Sense.parse(raw) is None
    assert str(Sense(6, 0x2900)) == "unit attention, power on or reset"
    assert str(Sense(0x16, 0x4B03)) == "key 0x16, 4b/03"


# What a driver believes

REQUEST = ScsiRequest(Lun(0, 0), bytes(6), print, out_size=10, in_size=20)


def answer(sense_len: int, residual: int, status: int, response: int) -> bytes:
    return RESPONSE.pack(sense_len, residual, 0, status, response) + bytes(range(96))


@pytest.mark.hostile("D03")
@pytest.mark.parametrize(
    ("raw", "written"),
    [
        pytest.param(answer(0, 20, 0, 0), 11, id="no response"),
        pytest.param(answer(0, 0, 0, 0), 108 + 19, id="more data than was written"),
        pytest.param(answer(0, 19, 0, 0), 108, id="a byte that was not written"),
        pytest.param(answer(0, 31, 0, 0), 128, id="residual beyond everything"),
        pytest.param(answer(0, 20, 0, 13), 128, id="no such response"),
        pytest.param(answer(0, 20, 0, 0xFF), 128, id="not answered"),
    ],
)
def test_an_answer_that_contradicts_itself_says_nothing(raw: bytes, written: int) -> None:
    assert read_result(REQUEST, raw, 96, written) is None


def test_an_answer_is_read_as_far_as_it_was_written() -> None:
    actual = read_result(REQUEST, answer(200, 30, 2, 0), 96, 50)
    assert actual is not None
    assert actual.raw_sense == bytes(range(38))
    actual = read_result(REQUEST, answer(0xFFFF_FFFF, 20, 2, 0), 96, 128)
    assert actual is not None
    assert (actual.raw_sense, actual.data, actual.good) == (bytes(range(96)), b"", False)


def test_events_say_when_a_scan_is_due() -> None:
    assert ScsiEvent(1, Lun(0, 0), 1).rescan
    assert ScsiEvent(1, Lun(0, 0), 2).rescan
    assert not ScsiEvent(1, Lun(0, 0), 0).rescan
    assert ScsiEvent(0, None, 0, missed=True).rescan


@given(st.lists(st.integers(1, 100), max_size=5), st.integers(0, 500))
def test_a_buffer_is_split_between_what_is_read_and_what_is_written(sizes: list[int], at: int) -> None:
    segs = [(Addr(1000 * i), size) for i, size in enumerate(sizes)]
    first, rest = split(segs, at)
    size = sum(sizes)
    assert sum(length for _, length in first) == min(at, size)
    assert sum(length for _, length in rest) == size - min(at, size)
    every = [addr + i for addr, length in (*first, *rest) for i in range(length)]
    assert every == [addr + i for addr, length in segs for i in range(length)]
