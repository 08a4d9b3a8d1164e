"""The figures of docs/seeds.md: a campaign of many seeds, from its result file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["figures"]


def figures(file: Path) -> str:
    """Return what a result file of `vnet campaign` says."""
    results: Mapping[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    first, end = map(int, results["seeds"].split(":"))
    machine, wire, faults = results["machine"], results["wire"], results["faults"].values()
    rows = {
        "seeds": f"{results['done']:,} of {end - first:,}",
        "failed": f"{results['failed']:,}",
        "device types, transports and rings": f"{len(results['systems'])}",
        "simulated seconds": f"{results['simulated_seconds']:,.0f}",
        "bytes that arrived and were compared": f"{sum(load['bytes'] for load in results['loads'].values()):,}",
        "faults of scripts that happened": f"{sum(kind['happened'] for kind in faults):,}",
        "packets on wires, each counted once": f"{wire['tlps']:,}",
        "faults of wires": f"{sum(wire['faults'].values()):,}",
        "packets that were sent again": f"{wire['replayed']:,}",
        "retrains": f"{wire['retrains']:,}",
        "never happened": ", ".join(results["never_happened"]) or "none",
    }
    lines = [
        f"`{results['command']}` at commit {results['commit'][:12]}, begun {results['began']}, ",
        f"ended {results['ended']}, Python {results['python']}, {machine['processors']} processors ",
        f"({machine['architecture']}), Linux {machine['kernel']}. ",
        f"[All counters]({file.parent.name}/{file.name}).\n\n| | |\n|---|---|\n",
    ]
    return "".join([*lines, *(f"| {name} | {value} |\n" for name, value in rows.items())])
