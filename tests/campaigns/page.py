"""The tables of docs/campaigns.md: the campaigns, and what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from campaigns.kept import read
from campaigns.table import CAMPAIGNS, Campaign
from support.record import origin

__all__ = ["campaigns", "figures", "percentile", "shown"]


def percentile(samples: Sequence[int], percent: int) -> int:
    """Return the smallest sample that is not below ``percent`` % of them."""
    return sorted(samples)[-(-len(samples) * percent // 100) - 1]


def campaigns() -> str:
    """Return the table of campaigns."""
    rows = (f"| `{each.name}` | {each.round} | {each.goal:,} |\n" for each in CAMPAIGNS.values())
    return "| campaign | each round | rounds that a release wants |\n|---|---|---|\n" + "".join(rows)


def figures(file: Path) -> str:
    """Return what a result file says of each campaign; one that did not run is called so."""
    records = read(file)
    lines = [
        f"[All counters]({file.parent.name}/{file.name}).\n\n",
        "| campaign | rounds | rules broken | counters | times in ms: p50, p99, max |\n|---|---|---|---|---|\n",
        *(_line(campaign, records.get(campaign.name)) for campaign in CAMPAIGNS.values()),
        *["\nThe commands:\n\n"] * bool(records),
        *(_command(records[name]) for name in CAMPAIGNS if name in records),
    ]
    return "".join(lines)


def _command(record: Mapping[str, Any]) -> str:
    return f"* {origin(record)}, {record['results'][0]['seconds']:,.0f} seconds\n"


def _line(campaign: Campaign, record: Mapping[str, Any] | None) -> str:
    if record is None:
        return f"| `{campaign.name}` | not run | | | |\n"
    [row] = record["results"]
    broken = "none" if not row["broken"] else f"{len(row['broken'])}: {row['broken'][0]['error'][:80]}"
    counters = ", ".join(f"{name} {number:,}" for name, number in row["counters"].items())
    times = ", ".join(f"{name} {shown(samples)}" for name, samples in row["times"].items())
    return f"| `{campaign.name}` | {row['rounds']:,} of {campaign.goal:,} | {broken} | {counters} | {times} |\n"


def shown(samples: Sequence[int]) -> str:
    """Return the median, the 99th percentile and the maximum."""
    return " / ".join(f"{percentile(samples, percent):,}" for percent in (50, 99, 100))
