"""Any legal sequence of ring operations agrees with a model. A run that explores too little fails."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from random import Random

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from support.rigs.queue_model import ANY_NUMS, LONGEST, NUMS, InOrderPackedPair, InOrderPair, PackedPair, Pair

SEEDS, STEPS = 60, 60
"""Walks of so many steps, besides those that Hypothesis chooses."""
FLOORS: Mapping[str, int] = {
    "returned": 500,
    "through a table": 50,
    "several readable and writable segments": 50,
    "completed out of order": 50,
    "laps of the ring": 50,
    "indices or laps that wrap": 10,
    "kicks": 100,
    "calls": 100,
    "suppressed": 100,
    "resets": 5,
    **{f"{count} segments": 5 for count in range(1, LONGEST + 1)},
    **{f"{count} readable": 5 for count in range(LONGEST + 1)},
    **{f"{count} writable": 5 for count in range(LONGEST + 1)},
}
"""Least counts of a whole run. "returned" and what concerns chains count chains that came back to the driver."""


def choose(rng: Random) -> tuple[int, int]:
    """Readable and writable segments of a chain, each length as often as any other."""
    count = rng.randint(1, LONGEST)
    readable = rng.randint(0, count)
    return readable, count - readable


def walk(machine: type[Pair], nums: Sequence[int], seed: int) -> None:
    """Take `STEPS` steps that a seed chooses."""
    rng = Random(seed)
    pair = machine()
    start = rng.choice([0, 5, 65533]) if not issubclass(machine, PackedPair) else rng.randrange(20)
    pair.begin(num=rng.choice(nums), event_idx=rng.random() < 0.5, indirect=rng.random() < 0.5, start=start)
    rest: list[Callable[[], None]] = [
        *(pair.driver_publishes, pair.get, pair.driver_is_quiet, pair.getdesc, pair.complete_each),
        *(pair.device_publishes, pair.device_waits_for_a_kick, pair.device_is_quiet),
        lambda: pair.add(choose(rng)),
        lambda: pair.add_each(rng.randint(1, 4)),
        lambda: pair.get_each(rng.randint(1, 9)),
        lambda: pair.getdescs(rng.randint(1, 9)),
        lambda: pair.driver_waits_for_a_call(rng.random() < 0.5),
        lambda: pair.abandon(rng.randrange(9)),
        lambda: pair.abandon_more_than_may_be(rng.randint(1, 9)),
        lambda: pair.complete(rng.randrange(9)) if pair.held else None,
    ]
    for step in range(STEPS):
        if step % 4 == 0:
            pair.exchange([choose(rng) for _ in range(rng.randint(1, 6))], rng)
        elif step == STEPS // 2:
            pair.reset(rng.choice([0, 65535]))
        else:
            rng.choice(rest)()
        pair.descriptors_add_up()
        pair.a_waiting_side_is_notified()
    pair.teardown()


def explore(machine: type[Pair], nums: Sequence[int]) -> None:
    """Let seeds choose steps, assert that they explored enough, and let Hypothesis look for more."""
    machine.explored = Counter()
    for seed in range(SEEDS):
        walk(machine, nums, seed)
    floors = {**FLOORS, "held back": 50} if machine.in_order else FLOORS
    too_few = {what: machine.explored[what] for what, floor in floors.items() if machine.explored[what] < floor}
    assert not too_few, f"the run explored too little: {too_few}, at least {dict(floors)} expected"
    run_state_machine_as_test(machine, settings=settings(max_examples=50, stateful_step_count=50, deadline=None))


@pytest.mark.virtio("SPLIT-DEV-11", "SPLIT-DEV-12", "SPLIT-DRV-25", "SPLIT-DRV-26")
def test_any_legal_sequence_agrees_with_the_model() -> None:
    explore(Pair, NUMS)


@pytest.mark.virtio("PACKED-DRV-3", "PACKED-DRV-4", "PACKED-DRV-5", "PACKED-DRV-7", "PACKED-DRV-16")
@pytest.mark.virtio("PACKED-DEV-1", "PACKED-DEV-2", "PACKED-DEV-3", "PACKED-DEV-4", "PACKED-DEV-5", "PACKED-DEV-9")
@pytest.mark.virtio("PACKED-DEV-14")
@pytest.mark.hostile("P05")
def test_any_legal_sequence_agrees_with_the_model_over_a_packed_ring() -> None:
    explore(PackedPair, ANY_NUMS)


def test_any_legal_sequence_agrees_with_the_model_where_buffers_are_used_in_order() -> None:
    explore(InOrderPair, NUMS)


def test_any_legal_sequence_agrees_with_the_model_where_buffers_of_a_packed_ring_are_used_in_order() -> None:
    explore(InOrderPackedPair, ANY_NUMS)
