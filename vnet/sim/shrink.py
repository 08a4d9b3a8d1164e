"""Shrinks the script of a trial that failed: leaves out all faults that the failure does not need."""

from __future__ import annotations

from collections.abc import Sequence

from vnet.sim.configuration import Configuration
from vnet.sim.script import Fault
from vnet.sim.trial import run_trial

__all__ = ["RUNS", "shrink"]

RUNS = 60
"""Most trials that a search may take."""


def shrink(configuration: Configuration, seed: int, script: Sequence[Fault], kind: str) -> tuple[Fault, ...]:
    """Return a part of ``script`` with which the trial of ``seed`` still has a failure of ``kind``.

    Halves are left out first, then smaller parts, and single faults last (delta debugging). After `RUNS` trials, the
    shortest part so far is returned.
    """
    rest, parts, runs = tuple(script), 1, 0
    while rest and runs < RUNS:
        size = -(-len(rest) // parts)
        for start in range(0, len(rest), size):
            shorter = rest[:start] + rest[start + size :]
            failure = run_trial(configuration, seed, shorter)["failure"]
            runs += 1
            if failure is not None and failure["kind"] == kind:
                rest, parts = shorter, max(parts - 1, 1)
                break
            if runs == RUNS:
                break
        else:
            if size == 1:
                break
            parts = min(2 * parts, len(rest))
    return rest
