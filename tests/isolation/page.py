"""The table of docs/isolation.md: how the victim of each attack fared."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from isolation.command import rate
from isolation.table import ATTACKS
from support.record import origin

__all__ = ["figures", "ratio"]

SHARE_MIN, LATENCY_MAX = 0.9, 2.0
"""Least share of its rate, and largest multiple of its median latency, that the victim of an attack is to keep."""
HEADERS = (
    *("attack on", "what it does", "actions a second", "rate alone", "together: rate", "latency", "kept"),
    *("apart: rate", "latency", "kept", "longest step"),
)


def figures(file: Path) -> str:
    """Return what a result file says, with a line for each attack; one that did not run is called so."""
    results: Mapping[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    rows = {row["attack"]: row for row in results["results"]}
    kept = {name: sum(_kept(row, name) for row in rows.values()) for name in ("together", "apart")}
    lines = [
        f"{origin(results)}. [All counters]({file.parent.name}/{file.name}).\n\n",
        f"The victim keeps at least {SHARE_MIN:.0%} of its rate, and at most {LATENCY_MAX:g} times its latency, ",
        f"beside {kept['together']} of {len(rows)} attacks on its own process, and {kept['apart']} on another one.\n\n",
        f"| {' | '.join(HEADERS)} |\n",
        f"|{'---|' * len(HEADERS)}\n",
    ]
    return "".join([*lines, *(_line(name, rows.get(name)) for name in ATTACKS)])


def ratio(row: Mapping[str, Any], scenario: str, key: str) -> float:
    """Return the median over the rounds of a figure of a scenario, divided by that without an attack."""
    rounds = zip(row[scenario]["rounds"], row["alone"]["rounds"], strict=True)
    return statistics.median(_figure(each, key) / _figure(alone, key) for each, alone in rounds)


def _figure(figures: Mapping[str, float], key: str) -> float:
    return rate(figures) if key == "rate" else figures[key]


def _kept(row: Mapping[str, Any], scenario: str) -> bool:
    return ratio(row, scenario, "rate") >= SHARE_MIN and ratio(row, scenario, "p50_us") <= LATENCY_MAX


def _line(name: str, row: Mapping[str, Any] | None) -> str:
    attack = ATTACKS[name]
    start = f"| {attack.target} | {attack.text} (`{name}`) |"
    if row is None:
        return f"{start} not run |{' |' * 8}\n"
    seconds = [each["seconds"] for each in row["together"]["rounds"]]
    actions = statistics.median(count / each for count, each in zip(row["together"]["actions"], seconds, strict=True))
    cells = [f"{actions:,.0f}", f"{row['alone']['rate']:,}"]
    for scenario in ("together", "apart"):
        cells += [f"{ratio(row, scenario, 'rate'):.2f}", f"{ratio(row, scenario, 'p50_us'):.1f}"]
        cells.append("yes" if _kept(row, scenario) else "no")
    cells.append(f"{row['longest_step_ms']:.1f} ms")
    return f"{start} {' | '.join(cells)} |\n"
