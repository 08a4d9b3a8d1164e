"""Checksums and segments made in software are those that scapy makes: the same frames, byte for byte."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.contracts.ports import ALL_OFFLOADS, NO_OFFLOADS, Offloads
from drivers.devices.net.header import NEEDS_CSUM, GsoType
from drivers.devices.net.software import BadGso, finish, ones_sum
from support.rigs.segments import (
    CSUM_ONLY,
    EVERY,
    PIECES,
    PLAIN,
    Case,
    Q,
    finished,
    loop_sum,
    pseudo,
    views,
)


@EVERY
@PIECES
def test_segments_are_those_of_a_sender_without_offloads(case: Case, sizes: tuple[int, ...]) -> None:
    done = finished(case.header(), views(case.frame(), *sizes), NO_OFFLOADS)
    assert done == [(PLAIN, frame) for frame in case.segments()]


@EVERY
def test_a_receiver_that_can_do_checksums_gets_segments_with_the_pseudo_headers_sum(case: Case) -> None:
    header = struct.pack("<BBHHHHH", NEEDS_CSUM, 0, 0, 0, case.start, case.field, 0)
    done = finished(case.header(), views(case.frame(), 33), CSUM_ONLY)
    assert done == [(header, pseudo(frame, case)) for frame in case.segments()]


@EVERY
@PIECES
def test_a_checksum_is_the_one_that_scapy_fills_in(case: Case, sizes: tuple[int, ...]) -> None:
    whole = bytes(case.packet())
    assert finished(case.header(gso=False), views(pseudo(whole, case), *sizes), NO_OFFLOADS) == [(PLAIN, whole)]


@EVERY
def test_frames_that_the_receiver_can_finish_are_left_alone_and_not_copied(case: Case) -> None:
    pieces = views(case.frame(), 70)
    ((head, payload),) = finish(case.header(), pieces, ALL_OFFLOADS)
    assert head == case.header()
    assert all(a is b for a, b in zip(payload, pieces, strict=True))
    ((head, payload),) = finish(case.header(gso=False), pieces, CSUM_ONLY)
    assert head == case.header(gso=False)
    ((head, _),) = finish(PLAIN, pieces, NO_OFFLOADS)
    assert head == PLAIN


def test_the_payload_of_segments_is_still_where_it_was() -> None:
    case = Case()
    frame = memoryview(case.frame())
    for _, payload in finish(case.header(), [frame], NO_OFFLOADS):
        assert all(part.obj is frame.obj for part in payload)


@pytest.mark.parametrize("able", [CSUM_ONLY, Offloads(csum=True, tso6=True, uso=True), Offloads(tso4=True)])
def test_only_the_kind_that_it_is_of_and_checksums_spare_a_frame_from_being_cut(able: Offloads) -> None:
    assert len(list(finish(Case().header(), [memoryview(Case().frame())], able))) == 4


@pytest.mark.parametrize("v6", [False, True])
@pytest.mark.parametrize("gso", [False, True])
def test_a_udp_checksum_of_zero_is_sent_as_all_ones(v6: bool, gso: bool) -> None:
    """RFC 768: zero would say that there is none."""
    case = Case(tcp=False, v6=v6, size=2, mss=2)
    frame = bytearray(bytes(case.packet()))
    # The payload that makes the sum come out at 0xffff.
    at = case.start + case.field
    (was,) = struct.unpack_from(">H", frame, at)
    value = int.from_bytes(frame[-2:], "big") + was
    frame[-2:] = ((value & 0xFFFF) + (value >> 16)).to_bytes(2, "big")
    ((_, done),) = finished(case.header(gso), [memoryview(pseudo(bytes(frame), case))], NO_OFFLOADS)
    assert done[at : at + 2] == b"\xff\xff"


def changed(case: Case, at: int, value: int) -> bytes:
    frame = bytearray(case.frame())
    frame[at] = value
    return bytes(frame)


LONG = Case(v6=True, extensions=(252, 252))

UNFINISHED: dict[str, tuple[bytes, bytes]] = {
    "no IP": (Case().header(), changed(Case(), 14, 0x15)),
    "no frame behind its Ethernet header": (Case().header(), Case().frame()[:14]),
    "nothing but VLAN tags": (Case().header(), Case().frame()[:12] + b"\x81\0\0\5" * 80),
    "a VLAN tag that is cut short": (Case().header(), Case().frame()[:12] + b"\x88\xa8\0"),
    "IPv6 said to be IPv4": (Case().header(), Case(v6=True).frame()),
    "IPv4 said to be IPv6": (Case(v6=True).header(), Case().frame()),
    "the transport header within the Ethernet header": (struct.pack("<BBHHHHH", 1, 1, 54, 9, 4, 16, 0), Case().frame()),
    "the transport header within the IP header": (struct.pack("<BBHHHHH", 1, 1, 54, 9, 24, 16, 0), Case().frame()),
    "UDP within the IP header": (struct.pack("<BBHHHHH", 1, 5, 42, 9, 15, 6, 0), Case(tcp=False).frame()),
    "UDP within the IPv6 header": (struct.pack("<BBHHHHH", 1, 5, 42, 9, 34, 6, 0), Case(tcp=False, v6=True).frame()),
    "behind the IP header": (struct.pack("<BBHHHHH", 1, 1, 54, 9, 36, 16, 0), Case().frame()),
    "an IP header of 16 bytes": (struct.pack("<BBHHHHH", 1, 1, 54, 9, 30, 16, 0), changed(Case(), 14, 0x44)),
    "a TCP header of 16 bytes": (Case().header(), changed(Case(), 14 + 20 + 12, 0x40)),
    "a TCP header beyond the end": (Case().header(), Case(size=3).frame()[:-3][:50]),
    "a TCP header of 60 bytes in 20": (Case(size=3).header(), changed(Case(size=3), 14 + 20 + 12, 0xF0)),
    "its end before the TCP header's length": (struct.pack("<BBHHHHH", 1, 1, 0, 9, 34, 0, 0), Case().frame()[:36]),
    "a transport header far behind": (struct.pack("<BBHHHHH", 1, 4, 54, 9, 4000, 16, 0), Case(v6=True).frame()),
    "UDP far behind": (struct.pack("<BBHHHHH", 1, 5, 54, 9, 250, 6, 0), Case(tcp=False, v6=True).frame()),
    "no payload": (Case().header(), Case().frame()[:54]),
    "more segments than any sender makes": (Case(size=1025, mss=1).header(), Case(size=1025, mss=1).frame()),
    "a checksum behind the end": (struct.pack("<BBHHHHH", 1, 0, 0, 0, 34, 16, 0), Case().frame()[:51]),
    "a checksum far behind the end": (struct.pack("<BBHHHHH", 1, 0, 0, 0, 65_000, 16, 0), Case().frame()),
    "an IPv6 header that is cut short": (struct.pack("<BBHHHHH", 1, 5, 62, 9, 54, 6, 0), Case(v6=True).frame()[:53]),
    "TCP said to be UDP": (struct.pack("<BBHHHHH", 1, 5, 42, 9, 34, 6, 0), Case().frame()),
    "UDP said to be TCP": (struct.pack("<BBHHHHH", 1, 4, 74, 9, 54, 16, 0), Case(tcp=False, v6=True).frame()),
    "an extension header beyond the transport header": (LONG.header(), changed(LONG, 14 + 40 + 1, 40)),
    "a fragment": (LONG.header(), changed(LONG, 14 + 6, 44)),
    "extension headers without an end": (
        struct.pack("<BBHHHHH", 1, 4, 0, 1400, 14 + 40 + 8 * 100, 16, 0),
        Case(v6=True).frame()[:20] + bytes(40 - 6) + bytes(8 * 101) + bytes(3000),
    ),
    "a segment larger than any IP packet": (
        Case(tcp=False, size=65_508).header(mss=65_535),
        Case(tcp=False, size=65_506).frame() + bytes(2),
    ),
    "long headers before small segments": (LONG.header(mss=8), LONG.frame()),
}


@pytest.mark.parametrize("why", UNFINISHED)
def test_a_frame_that_is_not_what_its_header_says_is_unfinished(why: str) -> None:
    header, frame = UNFINISHED[why]
    with pytest.raises(BadGso):
        list(finish(header, [memoryview(frame)], NO_OFFLOADS))


@given(
    header=st.tuples(
        st.sampled_from([0, NEEDS_CSUM]),
        st.sampled_from(list(GsoType)),
        st.integers(0, 100),
        st.integers(1, 2000),
        st.integers(0, 100) | st.integers(0, 0xFFFF),
        st.integers(0, 20) | st.integers(0, 0xFFFF),
        st.just(0),
    ),
    prefix=st.sampled_from([Case().frame(), Case(v6=True, tags=(Q,)).frame(), Case(tcp=False).frame(), b""]),
    size=st.integers(0, 200),
    noise=st.binary(max_size=80),
)
def test_any_header_and_frame_are_finished_or_unfinished(
    header: tuple[int, ...], prefix: bytes, size: int, noise: bytes
) -> None:
    frame = prefix[:size] + noise
    try:
        made = finished(struct.pack("<BBHHHHH", *header), [memoryview(frame)], NO_OFFLOADS)
    except BadGso:
        return
    assert made
    assert all(len(out) <= max(len(frame), 60) for _, out in made)


# The sum itself


@given(st.binary(max_size=300))
def test_the_sum_is_that_of_a_plain_loop(data: bytes) -> None:
    assert ones_sum(data) == loop_sum(data)
    assert ones_sum(memoryview(data)) == ones_sum(bytearray(data)) == loop_sum(data)


@pytest.mark.parametrize("size", [0, 1, 2, 3, 1447, 65_535])
@pytest.mark.parametrize("octet", [0, 1, 0xFF])
def test_the_sum_of_nothing_but_zeroes_alone_is_zero(size: int, octet: int) -> None:
    data = bytes([octet]) * size
    assert ones_sum(data) == loop_sum(data)
    assert (ones_sum(data) == 0) is (not any(data))


@given(st.lists(st.binary(max_size=33), max_size=6))
def test_a_checksum_is_the_same_however_a_frame_is_cut(parts: list[bytes]) -> None:
    frame = Case(size=10).frame() + b"".join(parts)
    header = Case().header(gso=False)
    cut = [memoryview(Case(size=10).frame()), *[memoryview(part) for part in parts]]
    assert finished(header, cut, NO_OFFLOADS) == finished(header, [memoryview(frame)], NO_OFFLOADS)
