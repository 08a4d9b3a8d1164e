"""Counters over the results of a campaign."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import Any

import attrs

from vnet.campaign.plan import Plan
from vnet.campaign.trial import Record
from vnet.link.wire.impairments import WireFault
from vnet.sim.script import KINDS

__all__ = ["Tally", "ranges"]


def ranges(seeds: Sequence[int]) -> str:
    """Return seeds, which are in order, as ranges such as 0:7, 9:12; each without its last number."""
    parts: list[list[int]] = []
    for seed in seeds:
        if parts and parts[-1][1] == seed:
            parts[-1][1] += 1
        else:
            parts.append([seed, seed + 1])
    return ", ".join(f"{first}:{end}" for first, end in parts)


def _counts(names: Sequence[str]) -> dict[str, list[int]]:
    return {name: [0, 0] for name in names}


@attrs.define(eq=False)
class Tally:
    """Counters of the trials of ``seeds``; a seed counts once, and other seeds do not."""

    plan: Plan
    seeds: range
    hashes: dict[int, str] = attrs.field(factory=dict)
    """Hash of each seed's event log, and of a failure's text."""
    failures: list[Record] = attrs.field(factory=list)
    systems: Counter[str] = attrs.field(factory=Counter)
    """Trials by device type, transport and ring."""
    loads: dict[str, Counter[str]] = attrs.field(factory=dict)
    faults: dict[str, list[int]] = attrs.field(factory=lambda: _counts(list(KINDS)))
    """Faults of scripts by kind: how many were drawn, and how many of these happened."""
    wire: Counter[str] = attrs.field(factory=Counter)
    wire_faults: Counter[str] = attrs.field(factory=Counter)
    wire_errors: Counter[str] = attrs.field(factory=Counter)
    simulated: float = 0.0
    took: float = 0.0
    wired: bool = False
    """Whether a link was a wire."""

    def add(self, record: Record) -> None:
        """Count the result of a trial."""
        seed, failure = record["seed"], record["failure"]
        if seed in self.hashes or seed not in self.seeds:
            return
        self.hashes[seed] = f"{record.get('hash')} {failure and failure['kind']}"
        self.took += record["took"]
        self.simulated += record.get("seconds", 0.0)
        for device in record.get("devices", {}).values():
            self.systems[f"{device['type']} {device['transport']} {device['ring']}"] += 1
        for load in record.get("loads", ()):
            figures = {key: value for key, value in load.items() if isinstance(value, int)}
            self.loads.setdefault(load["load"], Counter()).update(figures, trials=1)
        for fault, fired in zip(record.get("script", ()), record.get("fired", ()), strict=True):
            counts = self.faults.setdefault(fault.split(":")[2], [0, 0])
            counts[0] += 1
            counts[1] += bool(fired)
        for link in record.get("links", {}).values():
            self._add_wire(link["wire"])
        if failure is not None:
            self.failures.append({"seed": seed, **failure, "repeat": self.plan.command(seed)})

    def _add_wire(self, wire: dict[str, Any] | None) -> None:
        if wire is not None:
            self.wired = True
            self.wire.update({key: value for key, value in wire.items() if isinstance(value, int)})
            self.wire_faults.update(wire["faults"])
            self.wire_errors.update(wire["errors"])

    @property
    def missing(self) -> list[int]:
        """Seeds without a result, in order."""
        return [seed for seed in self.seeds if seed not in self.hashes]

    @property
    def never(self) -> list[str]:
        """Points of faults that never happened: kinds of scripts, and faults of wires if there is one."""
        script = [name for name, (_, fired) in self.faults.items() if not fired]
        return script + [
            f"wire {fault.value}" for fault in WireFault if self.wired and not self.wire_faults[fault.value]
        ]

    def digest(self) -> str:
        """Return the SHA-256 of the results: two campaigns with the same one had the same results."""
        lines = "".join(f"{seed} {self.hashes[seed]}\n" for seed in sorted(self.hashes))
        return hashlib.sha256(lines.encode()).hexdigest()

    def plain(self) -> dict[str, Any]:
        """Return all counters, ready for JSON."""
        wire = {
            **self.wire,
            "faults": dict(sorted(self.wire_faults.items())),
            "errors": dict(sorted(self.wire_errors.items())),
        }
        return {
            "seeds": f"{self.seeds.start}:{self.seeds.stop}",
            "done": len(self.hashes),
            "missing": ranges(self.missing),
            "failed": len(self.failures),
            "failures": sorted(self.failures, key=lambda failure: failure["seed"]),
            "simulated_seconds": round(self.simulated, 3),
            "trial_seconds": round(self.took, 3),
            "systems": dict(sorted(self.systems.items())),
            "loads": {name: dict(figures) for name, figures in sorted(self.loads.items())},
            "faults": {name: {"drawn": drawn, "happened": fired} for name, (drawn, fired) in self.faults.items()},
            "wire": wire if self.wired else None,
            "never_happened": self.never,
            "sha256": self.digest(),
        }
