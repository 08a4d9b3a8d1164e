"""Rules of faults as commands give them, and the rules of links that they make."""

from __future__ import annotations

import math

import pytest

from drivers.fields import FieldError
from vnet.link.faults import FAULTS, FLAPS, MS, Flap, Rule
from vnet.qmp.fault_records import FaultRule


@pytest.mark.parametrize("fault", FAULTS)
def test_a_rule_affects_the_requests_of_its_fault(fault: str) -> None:
    kind = FAULTS[fault]
    made = FaultRule(fault=fault, rate=0.25).rule()
    assert made == Rule(kind.requests, kind.action, rate=0.25, name=fault)


def test_a_number_of_requests_is_a_limit_and_times_are_those_of_the_rule() -> None:
    kind = FAULTS["delayed_interrupts"]
    assert FaultRule(fault="delayed_interrupts", count=3, delay=20.0, after=1.0, seconds=2.0).rule() == Rule(
        kind.requests, kind.action, rate=1, start=1, stop=3, limit=3, delay=20 * MS, name="delayed_interrupts"
    )
    assert FaultRule(fault="delayed_interrupts", nth=(3, 7)).rule() == Rule(
        kind.requests, kind.action, nth=(3, 7), name="delayed_interrupts"
    )


def test_a_probability_of_0_is_no_rule() -> None:
    assert FaultRule(fault="timeouts", rate=0.0).rule() is None


@pytest.mark.parametrize(("every", "length", "actual"), [(500.0, None, 50), (40.0, None, 20), (500.0, 7.0, 7)])
def test_flaps_have_a_default_length(every: float, length: float | None, actual: float) -> None:
    rule = FaultRule(fault=FLAPS, every=every, length=length, after=1.0)
    assert not list(rule.problems())
    made = rule.rule()
    assert isinstance(made, Flap)
    assert (made.at, made.every, made.times) == (1 + every * MS, every * MS, math.inf)
    assert made.length == pytest.approx(actual * MS)


def test_a_fault_that_does_not_exist_is_refused() -> None:
    with pytest.raises(FieldError, match="must be one of lost_doorbells, "):
        FaultRule(fault="moon", rate=1)
