"""The command: each attack on the victim's process and on another one, and how the victim fared."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import attrs

from isolation.table import ATTACKS, NOTHING, Attack
from support.children import environment
from support.record import record

__all__ = ["main", "rate"]

GROWTH = ("rss_kib", "fds", "tasks")
"""Counters of a process that are to be the same before and after."""
WARM_UP = 0.5
"""Seconds that an attack runs before the victim is measured."""
SETTLE = 0.3
"""Seconds after an attack."""
FILLED = 128 << 20
"""Bytes of the attacked disk that are no hole."""
DISK = 1 << 30
"""Bytes of that disk."""
SCENARIOS = ("alone", "apart", "together")
"""A process that only computes, an attack on a process beside the victim's, and one on the victim's own."""


def rate(figures: Mapping[str, float]) -> float:
    """Return the requests in a second of the processor that the victim and its server share.

    It counts their own time, also that for the attack: on a busy machine the clock would measure other programs.
    """
    return figures["requests"] / (figures["victim_cpu_s"] + figures["server_cpu_s"])


@attrs.frozen
class Talker:
    """A process that answers each line with one of JSON."""

    process: subprocess.Popen[str]

    def ask(self, text: str = "") -> dict[str, Any]:
        """Return the answer to a line. Raises RuntimeError if the process has ended."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{text}\n")
        self.process.stdin.flush()
        answer: dict[str, Any] = json.loads(self.line())
        return answer

    def line(self) -> str:
        """Return a line that it prints. Raises RuntimeError if it has ended."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.process.args!r} ended with status {self.process.wait()}")
        return line


@contextmanager
def started(module: str, *arguments: object) -> Iterator[Talker]:
    """Run a module of this package, which prints a line when it is ready; at the end it is killed."""
    command = [sys.executable, "-P", "-m", f"isolation.{module}", *map(str, arguments)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment()
    ) as process:
        try:
            talker = Talker(process)
            talker.line()
            yield talker
        finally:
            process.kill()


@contextmanager
def attacking(attack: Attack, folder: Path, cpu: int, actions: list[int]) -> Iterator[None]:
    """Run an attack during the context; append the number of its actions."""
    with started("attacker", attack.name, folder, cpu) as attacker:
        time.sleep(WARM_UP)
        yield
        attacker.process.terminate()
        actions.append(int(attacker.line()))


@contextmanager
def stage(seed: int) -> Iterator[Stage]:
    """Start two processes that serve, and the victim. Raises RuntimeError if one ends."""
    first, *rest = sorted(os.sched_getaffinity(0))
    second = (rest or [first])[0]
    with ExitStack() as stack:
        folders = [Path(stack.enter_context(tempfile.TemporaryDirectory())) for _ in range(2)]
        for folder in folders:
            (folder / "blk.img").write_bytes(b"\1" * FILLED)
            os.truncate(folder / "blk.img", DISK)
        server = stack.enter_context(started("server", folders[0], 0, first))
        stack.enter_context(started("server", folders[1], 1, second))
        victim = stack.enter_context(started("victim", folders[0], seed, first))
        victim.ask(str(WARM_UP))
        yield Stage(server, victim, folders[0], folders[1], second)


@attrs.frozen
class Stage:
    """The processes of a run: the victim and its server on one processor, all that attack and the other on another."""

    server: Talker
    victim: Talker
    together: Path
    apart: Path
    cpu: int

    def measure(self, attack: Attack, seconds: float, rounds: int) -> dict[str, object]:
        """Measure the victim of an attack in each scenario, in turns. Raises RuntimeError if a process ends."""
        figures: dict[str, list[dict[str, Any]]] = {name: [] for name in SCENARIOS}
        actions: dict[str, list[int]] = {name: [] for name in SCENARIOS}
        counters: list[dict[str, Any]] = []
        before = self.server.ask()
        for _ in range(rounds):
            for name, run, folder in (
                ("alone", NOTHING, self.apart),
                ("apart", attack, self.apart),
                ("together", attack, self.together),
            ):
                with attacking(run, folder, self.cpu, actions[name]):
                    own, counted = self._round(seconds)
                figures[name].append(own)
                if name == "together":
                    counters.append(counted)
                time.sleep(SETTLE)
        after = self.server.ask()
        longest = max(counters, key=lambda each: float(each["longest_step_ms"]))
        return {
            "attack": attack.name,
            **{name: _summary(figures[name], actions[name]) for name in SCENARIOS},
            **{key: longest[key] for key in ("longest_step_ms", "longest_step")},
            "log_lines": max(each["lines"] for each in counters),
            **{f"{key}_before": before[key] for key in GROWTH},
            **{f"{key}_after": after[key] for key in GROWTH},
        }

    def _round(self, seconds: float) -> tuple[dict[str, Any], dict[str, Any]]:
        """Measure the victim once. Returns its figures, with the time of its server, and the counters of that."""
        before = self.server.ask()["cpu_s"]
        figures = self.victim.ask(str(seconds))
        counters = self.server.ask()
        return {**figures, "server_cpu_s": round(counters["cpu_s"] - before, 3)}, counters


def _summary(figures: Sequence[Mapping[str, float]], actions: Sequence[int]) -> dict[str, object]:
    """Return the raw figures of the rounds, and medians."""
    rates = [rate(each) for each in figures]
    times = {key: statistics.median(each[key] for each in figures) for key in ("p50_us", "p99_us", "max_us")}
    summary = {"rate": round(statistics.median(rates)), **times, "rounds": list(figures)}
    return {**summary, "actions": list(actions)} if actions else summary


def main(arguments: Sequence[str]) -> int:
    """Run the attacks. Returns 0. Raises RuntimeError if a process ended that must not."""
    parser = argparse.ArgumentParser(prog="python -m tests.isolation", description=__doc__)
    add = parser.add_argument
    add("names", nargs="*", metavar="NAME", help=f"attacks, by default all: {', '.join(ATTACKS)}")
    add("--seconds", type=float, default=2.0, help="length of a measurement (default: %(default)s)")
    add("--rounds", type=int, default=3, help="measurements of each scenario (default: %(default)s)")
    add("--seed", type=int, default=18, help="seed of the blocks that are read (default: %(default)s)")
    add("--json", type=Path, metavar="FILE", help="write the figures to a file")
    options = parser.parse_args(arguments)
    if unknown := set(options.names) - ATTACKS.keys():
        parser.error(f"no attack {', '.join(sorted(unknown))}; known are {', '.join(ATTACKS)}")
    results: list[dict[str, object]] = []
    with stage(options.seed) as processes:
        for name in options.names or ATTACKS:
            row = processes.measure(ATTACKS[name], options.seconds, options.rounds)
            results.append(row)
            print(_line(row), flush=True)
            if options.json is not None:  # after each attack, because all of them take minutes
                text = json.dumps(record("tests.isolation", arguments, results), indent=2)
                options.json.write_text(f"{text}\n", encoding="utf-8")
    return 0


def _line(row: Mapping[str, Any]) -> str:
    shares = [f"{name} {row[name]['rate']:>6}/s p50 {row[name]['p50_us']:>6.0f} us" for name in SCENARIOS]
    return f"{row['attack']:<20} {', '.join(shares)}, longest step {row['longest_step_ms']} ms in {row['longest_step']}"
