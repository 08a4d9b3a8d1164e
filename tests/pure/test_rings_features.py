"""Feature bits: names, words of 32, prerequisites."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rings.features import EMPTY_TABLE, FeatureTable, RingFeature, bits, mask, word

# A needs B; C needs one of A or B; D needs C and E.
A, B, C, D, E = range(5)
TABLE = FeatureTable(
    {A: "A", B: "B", C: "C", D: "D", E: "E"},
    {A: (frozenset({B}),), C: (frozenset({A, B}),), D: (frozenset({C}), frozenset({E}))},
)
FEATURES = st.integers(0, (1 << 130) - 1)


def legal(value: int) -> bool:
    """The rules above, spelled out."""
    has = [bool(value >> bit & 1) for bit in range(5)]
    return (not has[A] or has[B]) and (not has[C] or has[A] or has[B]) and (not has[D] or (has[C] and has[E]))


@given(FEATURES)
def test_bits_and_mask_are_inverse(value: int) -> None:
    actual = list(bits(value))
    assert actual == sorted(set(actual))
    assert mask(actual) == value


@given(FEATURES)
def test_words_put_together_are_the_value(value: int) -> None:
    words = [word(value, select) for select in range(5)]
    assert all(0 <= part < 1 << 32 for part in words)
    assert sum(part << 32 * select for select, part in enumerate(words)) == value
    assert word(value, 5) == 0


@pytest.mark.parametrize("select", [1 << 16, 0xFFFF_FFFF])
def test_a_word_far_beyond_the_end_is_zero_at_no_cost(select: int) -> None:
    assert word((1 << 64) - 1, select) == 0


@pytest.mark.virtio("FEAT-DRV-2", "FEAT-DEV-1")
@pytest.mark.parametrize("value", range(32))
def test_prune_keeps_just_what_has_its_prerequisites(value: int) -> None:
    kept = TABLE.prune(value)
    assert legal(kept)
    assert kept & ~value == 0
    assert TABLE.unmet(kept) == 0
    assert (TABLE.unmet(value) == 0) == legal(value) == (kept == value)
    # And no more is lost than must be: no legal part of it is larger.
    assert all(part & ~kept == 0 for part in range(32) if part & ~value == 0 and legal(part))


def test_prune_follows_a_chain_of_prerequisites() -> None:
    assert TABLE.prune(mask([A, C, D, E])) == mask([E])


def test_a_bit_with_no_name_is_not_known_and_described_by_its_number() -> None:
    assert TABLE.known() == mask(range(5)) | mask(RingFeature)
    assert not TABLE.known() >> 63 & 1
    assert TABLE.describe(mask([B, RingFeature.EVENT_IDX, RingFeature.VERSION_1, 63])) == (
        "B",
        "EVENT_IDX",
        "VERSION_1",
        "bit 63",
    )


def test_a_device_type_may_name_a_bit_that_rings_name_otherwise() -> None:
    table = FeatureTable({RingFeature.ADMIN_VQ: "GUEST_RSC4"})
    assert table.name(41) == "GUEST_RSC4"
    assert EMPTY_TABLE.name(41) == "ADMIN_VQ"


def test_the_bits_of_rings_are_those_of_the_specification() -> None:
    assert {bit.name: int(bit) for bit in RingFeature} == {
        "INDIRECT_DESC": 28,
        "EVENT_IDX": 29,
        "VERSION_1": 32,
        "ACCESS_PLATFORM": 33,
        "RING_PACKED": 34,
        "IN_ORDER": 35,
        "ORDER_PLATFORM": 36,
        "SR_IOV": 37,
        "NOTIFICATION_DATA": 38,
        "NOTIF_CONFIG_DATA": 39,
        "RING_RESET": 40,
        "ADMIN_VQ": 41,
        "SUSPEND": 43,
    }
