"""Faults of a wire by their rules: which packets they are about, how they are counted, and what a frame is."""

from __future__ import annotations

from random import Random

import pytest

from vnet.link.base import Direction
from vnet.link.datalink.dllps import Ack, CreditPhase, FlowControl, emit
from vnet.link.datalink.frames import frame_dllp, frame_tlp
from vnet.link.transaction.flow import Flow
from vnet.link.wire.impairments import FAULTS, Carried, Impairments, WireFault, WireRule, kind_of, rates
from vnet.link.wire.training import OrderedSet

DOWN, UP = Direction.DOWNSTREAM, Direction.UPSTREAM
LOST = WireFault.LOST_TLPS


def judged(impairments: Impairments, *ways: Direction) -> list[WireFault | None]:
    return [impairments.judge(Carried.TLP, way) for way in ways]


def test_each_fault_has_a_kind_of_packet_and_a_sentence() -> None:
    assert set(FAULTS) == set(WireFault)
    assert all(kind.about.endswith(".") for kind in FAULTS.values())
    with pytest.raises(ValueError, match="no probability"):
        WireRule(WireFault.BIT_ERRORS, rate=2)


def test_a_rule_counts_only_the_packets_that_it_is_about() -> None:
    impairments = Impairments([WireRule(LOST, nth=[2], direction=UP)])
    assert judged(impairments, DOWN, DOWN, UP) == [None] * 3
    assert impairments.judge(Carried.ACK, UP) is None
    assert judged(impairments, DOWN, UP, UP) == [None, LOST, None]
    assert impairments.done == {"lost_tlps": 1}


def test_new_rules_begin_at_the_first_packet_and_keep_the_counts_of_faults() -> None:
    noted: list[WireFault] = []
    impairments = Impairments([WireRule(LOST, nth=[1])])
    impairments.notify = noted.append
    judged(impairments, UP, UP)
    impairments.set([WireRule(WireFault.DUPLICATED, nth=[1])])
    assert judged(impairments, UP, UP) == [WireFault.DUPLICATED, None]
    assert noted == [LOST, WireFault.DUPLICATED]
    assert impairments.done == {"lost_tlps": 1, "duplicated": 1}


@pytest.mark.parametrize(("rate", "least", "most"), [(0.0, 0, 0), (0.25, 200, 300), (1.0, 1000, 1000)])
def test_a_rate_is_the_share_of_affected_packets(rate: float, least: int, most: int) -> None:
    impairments = Impairments([WireRule(LOST, rate=rate)], Random(1))
    judged(impairments, *[UP] * 1000)
    assert least <= impairments.done["lost_tlps"] <= most


def test_chances_of_nothing_make_no_rules() -> None:
    assert rates(lost_tlps=0.5, bit_errors=0.0) == [WireRule(LOST, rate=0.5)]
    with pytest.raises(ValueError, match="lost_socks"):
        rates(lost_socks=0.5)


def test_a_damaged_frame_differs_in_one_bit_and_any_bit_may_be_it() -> None:
    impairments, frame = Impairments(), bytes(range(4))
    changes = {int.from_bytes(impairments.damage(frame), "big") ^ int.from_bytes(frame, "big") for _ in range(1000)}
    assert changes == {1 << bit for bit in range(32)}


@pytest.mark.parametrize(
    ("frame", "kind"),
    [
        (frame_tlp(0, bytes(12)), Carried.TLP),
        (frame_dllp(emit(Ack(7))), Carried.ACK),
        (frame_dllp(emit(Ack(7, negative=True))), Carried.ACK),
        (frame_dllp(emit(FlowControl(CreditPhase.UPDATE, Flow.COMPLETION, 1, 1))), Carried.CREDITS),
        (frame_dllp(emit(FlowControl(CreditPhase.INIT1, Flow.POSTED, 1, 1))), Carried.OTHER),
        (frame_dllp(emit(FlowControl(CreditPhase.INIT2, Flow.POSTED, 1, 1))), Carried.OTHER),
        (OrderedSet.TS1.value, Carried.OTHER),
    ],
)
def test_faults_tell_frames_apart(frame: bytes, kind: Carried) -> None:
    assert kind_of(frame) is kind
