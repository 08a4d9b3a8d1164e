"""The result file: for each campaign what is needed to repeat it, and its raw counters, on a line of its own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import cattrs

from campaigns.stage import Results
from support.record import COMMIT, record

__all__ = ["Kept", "KeptError", "read"]


class KeptError(Exception):
    """A result file that can't be read, or whose rounds can't be gone on with."""


def read(path: Path) -> dict[str, Mapping[str, Any]]:
    """Return the records of a file by campaign. Raises KeptError."""
    try:
        return {each["results"][0]["campaign"]: each for each in json.loads(path.read_text(encoding="utf-8"))}
    except (OSError, ValueError, KeyError, IndexError, TypeError) as exc:
        raise KeptError(f"{path}: no result file of campaigns: {exc}") from None


class Kept:
    """A result file, which need not exist yet. Raises KeptError.

    It is read again each time, so that another program may keep other campaigns in it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._records()

    def find(self, campaign: str, seed: int) -> Results:
        """Return the rounds of a campaign that have run with this seed; none yet: a new record. Raises KeptError.

        Rounds of another seed or commit are never mixed with new ones.
        """
        if (former := self._records().get(campaign)) is None:
            return Results(campaign, seed)
        results = cattrs.structure(former["results"][0], Results)
        if (results.seed, former["commit"]) != (seed, COMMIT):
            place = f"{self._path}: {campaign}: has {results.rounds} rounds of --seed {results.seed}"
            raise KeptError(f"{place} at commit {former['commit'][:12]}: go on there, or take this line out")
        return results

    def write(self, results: Results, count: int) -> None:
        """Write the record of a campaign, of which ``count`` rounds are wanted, and keep the others."""
        arguments = [results.campaign, "--count", str(count), "--seed", str(results.seed)]
        records = self._records()
        records[results.campaign] = record("tests.campaigns", arguments, [attrs.asdict(results)])
        lines = ",\n".join(json.dumps(records[name]) for name in sorted(records))
        new = self._path.with_name(f"{self._path.name}.new")  # a run that is killed leaves the old file
        new.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
        new.replace(self._path)

    def _records(self) -> dict[str, Mapping[str, Any]]:
        return read(self._path) if self._path.exists() else {}
