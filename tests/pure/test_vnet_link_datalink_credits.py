"""Credits of a sender and of its receiver, without a wire."""

from __future__ import annotations

import pytest

from vnet.link.datalink.credits import GrantedCredits, UsableCredits
from vnet.link.datalink.dllps import CreditPhase, FlowControl
from vnet.link.datalink.errors import DataLinkError
from vnet.link.transaction.flow import Credits, Flow, Taken

GRANTED = {flow: Credits(8, 64) for flow in Flow}
PACKET = Taken(Flow.POSTED, 1, 8)
"""Credits of a write of 128 bytes."""


def usable_of(granted: GrantedCredits) -> UsableCredits:
    """Return a sender's credits that a receiver has initialised."""
    usable = UsableCredits()
    for packet in granted.first(CreditPhase.INIT1):
        usable.initialise(packet)
    return usable


def test_a_sender_knows_all_its_credits_once_each_flow_has_them_and_the_first_ones_count() -> None:
    usable = UsableCredits()
    for flow in Flow:
        assert not usable.complete
        usable.initialise(FlowControl(CreditPhase.INIT1, flow, 1, 8))
        usable.initialise(FlowControl(CreditPhase.INIT2, flow, 9, 99))
    assert usable.complete
    usable.take(PACKET)
    assert not usable.suffice(PACKET), "the second phase gave no more"


def test_a_packet_needs_credits_of_both_kinds() -> None:
    usable = UsableCredits()
    usable.initialise(FlowControl(CreditPhase.INIT1, Flow.POSTED, 2, 8))
    assert not usable.suffice(Taken(Flow.POSTED, 1, 9)), "data credits are missing"
    usable.take(Taken(Flow.POSTED, 2, 0))
    assert not usable.suffice(Taken(Flow.POSTED, 1, 1)), "header credits are missing"


def test_a_receiver_is_urgent_only_about_credits_that_are_free_and_not_yet_known() -> None:
    granted = GrantedCredits(GRANTED)
    for _ in range(5):
        assert granted.arrive(PACKET) is None
    assert granted.urgent is None, "none of them is free"
    granted.free(PACKET)
    assert granted.urgent is Flow.POSTED
    update = granted.update(Flow.POSTED)
    assert (update.phase, update.headers, update.data) == (CreditPhase.UPDATE, 9, 72)
    assert granted.urgent is None


def test_a_packet_too_many_overflows_and_takes_no_credits() -> None:
    granted = GrantedCredits(GRANTED)
    assert granted.arrive(Taken(Flow.POSTED, 1, 65)) is DataLinkError.OVERFLOW
    assert granted.arrive(Taken(Flow.POSTED, 1, 64)) is None


def test_a_limit_for_credits_without_limit_is_a_flow_control_error() -> None:
    usable = UsableCredits()
    usable.initialise(FlowControl(CreditPhase.INIT1, Flow.COMPLETION, 0, 0))
    assert usable.update(FlowControl(CreditPhase.UPDATE, Flow.COMPLETION, 1, 0)) is DataLinkError.FLOW_CONTROL
    assert usable.update(FlowControl(CreditPhase.UPDATE, Flow.COMPLETION, 0, 0)) is None


def test_unlimited_credits_suffice_for_ever_and_have_no_updates() -> None:
    granted = GrantedCredits({**GRANTED, Flow.COMPLETION: Credits(None, None)})
    assert granted.limited == (Flow.POSTED, Flow.NON_POSTED)
    usable = usable_of(granted)
    completion = Taken(Flow.COMPLETION, 1, 256)
    for _ in range(5000):
        assert usable.suffice(completion)
        usable.take(completion)
        assert granted.arrive(completion) is None
        granted.free(completion)


def test_credits_end_where_the_receiver_ends_and_go_round_their_counters() -> None:
    granted = GrantedCredits(GRANTED)
    usable = usable_of(granted)
    for _ in range(1000):
        for _ in range(8):
            assert usable.suffice(PACKET)
            usable.take(PACKET)
        assert not usable.suffice(PACKET)
        for _ in range(8):
            granted.arrive(PACKET)
            granted.free(PACKET)
        assert granted.urgent is Flow.POSTED
        usable.update(granted.update(Flow.POSTED))


@pytest.mark.parametrize("count", [0, 128, -1])
def test_grants_that_no_counter_has_are_refused(count: int) -> None:
    with pytest.raises(ValueError, match="must be 1 to 127, or None"):
        GrantedCredits({flow: Credits(count, 1) for flow in Flow})
