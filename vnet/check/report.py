"""Results of a run as text and as plain data for JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import attrs

from vnet.check.case import Case
from vnet.check.verdicts import Result, Verdict

__all__ = ["as_data", "details", "line", "listing", "skipped", "summary"]

SHOWN = 8
"""Most lines of what was sent in the text of a finding; JSON and JUnit have all."""


def line(result: Result) -> str:
    """Return one line: verdict, id, title, and what was seen."""
    known = " (known)" if result.known else ""
    return f"{result.verdict.value:8}{result.id:24}{result.title}: {result.seen or 'as it must be'}{known}"


def details(result: Result, *, every: bool = False) -> list[str]:
    """Return the lines of a finding: its sentence, the bytes that were sent, what was seen, how to run it alone."""
    sent = (
        result.sent
        if every or len(result.sent) <= SHOWN
        else (f"... {len(result.sent) - SHOWN} more in JSON and JUnit", *result.sent[-SHOWN:])
    )
    lines = [
        f"{result.verdict.value} {result.id}: {result.title}",
        f"  sentence  {result.level.value}, {_place(result.section)}",
        *(f"  {'sent' if not at else '':8}  {text}" for at, text in enumerate(sent)),
        f"  seen      {result.seen}",
    ]
    if result.output:
        lines += [
            f"  {'printed' if not at else '':8}  {text}" for at, text in enumerate(result.output.splitlines()[-SHOWN:])
        ]
    return [*map(_printable, lines), f"  alone     {result.alone}"]


def _printable(text: str) -> str:
    """Return the text without control characters, which the device may have printed."""
    return "".join(char if char.isprintable() else "?" for char in text)


def _place(section: str) -> str:
    return f"VIRTIO 1.4 section {section}" if section[:1].isdigit() else section


def summary(results: Sequence[Result], seconds: float) -> str:
    """Return the counts of verdicts."""
    counts = Counter(result.verdict for result in results)
    parts = [f"{counts[verdict]} {verdict.value}" for verdict in Verdict if counts[verdict]]
    return f"{len(results)} cases in {seconds:.0f} s: {', '.join(parts) or 'none'}"


def skipped(results: Iterable[Result]) -> list[str]:
    """Return a line for each reason of skipped cases, with their number."""
    reasons = Counter(result.seen for result in results if result.verdict is Verdict.SKIP)
    return [f"SKIP    {count:>3} cases: {reason}" for reason, count in reasons.most_common()]


def as_data(results: Iterable[Result], about: dict[str, Any], seconds: float) -> dict[str, Any]:
    """Return the results for JSON, with what was checked."""
    return {**about, "seconds": round(seconds, 3), "results": [_plain(result) for result in results]}


def _plain(result: Result) -> dict[str, Any]:
    data = attrs.asdict(result)
    return {**data, "level": result.level.value, "verdict": result.verdict.value, "seconds": round(result.seconds, 3)}


def listing(cases: Iterable[Case]) -> Iterator[str]:
    """Yield a line for each case: id, level, types, section and title."""
    for case in cases:
        types = ",".join(sorted(case.types)) or "all"
        yield f"{case.id:24}{case.level.value:8}{types:6}{case.section:36}{case.title}"
