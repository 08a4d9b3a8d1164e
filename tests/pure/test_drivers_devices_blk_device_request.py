"""A chain is a request, or has the one outcome that its fault calls for; nothing is looked at twice."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import pairwise

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.bus.config import emit_config
from drivers.devices.blk.device.request import BlkLimits, Refusal, VhostBlkRequest
from drivers.devices.blk.driver.geometry import Geometry
from drivers.devices.blk.layout import (
    CONFIG_SIZE,
    HEADER,
    SECTOR,
    SEGMENT,
    SUPPORTED,
    TABLE,
    UNMAP,
    BlkConfigField,
    BlkFeature,
    BlkStatus,
    RequestType,
)
from drivers.errors import ProbeError
from drivers.storage.workers import StoreExtent
from rings.errors import BadChain

LIMITS = BlkLimits(capacity=1000, features=SUPPORTED, max_sectors=100, max_segments=4)
READ_ONLY = attrs.evolve(LIMITS, read_only=True)
PLAIN = attrs.evolve(LIMITS, features=0)
IN, OUT, FLUSH, GET_ID, GET_LIFETIME, DISCARD, ZEROES, ERASE = RequestType
IOERR, UNSUPP = BlkStatus.IOERR, BlkStatus.UNSUPP
END = (1 << 64) - 1


def views(*sizes: int) -> list[memoryview]:
    return [memoryview(bytearray(size)) for size in sizes]


def readable(*parts: bytes) -> list[memoryview]:
    return [memoryview(bytearray(part)) for part in parts]


def header(kind: int, sector: int = 0) -> bytes:
    return HEADER.pack(kind, 0, sector)


def segments(*rows: tuple[int, int, int]) -> bytes:
    return b"".join(SEGMENT.pack(*row) for row in rows)


def parse(
    read: Sequence[memoryview], write: Sequence[memoryview], limits: BlkLimits = LIMITS
) -> VhostBlkRequest | Refusal:
    return VhostBlkRequest.parse((7, list(read), list(write)), limits)


def refused(
    read: Sequence[memoryview], write: Sequence[memoryview], limits: BlkLimits = LIMITS
) -> tuple[BlkStatus, str]:
    parsed = parse(read, write, limits)
    assert isinstance(parsed, Refusal)
    assert (parsed.head, len(parsed.status_byte)) == (7, 1)
    return parsed.status, parsed.cause


def test_a_read_has_its_data_before_the_status_wherever_descriptors_end() -> None:
    for write in (views(1024, 1), views(1025), views(512, 513), views(1, 1023, 1)):
        parsed = parse(readable(header(IN, 5)), write)
        assert isinstance(parsed, VhostBlkRequest)
        assert (parsed.kind, parsed.offset, parsed.size, sum(map(len, parsed.data))) == (IN, 5 * SECTOR, 1024, 1024)
        parsed.status_byte[0] = 9
        assert write[-1][-1] == 9
        for part in parsed.data:
            part[:] = b"\1" * len(part)
        assert b"".join(write) == b"\1" * 1024 + b"\x09"


def test_a_write_has_its_data_behind_the_header_wherever_descriptors_end() -> None:
    data = bytes(range(256)) * 4
    whole = header(OUT, 3) + data
    for cuts in ((16,), (1, 16), (20,), (), (16, 528), (5, 10, 700)):
        ends = [0, *cuts, len(whole)]
        parsed = parse(readable(*(whole[a:b] for a, b in pairwise(ends))), views(1))
        assert isinstance(parsed, VhostBlkRequest)
        assert (parsed.kind, parsed.offset, parsed.size) == (OUT, 3 * SECTOR, 1024)
        assert b"".join(parsed.data) == data


def test_flush_and_get_id_take_no_sector_into_account() -> None:
    flush = parse(readable(header(FLUSH, END)), views(1))
    assert isinstance(flush, VhostBlkRequest)
    assert (flush.kind, flush.size) == (FLUSH, 0)
    name = parse(readable(header(GET_ID, END)), views(20, 1))
    assert isinstance(name, VhostBlkRequest)
    assert (name.kind, name.size) == (GET_ID, 20)


def test_ranges_are_all_there_in_bytes_with_what_may_be_given_up() -> None:
    parsed = parse(readable(header(ZEROES), segments((1, 2, UNMAP), (5, 0, 0))), views(1))
    assert isinstance(parsed, VhostBlkRequest)
    assert parsed.extents == (StoreExtent(512, 1024, True), StoreExtent(2560, 0, False))
    parsed = parse(readable(header(DISCARD) + segments((900, 100, 0))), views(1))
    assert isinstance(parsed, VhostBlkRequest)
    assert parsed.extents == (StoreExtent(900 * 512, 51200, True),)
    parsed = parse(readable(header(ERASE), segments((1, 2, 0), (3, 4, 0))), views(1))
    assert isinstance(parsed, VhostBlkRequest)
    assert [(extent.offset, extent.size) for extent in parsed.extents] == [(512, 1024), (1536, 2048)]


@pytest.mark.hostile("B02")
@pytest.mark.parametrize("read", [[], readable(b""), readable(header(IN)[:15]), readable(b"\0" * 8, b"\0" * 7)])
def test_a_short_header_is_an_error_where_there_is_a_byte_for_it(read: Sequence[memoryview]) -> None:
    assert refused(read, views(513)) == (IOERR, "short_header")


@pytest.mark.hostile("B02")
@pytest.mark.parametrize("read", [[], readable(header(IN)), readable(header(OUT) + bytes(512))])
def test_without_a_byte_for_the_status_nothing_can_be_answered(read: Sequence[memoryview]) -> None:
    with pytest.raises(BadChain, match="no byte for the status"):
        parse(read, [])


@pytest.mark.hostile("B02")
@pytest.mark.parametrize("size", [1, 511, 513, 1000])
def test_data_that_are_no_whole_sectors_are_an_error(size: int) -> None:
    assert refused(readable(header(IN)), views(size, 1)) == (IOERR, "unaligned")
    assert refused(readable(header(OUT), bytes(size)), views(1)) == (IOERR, "unaligned")


@pytest.mark.hostile("B01")
@pytest.mark.parametrize(("sector", "count"), [(1000, 1), (999, 2), (END, 1), (END - 1, 4), (1 << 55, 1), (1001, 0)])
def test_nothing_reaches_beyond_the_end_not_even_around_it(sector: int, count: int) -> None:
    assert refused(readable(header(IN, sector)), views(count * 512, 1)) == (IOERR, "beyond_end")
    assert refused(readable(header(OUT, sector), bytes(count * 512)), views(1)) == (IOERR, "beyond_end")


@pytest.mark.hostile("B01")
def test_the_last_sector_is_there() -> None:
    assert isinstance(parse(readable(header(IN, 999)), views(512, 1)), VhostBlkRequest)
    assert isinstance(parse(readable(header(IN, 1000)), views(1)), VhostBlkRequest)  # nothing, at the very end


@pytest.mark.hostile("B03")
@pytest.mark.virtio("BLK-DEV-31", "BLK-DEV-53")
@pytest.mark.parametrize("kind", [2, 3, 5, 9, 15, 16, 18, 20, 22, 24, 26, 0x8000_0000, 0xFFFF_FFFF])
def test_types_that_were_not_negotiated_are_unsupported_zones_among_them(kind: int) -> None:
    assert refused(readable(header(kind)), views(512, 1)) == (UNSUPP, "unknown_type")


@pytest.mark.hostile("B03")
@pytest.mark.parametrize("kind", [FLUSH, DISCARD, ZEROES, GET_LIFETIME, ERASE])
def test_a_type_exists_only_with_its_feature(kind: int) -> None:
    assert refused(readable(header(kind)), views(1), PLAIN) == (UNSUPP, "unknown_type")


@pytest.mark.hostile("B03")
@pytest.mark.virtio("BLK-DEV-18")
@pytest.mark.parametrize("kind", [OUT, DISCARD, ZEROES, ERASE])
def test_nothing_changes_what_is_read_only(kind: int) -> None:
    assert refused(readable(header(kind), bytes(512)), views(1), READ_ONLY) == (IOERR, "read_only")


@pytest.mark.hostile("B04")
@pytest.mark.virtio("BLK-DEV-20", "BLK-DEV-21")
@pytest.mark.parametrize(
    ("kind", "rows", "outcome"),
    [
        (DISCARD, [(0, 1, UNMAP)], (UNSUPP, "bad_flags")),
        (DISCARD, [(0, 1, 2)], (UNSUPP, "bad_flags")),
        (ZEROES, [(0, 1, 0), (0, 1, 0x8000_0000)], (UNSUPP, "bad_flags")),
        (ERASE, [(0, 1, UNMAP)], (UNSUPP, "bad_flags")),
        (ERASE, [(0, 1, 0)] * 5, (IOERR, "too_many_segments")),
        (ERASE, [(0, 101, 0)], (IOERR, "too_long")),
        (ERASE, [(0, 1, 0), (1000, 1, 0)], (IOERR, "beyond_end")),
        (ZEROES, [(0, 1, 0)] * 5, (IOERR, "too_many_segments")),
        (DISCARD, [(0, 101, 0)], (IOERR, "too_long")),
        (DISCARD, [(0, 0xFFFF_FFFF, 0)], (IOERR, "too_long")),
        (DISCARD, [(1000, 1, 0)], (IOERR, "beyond_end")),
        (ZEROES, [(END, 2, 0)], (IOERR, "beyond_end")),
        (ZEROES, [(0, 1, 0), (901, 100, UNMAP)], (IOERR, "beyond_end")),
    ],
)
def test_ranges_that_are_not_all_good_are_refused_as_a_whole(
    kind: int, rows: list[tuple[int, int, int]], outcome: tuple[BlkStatus, str]
) -> None:
    assert refused(readable(header(kind), segments(*rows)), views(1)) == outcome


@pytest.mark.hostile("B04")
@pytest.mark.parametrize("size", [0, 1, 15, 17, 40])
def test_ranges_come_as_whole_segments(size: int) -> None:
    assert refused(readable(header(DISCARD), bytes(size)), views(1)) == (IOERR, "unaligned")


@given(
    st.binary(max_size=64),
    st.lists(st.integers(0, 16), max_size=6),
    st.lists(st.sampled_from([0, 1, 2, 511, 512, 513, 1024]), max_size=4),
    st.sampled_from([LIMITS, READ_ONLY, PLAIN]),
)
def test_any_request_is_one_of_three_and_within_the_disk(
    data: bytes, cuts: list[int], writable: list[int], limits: BlkLimits
) -> None:
    pieces = []
    for cut in cuts:
        pieces.append(data[:cut])
        data = data[cut:]
    try:
        parsed = parse([v for v in readable(*pieces, data) if v], [v for v in views(*writable) if v], limits)
    except BadChain:
        assert not sum(writable)
        return
    assert len(parsed.status_byte) == 1
    if isinstance(parsed, VhostBlkRequest):
        assert parsed.kind in limits.types
        ranges = parsed.extents or ((StoreExtent(parsed.offset, parsed.size),) if parsed.kind in (IN, OUT) else ())
        assert all(r.offset + r.size <= limits.capacity * SECTOR for r in ranges)
    else:
        assert parsed.status in (IOERR, UNSUPP)


# Configuration


@pytest.mark.virtio("BLK-DEV-4")
def test_every_field_is_where_the_specification_has_it_and_padding_is_zero() -> None:
    form = struct.Struct("<QII4xIBBHIBxHIIIIIB3xIII")
    for place, field in enumerate(BlkConfigField):
        offset, size = field.value
        value = (1 << 8 * size) - 1
        data = emit_config({field: value}, CONFIG_SIZE)
        assert data == bytes(offset) + value.to_bytes(size, "little") + bytes(72 - offset - size)
        assert form.unpack(data) == tuple(value if at == place else 0 for at in range(len(BlkConfigField)))


def geometry(features: int = SUPPORTED, **fields: int) -> Geometry:
    usual = {
        "CAPACITY": 1000,
        "SIZE_MAX": 1 << 20,
        "SEG_MAX": 16,
        "BLK_SIZE": 512,
        "MIN_IO_SIZE": 8,
        "NUM_QUEUES": 2,
        "MAX_DISCARD_SECTORS": 100,
        "MAX_WRITE_ZEROES_SECTORS": 0xFFFF_FFFF,
        "MAX_SECURE_ERASE_SECTORS": 200,
    }
    values = {field: fields.get(field.name, usual.get(field.name, 0)) for field in BlkConfigField}
    return Geometry.check("disk", features, values)


def test_a_driver_takes_from_the_configuration_what_it_has_features_for() -> None:
    parsed = geometry()
    assert (parsed.size, parsed.block_size, parsed.preferred, parsed.queues) == (512000, 512, 4096, 2)
    assert (parsed.discard_max, parsed.zeroes_max, parsed.erase_max) == (51200, 1 << 30, 102400)
    plain = geometry(0)
    assert (plain.block_size, plain.queues, plain.flushes, plain.segment_max) == (512, 1, False, 1 << 30)


@pytest.mark.hostile("D07")
@pytest.mark.parametrize("block", [0, 3, 256, 513, 1 << 17, 1 << 31, 0xFFFF_FFFF])
def test_a_block_size_that_can_not_be_is_refused(block: int) -> None:
    with pytest.raises(ProbeError, match=f"blocks of {block} bytes"):
        geometry(BLK_SIZE=block)


@pytest.mark.hostile("D07")
@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"CAPACITY": END}, "more than any offset"),
        ({"SIZE_MAX": 1}, "segments of 1 bytes"),
        ({"SIZE_MAX": 511}, "segments of 511 bytes"),
        ({"SIZE_MAX": 512, "BLK_SIZE": 4096}, "less than a block"),
        ({"NUM_QUEUES": 0}, "no queues"),
    ],
)
def test_other_fields_that_can_not_be_are_refused(fields: dict[str, int], why: str) -> None:
    with pytest.raises(ProbeError, match=why):
        geometry(**fields)


@pytest.mark.hostile("D07")
def test_fields_that_only_ask_for_too_much_are_cut() -> None:
    assert geometry(SEG_MAX=0).segments_max == 1
    assert geometry(PHYSICAL_BLOCK_EXP=255).preferred == 512 << 7
    assert geometry(CAPACITY=1001, BLK_SIZE=4096, SIZE_MAX=1 << 20).size == 125 * 4096


def test_feature_bits_are_the_specifications() -> None:
    names = "SIZE_MAX SEG_MAX RO BLK_SIZE FLUSH TOPOLOGY CONFIG_WCE MQ DISCARD WRITE_ZEROES LIFETIME SECURE_ERASE"
    assert TABLE.describe(sum(1 << bit for bit in BlkFeature)) == tuple(names.split())
