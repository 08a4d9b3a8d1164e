"""The two engines: atheris, guided by coverage and in a process of its own, and Hypothesis, which makes plain bytes."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import attrs
import hypothesis
from hypothesis import strategies as st

from fuzz import corpus
from fuzz.oracle import Judge
from fuzz.table import Target
from support.children import environment

__all__ = ["ENGINES", "Limits", "Outcome", "default_engine"]

ENDLESS = 120
"""Seconds after which libFuzzer ends an input that has no end."""
MEMORY = 1024
"""MiB of memory that a process may take."""
ROUND = 50
"""Inputs that Hypothesis makes from one seed."""
HASH_SEED = "0"
"""Order of sets in the processes that fuzz: the same in each, so that a seed repeats a run."""
COUNTS = {
    "executions": re.compile(r"stat::number_of_executed_units: (\d+)"),
    "edges": re.compile(r"\bcov: (\d+)"),
    "inputs": re.compile(r"\bcorp: (\d+)/"),
    "calls_max": re.compile(r"^judge: calls_max=(\d+)", re.MULTILINE),
}
"""Numbers in the output of a process; the last one counts."""
GROWTH = re.compile(r"^judge: .* growth=(-?[\d.]+)", re.MULTILINE)
STARTS = "Traceback", "  + Exception Group", " === Uncaught", "=="
"""Beginnings of the line in which an error begins."""
STORY = 80
"""Lines of an error that are printed."""
CRASH = re.compile(r"Test unit written to (\S+)")


@attrs.frozen
class Limits:
    """When a run ends, and what it begins with."""

    seconds: int
    runs: int | None
    """Inputs; None for as many as the seconds allow."""
    seed: int


@attrs.frozen
class Outcome:
    """Counters of one run of a target."""

    target: str
    engine: str
    seed: int
    seconds: float
    executions: int
    edges: int | None
    """Edges of the code that were reached, which Hypothesis does not count."""
    inputs: int | None
    """Inputs that reach something new."""
    calls_max: int
    """Most calls between two checkpoints, of the inputs whose calls were counted."""
    growth: float | None
    """Blocks of memory for each input, after a warm-up; None if the run was too short to tell."""
    crash: str = ""
    """Input that broke a rule, in hexadecimal; "" if there was none."""
    trouble: str = attrs.field(default="", metadata={"result": False})
    """Text of the error."""


def default_engine() -> str:
    return "atheris" if importlib.util.find_spec("atheris") is not None else "hypothesis"


def run_atheris(target: Target, limits: Limits, folder: Path) -> Outcome:
    """Run a target in a process of its own. ``folder`` keeps the inputs that reach something new."""
    kept = folder / target.name
    kept.mkdir(exist_ok=True)
    for number, data in enumerate(corpus.read(target.name)):
        (kept / f"corpus-{number}").write_bytes(data)
    command = [sys.executable, "-P", "-m", "fuzz.child", target.name, str(kept)]
    command += [f"-max_total_time={limits.seconds}", f"-seed={limits.seed}", f"-max_len={target.length}"]
    command += [f"-timeout={ENDLESS}", f"-rss_limit_mb={MEMORY}", f"-artifact_prefix={kept}-"]
    command += ["-print_final_stats=1", *([f"-runs={limits.runs}"] if limits.runs is not None else ())]
    variables = environment(PYTHONHASHSEED=HASH_SEED)
    started = time.monotonic()
    done = subprocess.run(command, env=variables, capture_output=True, text=True, errors="replace", check=False)
    text = done.stdout + done.stderr
    numbers = {name: _last(pattern, text) for name, pattern in COUNTS.items()}
    growth = GROWTH.findall(text)
    crash = CRASH.findall(text)
    failed = done.returncode or crash
    return Outcome(
        target=target.name,
        engine="atheris",
        seed=limits.seed,
        seconds=round(time.monotonic() - started, 1),
        executions=numbers["executions"] or 0,
        edges=numbers["edges"],
        inputs=numbers["inputs"],
        calls_max=numbers["calls_max"] or 0,
        growth=float(growth[-1]) if growth else None,
        crash=Path(crash[-1]).read_bytes().hex() if crash else "",
        trouble=_story(text) if failed else "",
    )


def _last(pattern: re.Pattern[str], text: str) -> int | None:
    numbers = pattern.findall(text)
    return int(numbers[-1]) if numbers else None


def _story(text: str) -> str:
    """Return the traceback, or the last lines without it."""
    lines = [line for line in text.splitlines() if not line.startswith(("#", "INFO: "))]
    starts = [at for at, line in enumerate(lines) if line.startswith(STARTS)]
    return "\n".join(lines[starts[0] :][:STORY] if starts else lines[-STORY:])


def run_hypothesis(target: Target, limits: Limits, folder: Path) -> Outcome:
    """Run a target in this process, with new bytes for each seed, until the limits are reached or an input fails."""
    judge = Judge(target)
    started, trouble, seed = time.monotonic(), "", limits.seed
    smallest = b""

    def play(data: bytes) -> None:
        nonlocal smallest
        smallest = data
        judge(data)

    while not trouble and time.monotonic() - started < limits.seconds:
        left = ROUND if limits.runs is None else min(ROUND, limits.runs - judge.count)
        if left <= 0:
            break
        settings = hypothesis.settings(
            max_examples=left, deadline=None, database=None, suppress_health_check=list(hypothesis.HealthCheck)
        )
        test = hypothesis.seed(seed)(settings(hypothesis.given(st.binary(max_size=target.length))(play)))
        try:
            test()
        except Exception:  # noqa: BLE001  any error is a finding
            trouble = traceback.format_exc()
        seed += 1
    return Outcome(
        target=target.name,
        engine="hypothesis",
        seed=limits.seed,
        seconds=round(time.monotonic() - started, 1),
        executions=judge.count,
        edges=None,
        inputs=None,
        calls_max=judge.calls_max,
        growth=judge.growth,
        crash=smallest.hex() if trouble else "",
        trouble=trouble,
    )


ENGINES: dict[str, Callable[[Target, Limits, Path], Outcome]] = {
    "atheris": run_atheris,
    "hypothesis": run_hypothesis,
}
"""Engines by name."""
