"""Shell completion of the names of running systems, and of their hosts, devices and links."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import click

from vnet.errors import ControlError
from vnet.qmp.client import ask
from vnet.system.state import running, system_names

__all__ = [
    "complete_all_parts",
    "complete_devices",
    "complete_hosts",
    "complete_links",
    "complete_parts",
    "complete_rules",
    "complete_systems",
    "complete_things",
    "complete_topics",
    "part_names",
]

Complete = Callable[[click.Context, click.Parameter, str], list[str]]
PATIENCE = 1.0
"""Seconds that a system may take to list its devices."""


def _starting(names: Callable[[click.Context], Sequence[str]]) -> Complete:
    """Return a completion for click from a function that lists names; after an error it completes nothing."""

    def complete(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
        try:
            return [name for name in names(context) if name.startswith(incomplete)]
        except (ControlError, OSError):
            return []

    return complete


def _systems(_context: click.Context) -> list[str]:
    return [name for name in system_names() if running(name) is not None]


def _hosts(context: click.Context) -> list[str]:
    state = running(context.params.get("name") or "vnet")
    return [] if state is None else list(state.hosts)


def part_names(system: str, *kinds: str, timeout: float | None = None) -> list[str]:
    """Return the names of the parts of these ``kinds``, such as devices or links, of a running system.

    Raises ControlError, OSError.
    """
    status = ask(system, "query-vnet-status", timeout=timeout)
    return [name for kind in kinds for name in status[kind]] if isinstance(status, dict) else []


def _parts(*kinds: str) -> Callable[[click.Context], list[str]]:
    return lambda context: part_names(context.params.get("name") or "vnet", *kinds, timeout=PATIENCE)


def _rules(context: click.Context) -> list[str]:
    system, link = context.params.get("name") or "vnet", context.params.get("link")
    rules = ask(system, "query-faults", {"name": link}, timeout=PATIENCE)
    return [rule["name"] for rule in rules] if isinstance(rules, list) else []


def _topics(_context: click.Context) -> list[str]:
    from drivers.contracts.events import Topic

    return [topic.value for topic in Topic]


def _listed(names: Callable[[click.Context], Sequence[str]]) -> Complete:
    """Return a completion of names with commas between: of the last one."""
    complete_last = _starting(names)

    def complete(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",")
        chosen = before.split(",")
        return [before + comma + name for name in complete_last(context, parameter, last) if name not in chosen]

    return complete


complete_systems = _starting(_systems)
complete_hosts = _starting(_hosts)
complete_devices = _starting(_parts("devices"))
complete_links = _starting(_parts("links"))
complete_parts = _listed(_parts("devices", "links"))
complete_rules = _starting(_rules)
complete_things = _starting(_parts("devices", "links"))
complete_all_parts = _starting(lambda context: [*_parts("devices", "links", "ntbs", "luns")(context), *_hosts(context)])
complete_topics = _listed(_topics)
