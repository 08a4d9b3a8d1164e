"""The table of docs/memory-order.md: what was measured."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from support.record import origin

__all__ = ["figures"]

KEYS = ("forbidden", "torn", "lost", "broken")
"""Counters that are 0 unless a rule is broken."""
COUNTS = ("rounds", "stores", "chains")


def figures(file: Path) -> str:
    """Return what a result file says, with a line for each test and mutant."""
    results: Mapping[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    lines = [
        f"{origin(results)}. [All counters]({file.parent.name}/{file.name}).\n\n",
        "| test | rounds | rules broken | other counters |\n|---|---|---|---|\n",
    ]
    return "".join([*lines, *map(_line, results["results"])])


def _line(row: Mapping[str, Any]) -> str:
    count = next((f"{row[key]:,}" for key in COUNTS if key in row), "")
    broken = row.get("error") or ", ".join(f"{row[key]:,} {key}" for key in KEYS if key in row)
    others = {key: row[key] for key in row if key not in (*KEYS, *COUNTS, "test", "error", "seconds")}
    rest = ", ".join(f"{value:,} {key}" for key, value in others.items())
    return f"| {row['test']} | {count} | {broken} | {rest} |\n"
