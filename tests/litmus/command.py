"""The command: all litmus tests, for as many rounds as it is told, and their counters."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import product
from pathlib import Path

import attrs
from attrs import AttrsInstance

from litmus.accesses import STORES, store_buffer, torn_index
from litmus.hand_off import hand_off
from litmus.rearm import rearm
from litmus.shared import processors
from support.record import record

__all__ = ["main"]

KINDS = tuple(product(("split", "packed"), (True, False), ("driver", "device")))
"""Forms, event index or flags, and the side that publishes or pauses: the rounds of rings are divided among them."""
SLOWER = 10
"""Times as long as others that a round of "re-arm" takes: it has as many fewer of them."""
Run = tuple[str, Callable[[], AttrsInstance]]


def main(arguments: Sequence[str]) -> int:
    """Run the tests. Returns 0 if no rule was broken, 1 if one was; mutants have no rules."""
    parser = argparse.ArgumentParser(prog="python -m tests.litmus", description=__doc__)
    add = parser.add_argument
    help_ = "rounds of each kind of test; a tenth of re-arm (default: %(default)s)"
    add("--rounds", type=int, default=1_000_000, metavar="N", help=help_)
    add("--mutant-rounds", type=int, default=100_000, metavar="N", help="rounds of each mutant (default: %(default)s)")
    add("--only", default="", metavar="TEXT", help="run those whose name has this text")
    add("--json", type=Path, metavar="FILE", help="write the counters to a file")
    options = parser.parse_args(arguments)
    if len(processors()) < 2:
        parser.error("two processors are needed: on one, no two accesses are made at the same time")
    results = []
    for name, run in _runs(options.rounds, options.mutant_rounds):
        if options.only not in name:
            continue
        started = time.monotonic()
        try:
            counters = attrs.asdict(run())
        except AssertionError as error:
            counters = {"error": str(error).strip().splitlines()[-1]}
        results.append({"test": name, "seconds": round(time.monotonic() - started, 1), **counters})
        print(f"{name:<44} " + ", ".join(f"{key} {value}" for key, value in counters.items()), flush=True)
        if options.json is not None:  # after each test, because all of them can take hours
            text = json.dumps(record("tests.litmus", arguments, results), indent=2)
            options.json.write_text(f"{text}\n", encoding="utf-8")
    return int(any(_broken(result) for result in results))


def _runs(rounds: int, mutant_rounds: int) -> Iterator[Run]:
    """Yield the name of each test and its function; the names of mutants begin with "mutant"."""
    yield "store, fence, load", partial(store_buffer, rounds, fence=True)
    yield "mutant: store, load", partial(store_buffer, mutant_rounds, fence=False)
    yield "stores through a view", partial(torn_index, rounds)
    for how in STORES[1:]:
        yield f"mutant: stores by {how}", partial(torn_index, mutant_rounds, how)
    each = rounds // len(KINDS)
    for form, event_idx, side in KINDS:
        kind = f"{form}, {'event index' if event_idx else 'flags'}, {side}"
        yield f"re-arm: {kind} publishes", partial(rearm, each // SLOWER, form, event_idx=event_idx, publisher=side)
        yield (
            f"mutant: re-arm without fences: {kind}",
            partial(rearm, mutant_rounds // len(KINDS), form, event_idx=event_idx, publisher=side, fence=False),
        )
        yield f"hand-off: {kind} pauses", partial(hand_off, each, form, event_idx=event_idx, pauses=side)
    yield (
        "mutant: hand-off with a divided index",
        partial(hand_off, mutant_rounds, "split", event_idx=True, pauses="driver", divided=True),
    )


def _broken(result: dict[str, object]) -> bool:
    keys = ("forbidden", "torn", "lost", "broken", "error")
    return not str(result["test"]).startswith("mutant") and any(result.get(key) for key in keys)
