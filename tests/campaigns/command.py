"""The command: which campaigns run, for how many rounds, and what is printed and kept."""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from campaigns.kept import Kept, KeptError
from campaigns.page import shown
from campaigns.stage import Broken, Results, run_rounds
from campaigns.table import CAMPAIGNS, Campaign
from support.machine import own_machine

__all__ = ["main"]

SEED_END = 1 << 31


def main(arguments: Sequence[str]) -> int:
    """Run the campaigns that the arguments name. Returns 1 if a rule was broken, 2 for bad arguments, else 0."""
    options = _parse(arguments)
    unknown = [name for name in options.campaigns if name not in CAMPAIGNS]
    if unknown:
        print(f"no campaign {unknown[0]!r}: there are {', '.join(CAMPAIGNS)}", file=sys.stderr)
        return 2
    campaigns = [CAMPAIGNS[name] for name in options.campaigns or CAMPAIGNS]
    if options.list:
        print(*(f"{each.name:<20} {each.goal:>9,}  {each.round}" for each in campaigns), sep="\n")
        return 0
    if os.geteuid() != 0:
        print("campaigns make network namespaces and TUN interfaces: run them as root", file=sys.stderr)
        return 2
    own_machine(network=True)
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell ignores Ctrl-C in background jobs
        signal.signal(number, signal.default_int_handler)
    seed = random.randrange(SEED_END) if options.seed is None else options.seed
    print(f"--seed {seed}", flush=True)
    try:
        kept = None if options.json is None else Kept(options.json)
        return max([_run(each, seed, options, kept) for each in campaigns], default=0)
    except KeptError as exc:
        print(exc, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.campaigns", description=__doc__)
    add = parser.add_argument
    add("campaigns", nargs="*", metavar="CAMPAIGN", help="names of campaigns; nothing: all of them")
    add("--list", action="store_true", help="list the campaigns with the rounds that a release wants, and run nothing")
    add("--count", type=_positive, metavar="N", help="rounds of each campaign (default: those of its system test)")
    add("--seed", type=int, metavar="N", help="seed of all rounds; it is printed, and another one each time")
    add("--round", type=int, metavar="N", help="run this round alone, numbered from 0, and keep nothing")
    add("--json", type=Path, metavar="FILE", help="keep the counters in a file, and go on with what it has")
    return parser.parse_args(arguments)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text}: must be at least 1")
    return number


def _run(campaign: Campaign, seed: int, options: argparse.Namespace, kept: Kept | None) -> int:
    if missing := campaign.missing():
        print(f"{campaign.name:<20} not run: not on PATH: {', '.join(missing)}", flush=True)
        return 0
    count = options.count or campaign.short
    if options.round is not None:
        results = Results(campaign.name, seed, options.round)
        run_rounds(campaign.load(), results, range(options.round, options.round + 1))
    else:
        results = Results(campaign.name, seed) if kept is None else kept.find(campaign.name, seed)
        save = partial(kept.write, results, count) if kept is not None else lambda: None
        run_rounds(campaign.load(), results, range(count), save)
    _tell(results)
    return int(bool(results.broken))


def _tell(results: Results) -> None:
    counters = ", ".join(f"{name} {number:,}" for name, number in results.counters.items())
    verdict = "BROKEN" if results.broken else "ok"
    print(f"{results.campaign:<20} {results.rounds:>9,} rounds {results.seconds:>8,.0f} s  {verdict}  {counters}")
    for name, samples in results.times.items():
        print(f"{'':<20} {name:<20} {shown(samples)} ms")
    for broken in results.broken:
        print(f"{broken.error}\nagain: {_again(results, broken)}")
    sys.stdout.flush()


def _again(results: Results, broken: Broken) -> str:
    return f"python -m tests.campaigns {results.campaign} --seed {results.seed} --round {broken.round}"
