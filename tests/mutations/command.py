"""The command: which mutations run, and what is printed."""

from __future__ import annotations

import argparse
import multiprocessing
import multiprocessing.connection
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

from mutations.count import count
from mutations.edit import ROOT
from mutations.table import Mutation, read_table
from mutations.verdict import Result, Verdict
from mutations.worker import run_group
from support.requirements import ranges, split

PRELOAD = ("trio.testing", "pytest_trio.plugin", "hypothesis.stateful", "hypothesis.strategies", "cattrs", "pytun")
"""Modules of others that every test needs: imported once, before the forks."""
GROUP = 12
"""Mutations for one process: few enough to keep both processors busy to the end."""


def main(arguments: Sequence[str]) -> int:
    """Run the mutations that the arguments name. Returns 0 if each was caught."""
    options = _parse(arguments)
    table = read_table()
    try:
        chosen = list(_choose(options, table))
    except LookupError as error:
        print(error.args[0], file=sys.stderr)
        return 2
    os.environ["VNET_PURE"] = "1"  # the edits are those of the Python code
    for name in PRELOAD:
        __import__(name)
    results = dict(_run(chosen, options.jobs, options.verbose))
    _report(table, results)
    return int(any(result.verdict is not Verdict.CAUGHT for result in results.values()))


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.mutations", description=__doc__)
    add = parser.add_argument
    add("ids", nargs="*", metavar="ID", help="requirement, or area such as SPLIT-DRV; nothing: what the options say")
    add("--all", action="store_true", help="run every mutation (default, if nothing else is given)")
    add("--sample", type=int, default=0, metavar="N", help="run N mutations that a seed chooses")
    add("--seed", type=int, metavar="N", help="seed of the sample; it is printed, and another one each time")
    add("--changed", metavar="REV", help="run those whose code or test differs from a revision of Git")
    add("--shard", default="0/1", metavar="I/N", help="run every Nth of them, beginning with number I")
    add("-j", "--jobs", type=int, default=os.cpu_count() or 1, metavar="N", help="processes (default: %(default)s)")
    add("-v", "--verbose", action="store_true", help="print every mutation, and how its test failed")
    return parser.parse_args(arguments)


def _choose(options: argparse.Namespace, table: Sequence[Mutation]) -> Iterator[Mutation]:
    chosen: set[Mutation] = set()
    if options.ids:
        for wanted in options.ids:
            matches = {m for m in table if any(wanted in (name, split(name)[0].rstrip("-")) for name in m.ids)}
            if not matches:
                raise LookupError(f"no mutation of {wanted!r}: there are {len(table)}, such as {table[0].name}")
            chosen |= matches
    if options.changed:
        files = _changed(options.changed)
        touched = {m for m in table if m.file in files or any(edit.path in files for edit in m.edits)}
        print(f"changed since {options.changed}: {len(files)} files, {len(touched)} mutations")
        chosen |= touched
    if options.sample:
        seed = random.randrange(1 << 32) if options.seed is None else options.seed
        print(f"sample of {options.sample}: --seed {seed}")
        chosen |= set(random.Random(seed).sample(table, min(options.sample, len(table))))
    if options.all or not (options.ids or options.changed or options.sample):
        chosen = set(table)
    shard, _, shards = options.shard.partition("/")
    yield from [mutation for mutation in table if mutation in chosen][int(shard) :: int(shards)]


def _changed(revision: str) -> set[Path]:
    """Files that differ from a revision; none if the tree has no history, as that of an archive."""
    command = ["git", "-C", str(ROOT), "diff", "--name-only", revision]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"git diff {revision}: {done.stderr.strip().splitlines()[0]}")
    return {ROOT / line for line in done.stdout.splitlines()}


def _run(mutations: Iterable[Mutation], jobs: int, verbose: bool) -> Iterator[tuple[Mutation, Result]]:
    """Run groups of mutations side by side, in processes that fork from this one."""
    groups: dict[tuple[Path, str], list[Mutation]] = {}
    for mutation in mutations:
        groups.setdefault((mutation.file, mutation.transport), []).append(mutation)
    waiting = [group[at : at + GROUP] for group in groups.values() for at in range(0, len(group), GROUP)]
    waiting.sort(key=len)
    context = multiprocessing.get_context("fork")
    running: dict[Connection, list[Mutation]] = {}
    while waiting or running:
        while waiting and len(running) < jobs:
            group = waiting.pop()
            reader, writer = context.Pipe(duplex=False)
            context.Process(target=run_group, args=(group, writer)).start()
            writer.close()
            running[reader] = list(group)
        for ready in multiprocessing.connection.wait(list(running)):
            assert isinstance(ready, Connection)
            try:
                mutation, result = ready.recv()
            except EOFError:
                for mutation in running.pop(ready):
                    yield mutation, _tell(mutation, Result(Verdict.WRONG_REASON, "the tests can't be collected"), True)
            else:
                running[ready].remove(mutation)
                yield mutation, _tell(mutation, result, verbose)


def _tell(mutation: Mutation, result: Result, verbose: bool) -> Result:
    if verbose or result.verdict is not Verdict.CAUGHT:
        print(f"{result.verdict.value:<12} {mutation.name}: {mutation.breaks}", flush=True)
        print(f"{'':<12} {mutation.test}", flush=True)
        print(f"{'':<12} {result.reason}", flush=True)
    return result


def _report(table: Sequence[Mutation], results: dict[Mutation, Result]) -> None:
    for part in count(table):
        print(part.sentence())
        for names in part.areas(part.unproved).values():
            print(f"    not proved: {ranges(names)}")
    verdicts = Counter(result.verdict for result in results.values())
    print(f"{len(results)} mutations: " + ", ".join(f"{verdicts[v]} {v.value}" for v in Verdict if verdicts[v]))
