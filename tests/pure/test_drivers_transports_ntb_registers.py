"""virtio over an NTB: the scratchpad map, offers and answers, and where the rings lie in the window."""

from __future__ import annotations

from contextlib import suppress
from itertools import pairwise

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.carriers.ntb_registers import (
    CONFIG_SIZE,
    MSIX_OFFSET,
    MW_ALIGN,
    SPAD_OFFSET,
    VECTORS,
    Bar,
    mw_offset,
    mw_offsets,
    mw_size,
)
from drivers.transports.ntb.names import register_name
from drivers.transports.ntb.registers import (
    BUFFER_OFFSET,
    CONFIG_WORDS,
    DB_CONTROL,
    DB_QUEUES,
    MAGIC,
    MAX_QUEUES,
    SPADS,
    VERSION,
    Answer,
    NtbRefused,
    Offer,
    RingArea,
    Spad,
    config_words,
    emit_command,
    parse_command,
    spad_names,
)
from rings.layout import check_split, split_sizes
from rings.memory import Addr

RFC = {
    "TYPE": 0,
    "VENDOR_ID": 1,
    "DEVICE_ID": 2,
    "VHOST_FEATURES_HI": 3,
    "VHOST_FEATURES_LO": 4,
    "VIRTIO_FEATURES_HI": 5,
    "VIRTIO_FEATURES_LO": 6,
    "MW0_SIZE_LO": 7,
    "MW0_SIZE_HI": 8,
    "MW0_ADDR_LO": 9,
    "MW0_ADDR_HI": 10,
    "STATUS": 11,
    "GENERATION": 12,
    "COMMAND": 13,
    "COMMAND_STATUS": 14,
    "NUM_BUFFERS": 15,
    "CONFIG": 23,
}
nums = st.integers(0, 9).map(lambda n: 1 << n)
aligns = st.integers(4, 16).map(lambda n: 1 << n)
offers = st.builds(
    Offer,
    session=st.integers(1, 0xFFFF_FFFF),
    vendor_id=st.integers(0, 0xFFFF_FFFF),
    device_id=st.integers(1, 0xFFFF_FFFF),
    features=st.integers(0, (1 << 128) - 1),
    mw_size=st.just(1 << 30),
    nums=st.lists(nums, min_size=1, max_size=MAX_QUEUES).map(tuple),
    config_bytes=st.integers(0, 4 * CONFIG_WORDS),
    align=aligns,
)
OFFER = Offer(7, 0x1AF4, 1, 1 << 32, 64 << 20, (256, 256), 12, 64)
ANSWER = Answer(7, Addr(0x4000_0000), 4096, BUFFER_OFFSET)


@pytest.mark.parametrize(
    ("bar", "offset", "name"),
    [
        (Bar.CONFIG, 0x00, "command"),
        (Bar.CONFIG, 0x38, "db_data[1]"),
        (Bar.CONFIG, 0xB8, "db_offset[1]"),
        (Bar.CONFIG, 0x134, "magic"),
        (Bar.CONFIG, 0x148, "mws[1]"),
        (Bar.CONFIG, 0x15C, None),
        (Bar.CONFIG, 0x418, "msix[1]+0x8"),
        (Bar.CONFIG, 0x1000 + 4 * 11, "spad.status"),
        (Bar.CONFIG, 0x1000 + 4 * 16, "spad.num_buffers(1)"),
        (Bar.CONFIG, 0x1200, "peer_spad.type"),
        (Bar.CONFIG, 0x1200 + 4 * 127, None),
        (Bar.CONFIG, 0x1400, None),
        (Bar.DOORBELLS, 0, None),
        (Bar.DOORBELLS, 4 * 2, "notify[0]"),
        (Bar.DOORBELLS, 4 * 10, "notify[control]"),
        (Bar.DOORBELLS, 4 * 32, None),
        (Bar.WINDOWS, 0x10, "window+0x10"),
        (Bar.WINDOWS + 1, 0, None),
    ],
)
def test_registers_scratchpads_and_doorbells_have_names(bar: int, offset: int, name: str | None) -> None:
    assert register_name(bar, offset) == name


def test_the_map_is_the_rfcs_and_no_word_has_two_meanings() -> None:
    assert {name: Spad[name].value for name in RFC} == RFC
    names = spad_names()
    assert len(set(names.values())) == len(names)
    assert [names[15 + i] for i in range(8)] == [f"NUM_BUFFERS({i})" for i in range(8)]
    assert names[22] == "NUM_BUFFERS(7)"
    assert (names[95], names[96]) == (f"CONFIG({CONFIG_WORDS - 1})", "MAGIC")
    assert max(names) < SPADS <= 128


def test_doorbells_are_masks_with_a_bit_for_each_queue_and_one_more() -> None:
    assert (DB_QUEUES, DB_CONTROL) == (0xFF, 0x100)


def test_the_functions_bars_hold_what_they_have_to() -> None:
    assert CONFIG_SIZE <= MSIX_OFFSET
    assert MSIX_OFFSET + 16 * VECTORS + 8 <= SPAD_OFFSET
    assert [mw_offset(i) for i in range(4)] + [mw_size(3) + 4] == [0x13C, 0x144, 0x14C, 0x154, 0x15C]


@given(st.lists(st.integers(1, 1 << 24), min_size=1, max_size=4))
def test_memory_windows_lie_apart_on_pages_of_their_own(sizes: list[int]) -> None:
    offsets, end = mw_offsets(sizes)
    assert all(offset % MW_ALIGN == 0 for offset in offsets)
    assert offsets[0] == 0
    ends = [*offsets, end]
    assert all(low + size <= high for size, (low, high) in zip(sizes, pairwise(ends), strict=True))


@given(offers)
def test_an_offer_survives_the_scratchpads(offer: Offer) -> None:
    """Also its feature bits beyond the 64 of the RFC."""
    words = offer.emit()
    assert all(0 <= value <= 0xFFFF_FFFF for value in words.values())
    assert list(words)[-1] == Spad.SESSION
    assert Offer.parse(lambda spad: words[Spad(spad) if spad in tuple(Spad) else spad]) == offer


@given(offers, aligns)
def test_an_answer_survives_the_scratchpads(offer: Offer, align: int) -> None:
    align = max(align, offer.align)
    area = RingArea(offer.nums, align)
    answer = Answer(offer.session, Addr(0x12_4000_0000), align, area.buffer_offset)
    words = answer.emit()
    assert list(words)[-1] == Spad.VIRTIO_SESSION
    assert Answer.parse(words.__getitem__, offer) == answer


BAD_OFFERS = [
    ({Spad.MAGIC: 0}, "version"),
    ({Spad.MAGIC: 0xFFFF_FFFF, Spad.VERSION: 0xFFFF_FFFF}, "version"),
    ({Spad.VERSION: 0}, "has version 0"),
    ({Spad.VERSION: VERSION + 1}, "has version 2"),
    ({Spad.NUM_QUEUES: 0}, "0 queues"),
    ({Spad.NUM_QUEUES: 9}, "9 queues"),
    ({Spad.NUM_QUEUES: 0xFFFF_FFFF}, "queues"),
    ({Spad.NUM_BUFFERS: 0}, "0 buffers for queue 0"),
    ({Spad.NUM_BUFFERS + 1: 255}, "255 buffers for queue 1"),
    ({Spad.NUM_BUFFERS: 65536}, "65536 buffers"),
    ({Spad.DEVICE_ID: 0}, "no device id"),
    ({Spad.CONFIG_BYTES: 4 * CONFIG_WORDS + 1}, "bytes of configuration"),
    ({Spad.VHOST_ALIGN: 0}, "aligned to 0"),
    ({Spad.VHOST_ALIGN: 48}, "aligned to 48"),
    ({Spad.VHOST_ALIGN: 1 << 31}, "aligned to"),
]


@pytest.mark.hostile("T05")
@pytest.mark.parametrize(("words", "why"), BAD_OFFERS)
def test_an_offer_that_makes_no_sense_is_refused(words: dict[int, int], why: str) -> None:
    with pytest.raises(NtbRefused, match=why):
        Offer.parse({**OFFER.emit(), **words}.__getitem__)


BAD_ANSWERS = [
    ({Spad.VIRTIO_VERSION: 0}, "has version 0"),
    ({Spad.VIRTIO_ALIGN: 32}, "aligns rings to 32"),
    ({Spad.VIRTIO_ALIGN: 96}, "aligns rings to 96"),
    ({Spad.VIRTIO_ALIGN: 1 << 20}, "aligns rings to"),
    ({Spad.MW0_ADDR_LO: 0x4000_0800}, "window at"),
    ({Spad.MW0_ADDR_HI: 0xFFFF_FFFF, Spad.MW0_ADDR_LO: 0xFFFF_F000}, "window at"),
    ({Spad.BUFFER_OFFSET: BUFFER_OFFSET - 1}, "buffers"),
    ({Spad.BUFFER_OFFSET: 0}, "buffers"),
    ({Spad.BUFFER_OFFSET: 64 << 20}, "buffers"),
]


@pytest.mark.hostile("T05")
@pytest.mark.parametrize(("words", "why"), BAD_ANSWERS)
def test_an_answer_that_makes_no_sense_is_refused(words: dict[int, int], why: str) -> None:
    with pytest.raises(NtbRefused, match=why):
        Answer.parse({**ANSWER.emit(), **words}.__getitem__, OFFER)


@pytest.mark.hostile("T05")
@given(st.lists(st.integers(0, 0xFFFF_FFFF), min_size=SPADS, max_size=SPADS), st.booleans())
def test_any_scratchpad_values_are_accepted_or_refused(words: list[int], magic: bool) -> None:
    if magic:
        words[Spad.MAGIC], words[Spad.VERSION], words[Spad.VIRTIO_VERSION] = MAGIC, VERSION, VERSION
    for parse in (lambda: Offer.parse(words.__getitem__), lambda: Answer.parse(words.__getitem__, OFFER)):
        with suppress(NtbRefused):  # and nothing else
            parse()


@given(st.lists(st.integers(0, 15).map(lambda n: 1 << n), min_size=1, max_size=MAX_QUEUES).map(tuple), aligns)
def test_rings_of_any_sizes_and_alignment_are_sound_and_lie_apart_before_the_buffers(
    sizes: tuple[int, ...], align: int
) -> None:
    """The RFC put ring n at n times its own size: rings of different sizes overlapped, and only the first one of
    10246 bytes was aligned."""
    area = RingArea(sizes, align)
    window = Addr(0x4000_0000)
    ends = []
    for queue, num in enumerate(sizes):
        addrs = area.addrs(window, queue, num)
        check_split(num, addrs)
        assert addrs.device % align == 0
        ends.append((addrs.desc, addrs.device + split_sizes(num)[2]))
    assert all(end <= start for (_, end), (start, _) in pairwise(ends))
    assert ends[-1][1] <= window + area.buffer_offset
    assert area.buffer_offset >= BUFFER_OFFSET


def test_eight_rings_of_256_fit_before_the_rfcs_buffers_and_larger_ones_move_them() -> None:
    assert RingArea((256,) * 8, 4096).pitch == 12288
    assert RingArea((256,) * 8, 4096).buffer_offset == BUFFER_OFFSET
    assert RingArea((512,) * 8, 4096).buffer_offset > BUFFER_OFFSET


@given(st.integers(0, 1 << 26), st.integers(0, 255))
def test_a_command_carries_its_number(sequence: int, code: int) -> None:
    assert parse_command(emit_command(sequence, code)) == (sequence & 0xFF_FFFF, code)


@given(st.binary(max_size=4 * CONFIG_WORDS))
def test_a_configuration_of_any_length_is_words(config: bytes) -> None:
    words = config_words(config)
    assert sorted(words) == list(range(Spad.CONFIG, Spad.CONFIG + -(-len(config) // 4)))
    joined = b"".join(words[at].to_bytes(4, "little") for at in sorted(words))
    assert joined.rstrip(b"\0") == config.rstrip(b"\0")


def test_a_configuration_that_does_not_fit_is_refused() -> None:
    with pytest.raises(NtbRefused, match="does not fit"):
        config_words(bytes(4 * CONFIG_WORDS + 1))


def test_records_are_frozen() -> None:
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        OFFER.session = 1  # type: ignore[misc]
