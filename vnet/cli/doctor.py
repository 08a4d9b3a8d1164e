"""``vnet doctor``: what this machine has of what the product needs, and how to mend the rest."""

from __future__ import annotations

import json
from collections.abc import Sequence

import attrs
import click

from vnet.cli.common import errors_in_one_line
from vnet.doctor import Finding, Grade, examine

__all__ = ["command"]

MARKS = {Grade.OK: "ok", Grade.LIMITED: "limited", Grade.MISSING: "MISSING"}


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead.")
@errors_in_one_line
def command(as_json: bool) -> None:
    """Check the machine: Python, kernel, rights and programs.

    Each prerequisite that is missing gets a command that mends it, and what works without it. Changes nothing and
    needs no right. Exit status 1 if a Python package is missing, because then nothing works.
    """
    findings = examine()
    if as_json:
        click.echo(json.dumps([{**attrs.asdict(one), "grade": one.grade.value} for one in findings], indent=2))
    else:
        click.echo(_report(findings))
    click.get_current_context().exit(int(any(one.grade is Grade.MISSING and not one.optional for one in findings)))


def _report(findings: Sequence[Finding]) -> str:
    width = max(len(one.name) for one in findings)
    lines = []
    for one in findings:
        lines.append(f"{MARKS[one.grade]:7}  {one.name:{width}}  {one.state}")
        if one.grade is not Grade.OK:
            lines += [
                f"{'':7}  {'':{width}}  for: {one.needed_for}",
                f"{'':7}  {'':{width}}  mend: {one.mend}",
                f"{'':7}  {'':{width}}  works without it: {one.without}",
            ]
    amiss = sum(one.grade is not Grade.OK for one in findings)
    lines.append("All prerequisites are there." if not amiss else f"{amiss} of {len(findings)} are missing or limited.")
    return "\n".join(lines)
