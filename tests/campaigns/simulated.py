"""Link flaps in simulated time: random systems with traffic that checks each byte."""

from __future__ import annotations

import random
from collections.abc import Sequence

from campaigns.stage import Stage
from vnet.sim.configuration import Configuration
from vnet.sim.script import FLAP, Fault
from vnet.sim.trial import run_trial, topology_of

__all__ = ["flaps"]

FLAPS = 100
"""Flaps of a round."""
DOWN = 0.001, 0.3
"""Seconds that a link is down."""
SEEDS = 1 << 31
SYSTEM = Configuration(seconds=20.0, check=True, data_path=False)


def flaps(stage: Stage) -> None:
    """Play flaps in a random system, which must lose no byte and come up after the last one."""
    for dice in stage.rounds():
        seed, links = _system(dice)
        script = _script(dice, links)
        result = run_trial(SYSTEM, seed, script)
        assert result["failure"] is None, f"{result['failure']}: {SYSTEM.command(seed, script)}"
        stage.add("flaps", sum(result["fired"]))
        stage.add("bytes", sum(load["bytes"] for load in result["loads"]))
        stage.add("simulated_s", round(result["seconds"]))


def _system(dice: random.Random) -> tuple[int, list[str]]:
    """Return the seed of a system that has links, and their names."""
    while True:
        seed = dice.randrange(SEEDS)
        if links := list(topology_of(SYSTEM, seed).links):
            return seed, links


def _script(dice: random.Random, links: Sequence[str]) -> list[Fault]:
    """Return flaps in the order of their times."""
    times = sorted(round(dice.uniform(0, SYSTEM.seconds), 4) for _ in range(FLAPS))
    return [Fault(at, dice.choice(links), FLAP, round(dice.uniform(*DOWN), 4)) for at in times]
