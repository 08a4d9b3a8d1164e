"""``vnet fault``: set, list and clear faults of links while the system runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs
import click

from vnet.cli.common import errors_in_one_line, name_option
from vnet.cli.fault_options import OPTIONS, read_rules, read_script
from vnet.cli.live_names import complete_links, complete_rules, part_names
from vnet.cli.query import query
from vnet.cli.table import render
from vnet.errors import ControlError
from vnet.names import named
from vnet.qmp.fault_records import FaultRule
from vnet.views.link import FaultRuleView
from vnet.views.plain import to_plain

__all__ = ["command"]

Rules = tuple[FaultRuleView, ...]
COLUMNS = ("link", "rule", "set by", "affects", "state", "ends in", "requests", "faults")


def _with_options(decorated: click.Command) -> click.Command:
    """Add the options that set rules, before the others."""
    decorated.params[1:1] = OPTIONS
    return decorated


@_with_options
@click.command("fault")
@name_option
@click.option(
    "--script",
    type=click.Path(dir_okay=False, allow_dash=True, path_type=Path),
    help="File with rules: each line has options as above. All are set at once, or none.",
)
@click.option("--clear", is_flag=True, help="Clear RULE, or all rules by hand. Those of the topology stay.")
@click.option("--json", "as_json", is_flag=True, help="Print the rules as JSON.")
@click.argument("link", required=False, shell_complete=complete_links)
@click.argument("rule", nargs=-1, shell_complete=complete_rules)
@errors_in_one_line
def command(
    name: str,
    script: Path | None,
    clear: bool,
    as_json: bool,
    link: str | None,
    rule: Sequence[str],
    **values: str | None,
) -> None:
    """Set, list and clear faults of LINK while the system runs.

    An AMOUNT is a probability (0.25 or 25%), the number of requests that are affected from now on (3), their numbers
    (@3,7), or all. A rule replaces the former one by hand for the same fault; 0 clears that. Rules stay until they are
    cleared, or for the time of --for. The list has all rules with what each has done; without LINK, those of all
    links.

    \b
    vnet fault pcie0 --lost-doorbells 3 --delayed-interrupts 0.5 --for 10s
    vnet fault pcie0 --clear
    """
    rules = [*(read_script(script) if script is not None else ()), *read_rules(values)]
    links = part_names(name, "links")
    if not links:
        raise ControlError(f"{name} has no link: all its devices are within one host")
    if link is None:
        if rules or clear:
            raise ControlError(f"name a link: one of {', '.join(links)}")
        _print({each: _listed(name, each) for each in links}, as_json)
        return
    named("link", dict.fromkeys(links), link, ControlError)
    if clear:
        if rules:
            raise ControlError("--clear sets no fault: clear first, then set")
        cleared = query(name, Rules, "fault-clear", {"name": link, "rules": list(rule)})
        if not as_json:
            for each in cleared:
                click.echo(f"{link}: cleared {each.name}: {each.deeds}")
            if cleared:
                return
    if rules:
        listed = query(name, Rules, "fault-set", {"name": link, "rules": [_plain(each) for each in rules]})
    else:
        listed = _listed(name, link)
    known = {each.name: each for each in listed}
    if rule and not clear:
        known = {each: named("rule", known, each, ControlError, f"{link}: ") for each in rule}
    _print({link: tuple(known.values())}, as_json)


def _listed(name: str, link: str) -> Rules:
    return query(name, Rules, "query-faults", {"name": link})


def _plain(rule: FaultRule) -> dict[str, object]:
    """Return the arguments that make a rule, without those that are not given."""
    given = attrs.asdict(rule, filter=lambda field, value: value != field.default)
    return {key: list(value) if isinstance(value, tuple) else value for key, value in given.items()}


def _print(rules: Mapping[str, Rules], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(to_plain(rules), indent=2))
        return
    rows = [
        (link, each.name, each.origin, each.amount, each.state, each.end or "-", each.requests, each.faults)
        for link, own in rules.items()
        for each in own
    ]
    if rows:
        click.echo(render(COLUMNS, rows))
    for link in (link for link, own in rules.items() if not own):
        click.echo(f"{link}: no rules of faults")
