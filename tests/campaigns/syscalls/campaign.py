"""The campaign: each round is a run of a command in which one call at one site fails with one of its errors."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import attrs

from campaigns.stage import Stage
from campaigns.syscalls.judge import Outcome, play
from campaigns.syscalls.machine import Fault, Server, build_shim, serving
from campaigns.syscalls.scenario import SCENARIOS, Scenario

__all__ = ["failing_calls"]


@attrs.frozen
class Plan:
    """Faults of a command, in the order in which they are played, and what it usually has open."""

    faults: Sequence[Fault]
    counts: dict[str, int]
    """Calls of each site in a run."""
    usual: Counter[str]

    def pick(self, number: int, dice: random.Random) -> Fault:
        """Return fault ``number``: the first call of each site, and once all sites had theirs, any other call."""
        lap, at = divmod(number, len(self.faults))
        fault = self.faults[at]
        return attrs.evolve(fault, number=1 + dice.randrange(self.counts[fault.site]) if lap else 1)


def failing_calls(stage: Stage) -> None:
    """Play faults of all commands in turn. Raises AssertionError for a rule that was broken."""
    names = list(SCENARIOS)
    plans: dict[str, Plan] = {}
    with serving(build_shim(stage.folder)) as server:
        for dice in stage.rounds():
            turn, at = divmod(stage.round, len(names))
            name = names[at]
            if name not in plans:
                plans[name] = look(server, SCENARIOS[name], stage.folder, f"{stage.seed} {name}")
            for counter, number in (
                ("sites", sum(len(plan.counts) for plan in plans.values())),
                ("faults", sum(len(plan.faults) for plan in plans.values())),
            ):
                stage.raise_to(counter, number)
            fault = plans[name].pick(turn, dice)
            outcome = play(server, SCENARIOS[name], _empty(stage.folder), fault, plans[name].usual)
            stage.add(outcome.kind if outcome.hit else "not reached")
            assert not outcome.wrong, f"{name}: {fault}: {outcome.wrong}"


def look(server: Server, scenario: Scenario, folder: Path, seed: str) -> Plan:
    """Find the call sites of a command by running it without a fault. Raises AssertionError if that fails."""
    first = _look(server, scenario, folder)
    server.modules = sorted({*server.modules, *first.modules})  # imports that the second run need not make
    second = _look(server, scenario, folder)
    faults = [Fault(site, number) for site in sorted(second.sites) for number in second.sites[site][1]]
    random.Random(seed).shuffle(faults)
    return Plan(faults, {site: count for site, (count, _) in second.sites.items()}, first.files | second.files)


def _look(server: Server, scenario: Scenario, folder: Path) -> Outcome:
    outcome = play(server, scenario, _empty(folder), None, None)
    assert (outcome.kind, outcome.wrong) == ("served", ""), f"{scenario.command}: {outcome.kind} {outcome.wrong}"
    return outcome


def _empty(folder: Path) -> Path:
    """Return an empty folder for a run."""
    run = folder / "run"
    shutil.rmtree(run, ignore_errors=True)
    run.mkdir()
    return run
