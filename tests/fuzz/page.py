"""The tables of docs/fuzzing.md: the targets, and what was measured."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fuzz.table import TARGETS
from support.record import origin

__all__ = ["figures", "targets"]


def targets() -> str:
    """Return the table of targets."""
    rows = (f"| `{target.name}` | {target.attack} | {target.place.split(':')[0]} |\n" for target in TARGETS.values())
    return "| target | attack | module of `tests/fuzz/targets` |\n|---|---|---|\n" + "".join(rows)


def figures(file: Path) -> str:
    """Return what a result file says of each run, with a line for each target; one that did not run is called so."""
    runs: list[Mapping[str, Any]] = json.loads(file.read_text(encoding="utf-8"))
    total = sum(row["executions"] for run in runs for row in run["results"])
    link = f"[All counters]({file.parent.name}/{file.name})"
    return f"{total:,} executions in all. {link}.\n" + "".join(map(_run, runs))


def _run(results: Mapping[str, Any]) -> str:
    rows = {row["target"]: row for row in results["results"]}
    lines = [
        f"\n{origin(results)}:\n\n",
        "| target | engine | executions | seconds | edges | calls | growth | result |\n",
        "|---|---|---|---|---|---|---|---|\n",
    ]
    not_run = "| `{}` | | | | | | | not run |\n"
    return "".join([*lines, *(_line(name, rows[name]) if name in rows else not_run.format(name) for name in TARGETS)])


def _line(name: str, row: Mapping[str, Any]) -> str:
    growth = "too short" if row["growth"] is None else f"{row['growth']:.3f}"
    edges = "" if row["edges"] is None else f"{row['edges']:,}"
    verdict = f"broken by `{row['crash'][:40]}`" if row["crash"] else "no rule broken"
    counts = f"{row['executions']:,} | {row['seconds']:,.0f} | {edges} | {row['calls_max']:,} | {growth}"
    return f"| `{name}` | {row['engine']} | {counts} | {verdict} |\n"
