"""Rounds of one campaign: their dice, their counters, and what is kept of them when a run is interrupted."""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs

__all__ = ["Broken", "Results", "Stage", "run_rounds"]

BROKEN_MAX = 10
"""Broken rounds after which a campaign ends."""
SAVE = 5.0
"""Seconds between two savings, unless rounds take longer."""


@attrs.frozen
class Broken:
    """A round in which a rule was broken; one more than the last round: what was checked after all of them."""

    round: int
    error: str


@attrs.define
class Results:
    """Rounds of a campaign that ran, with its raw counters: a line of the result file."""

    campaign: str
    seed: int
    rounds: int = 0
    """Rounds that ran, broken ones included; the next round has this number."""
    seconds: float = 0.0
    """Time of all runs, with starting and ending of processes."""
    counters: dict[str, int] = attrs.field(factory=dict)
    times: dict[str, list[int]] = attrs.field(factory=dict)
    """Samples in ms, in the order of the rounds."""
    broken: list[Broken] = attrs.field(factory=list)


class Stage:
    """The argument of a campaign's function: a folder of its own, rounds, and counters."""

    def __init__(self, results: Results, rounds: range, folder: Path, save: Callable[[], None]) -> None:
        self.folder = folder
        """Empty each time the function is called; removed afterwards."""
        self.seed = results.seed
        self._results, self._rounds, self._save = results, rounds, save

    @property
    def round(self) -> int:
        """Number of the round that runs, from 0."""
        return self._results.rounds

    def rounds(self) -> Iterator[random.Random]:
        """Yield the dice of each round that is left; the body of the loop is the round.

        Dice depend on campaign, seed and number of the round alone. An exception in the body is a broken round: the
        function is called again for the others, so it ends all that it started. It is called for at least one round.
        """
        results = self._results
        while results.rounds in self._rounds:
            yield random.Random(f"{results.seed} {results.campaign} {results.rounds}")
            results.rounds += 1
            self._save()

    def add(self, counter: str, number: int = 1) -> None:
        """Add to a counter, which begins at 0 before the first round."""
        self._results.counters[counter] = self._results.counters.get(counter, 0) + number

    def raise_to(self, counter: str, number: int) -> None:
        """Make a counter the largest number of all rounds."""
        self._results.counters[counter] = max(self._results.counters.get(counter, number), number)

    def time(self, name: str, seconds: float) -> None:
        """Keep a sample, of which the page gives the median, the 99th percentile and the maximum."""
        self._results.times.setdefault(name, []).append(round(seconds * 1000))


def run_rounds(
    function: Callable[[Stage], None], results: Results, rounds: range, save: Callable[[], None] = lambda: None
) -> None:
    """Run the rounds that ``results`` lacks, and add to it. ``save`` is called now and then, and at the end.

    It is not called when Ctrl-C ends the run: half a round has been counted then.
    """
    begun, saved = results.seconds - time.monotonic(), time.monotonic()

    def keep(at_least: float = SAVE) -> None:
        nonlocal saved
        results.seconds = round(begun + time.monotonic(), 1)
        if time.monotonic() - saved >= at_least:
            save()
            saved = time.monotonic()

    while results.rounds in rounds and len(results.broken) < BROKEN_MAX:
        with tempfile.TemporaryDirectory(prefix="vnet-campaign-") as folder:
            try:
                function(Stage(results, rounds, Path(folder), keep))
            except Exception as exc:  # noqa: BLE001  all that breaks a round is a result
                text = f"{type(exc).__name__}: {exc}".rstrip(": ")
                results.broken.append(Broken(results.rounds, text))
                results.rounds = min(results.rounds + 1, rounds.stop)
            else:
                assert results.rounds not in rounds, f"{results.campaign} ended before its last round"
    keep(0)
