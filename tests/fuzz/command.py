"""The command: which targets run, with which engine, for how long, and what is printed and kept."""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import attrs

from fuzz import corpus
from fuzz.engines import ENGINES, Limits, Outcome, default_engine
from fuzz.oracle import Judge
from fuzz.table import TARGETS, Target
from support.record import record

__all__ = ["main"]

SEED_END = 1 << 31
INPUTS_MAX, SESSIONS_MAX = 40, 8
"""Inputs of a corpus that ``--keep`` writes; those of whole sessions take longer."""


def main(arguments: Sequence[str]) -> int:
    """Run the targets that the arguments name. Returns 1 if an input broke a rule, 2 for bad arguments, else 0."""
    options = _parse(arguments)
    unknown = [name for name in options.targets if name not in TARGETS]
    if unknown:
        print(f"no target {unknown[0]!r}: there are {', '.join(TARGETS)}", file=sys.stderr)
        return 2
    targets = [TARGETS[name] for name in options.targets or TARGETS]
    if options.list:
        print(*(f"{target.name:<20} {target.attack}" for target in targets), sep="\n")
        return 0
    if options.input is not None:
        return _replay(targets, options.input)
    seed = random.randrange(SEED_END) if options.seed is None else options.seed
    print(f"engine {options.engine}, --seed {seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="vnet-fuzz-") as folder:
        outcomes = []
        for target in targets:
            limits = Limits(options.seconds, options.runs, seed)
            outcomes.append(_tell(ENGINES[options.engine](target, limits, Path(folder))))
            if options.keep:
                _keep(target, Path(folder))
    print(f"{sum(outcome.executions for outcome in outcomes):,} executions of {len(outcomes)} targets")
    if options.json is not None:
        rows = [attrs.asdict(each, filter=lambda field, _: field.metadata.get("result", True)) for each in outcomes]
        options.json.write_text(json.dumps(record("tests.fuzz", arguments, rows), indent=2) + "\n", encoding="utf-8")
    return int(any(outcome.crash or outcome.trouble for outcome in outcomes))


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    add = parser.add_argument
    add("targets", nargs="*", metavar="TARGET", help="names of targets; nothing: all of them")
    add("--list", action="store_true", help="list the targets, and run nothing")
    add("--seconds", type=int, default=60, metavar="N", help="seconds for each target (default: %(default)s)")
    add("--runs", type=int, metavar="N", help="inputs for each target, within the seconds")
    add("--seed", type=int, metavar="N", help="seed of the engine; it is printed, and another one each time")
    add("--engine", choices=sorted(ENGINES), default=default_engine(), help="engine (default: %(default)s)")
    add("--input", metavar="HEX", help="run this one input of a target, with its calls counted, and nothing else")
    add("--keep", action="store_true", help="write a small corpus from the inputs that reached something new")
    add("--json", type=Path, metavar="FILE", help="write the counters to a file")
    return parser.parse_args(arguments)


def _replay(targets: Sequence[Target], text: str) -> int:
    try:
        data = bytes.fromhex(text)
    except ValueError:
        print(f"--input {text}: must be hexadecimal", file=sys.stderr)
        return 2
    for target in targets:
        judge = Judge(target)
        judge(data, counted=True)
        print(f"{target.name}: no rule broken, {judge.calls_max} calls between two checkpoints at most")
    return 0


def _tell(outcome: Outcome) -> Outcome:
    rate = outcome.executions / outcome.seconds if outcome.seconds else 0
    verdict = "BROKEN" if outcome.crash or outcome.trouble else "ok"
    print(f"{outcome.target:<20} {outcome.executions:>10,} executions {rate:>9,.0f}/s  {verdict}", flush=True)
    if outcome.trouble:
        print(outcome.trouble)
    if outcome.crash:
        print(f"again: python -m tests.fuzz {outcome.target} --input {outcome.crash}", flush=True)
    return outcome


def _keep(target: Target, folder: Path) -> None:
    from fuzz.minimise import choose

    inputs = [path.read_bytes() for path in (folder / target.name).glob("*")] + corpus.read(target.name)
    count = corpus.write(target.name, choose(target, inputs, SESSIONS_MAX if target.opens else INPUTS_MAX))
    print(f"{'':<20} {count} inputs kept of {len(inputs)}", flush=True)
