"""The states of a binding: every move that may be made, and that every other one raises and changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import product

import attrs
import pytest
import trio

from drivers.bus.binding import MOVES, Binding, BindMove, BindState
from drivers.bus.model import MatchId
from drivers.contracts.events import BindMoved, Event, Reporter, Source
from vnet.system.events import EventHub


@attrs.define(eq=False)
class Part:
    device_id: int = 1
    vendor_id: int = 1
    name: str = "part0"


@attrs.frozen
class Taker:
    name: str = "taker"
    id_table: tuple[MatchId, ...] = (MatchId(1),)


Parts = Binding[Part, Taker]
TAKER = Taker()
CALLS: Mapping[BindMove, Callable[[Parts], object]] = {
    BindMove.PROBE: lambda binding: binding.probe(TAKER),
    BindMove.BOUND: lambda binding: binding.bound(),
    BindMove.NOTE: lambda binding: binding.note("nobody listens"),
    BindMove.RETRY: lambda binding: binding.retry(),
    BindMove.DEFER: lambda binding: binding.defer("not yet"),
    BindMove.FAIL: lambda binding: binding.fail("broken"),
    BindMove.END: lambda binding: binding.end(),
    BindMove.FREE: lambda binding: binding.free(),
}
WAYS: Mapping[BindState, tuple[BindMove, ...]] = {
    BindState.UNBOUND: (),
    BindState.PROBING: (BindMove.PROBE,),
    BindState.BOUND: (BindMove.PROBE, BindMove.BOUND),
    BindState.DEFERRED: (BindMove.PROBE, BindMove.DEFER),
    BindState.FAILED: (BindMove.PROBE, BindMove.BOUND, BindMove.FAIL),
}
"""Moves that lead from a new binding to each state."""
ILLEGAL = [(state, move) for state, move in product(BindState, BindMove) if move not in MOVES[state]]
LEGAL = [(state, move) for state, move in product(BindState, BindMove) if move in MOVES[state]]


def binding_in(state: BindState) -> Parts:
    binding: Parts = Binding(Part())
    for move in WAYS[state]:
        CALLS[move](binding)
    assert binding.state is state
    return binding


def facts(binding: Parts) -> tuple[object, ...]:
    return binding.state, binding.driver, binding.error, binding.scope, binding.ended, binding.ended.is_set()


def test_the_table_has_every_state_and_every_move_has_a_method() -> None:
    assert set(MOVES) == set(WAYS) == set(BindState)
    assert set(CALLS) == {move for moves in MOVES.values() for move in moves} == set(BindMove)
    assert [move.value for move in BindMove if not callable(getattr(Binding, move.value, None))] == []


@pytest.mark.parametrize(("state", "move"), LEGAL)
def test_a_move_of_the_table_leads_to_its_state(state: BindState, move: BindMove) -> None:
    binding = binding_in(state)
    CALLS[move](binding)
    assert binding.state is MOVES[state][move]
    in_use = binding.state in {BindState.PROBING, BindState.BOUND}
    assert (binding.scope is not None, binding.ended.is_set()) == (in_use, not in_use)


@pytest.mark.parametrize(("state", "move"), ILLEGAL)
def test_any_other_move_raises_and_changes_nothing(state: BindState, move: BindMove) -> None:
    binding = binding_in(state)
    before = facts(binding)
    with pytest.raises(RuntimeError, match=f"part0 is {state.value}: no move {move.value}"):
        CALLS[move](binding)
    assert facts(binding) == before


def test_a_reason_stays_until_the_next_move_that_ends_it() -> None:
    binding = binding_in(BindState.PROBING)
    binding.note("nothing is offered")
    binding.retry()
    assert binding.error == "nothing is offered"
    binding.bound()
    assert binding.error == ""
    binding.fail("it was unplugged")
    assert (binding.error, binding.driver) == ("it was unplugged", TAKER)
    binding.free()
    assert (binding.error, binding.driver) == ("", None)


def test_a_driver_that_waits_and_tries_again_is_reported_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trio, "current_time", lambda: 0.0)
    hub, events = EventHub(), list[Event]()
    binding: Parts = Binding(Part(), Reporter(hub, Source()))
    with hub.listen(events.append):
        binding.probe(TAKER)
        for _ in range(5):
            binding.note("nothing is offered")
            binding.retry()
        binding.bound()
        binding.retry()
    states = [(event.state, event.why) for event in events if isinstance(event, BindMoved)]
    assert states == [("probing", ""), ("probing", "nothing is offered"), ("bound", ""), ("probing", "")]
