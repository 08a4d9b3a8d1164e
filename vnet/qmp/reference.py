"""The reference of commands and events as Markdown, made from their records."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any, get_args

import attrs

from vnet.qmp.commands import COMMANDS, Command
from vnet.qmp.events import EVENTS, EventKind
from vnet.qmp.qapi import QapiRecord, member
from vnet.topology.reference import Key, keys_of

__all__ = ["reference"]


def reference() -> str:
    """Return the tables of all commands, of the results that have records of QEMU's form, and of all events."""
    results: dict[type[QapiRecord], None] = {}
    for command in COMMANDS.values():
        results.update(dict.fromkeys(_records(command.result)))
    lines = ["## Commands", "", "| command | arguments | effect or result |", "|---|---|---|"]
    lines += [_command(name, command) for name, command in COMMANDS.items()]
    lines += ["", "## Events", "", "| event | data | when |", "|---|---|---|"]
    lines += [_event(name, kind) for name, kind in EVENTS.items()]
    lines += ["", "## Results", ""]
    for record in results:
        if any(key.doc for key in keys_of(record)):
            lines += [f"### {record.__name__}", "", inspect.cleandoc(record.__doc__ or ""), ""]
            lines += ["| member | meaning |", "|---|---|"]
            lines += [f"| `{member(record, key.name)}` | {_shown(key.doc) or '-'} |" for key in keys_of(record)]
            lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def _command(name: str, command: Command[Any]) -> str:
    about = inspect.getdoc(command.run) or ""
    shapes = [record.__name__ for record in _records(command.result)[:1] if any(key.doc for key in keys_of(record))]
    result = "".join(f" See [{shape}](#{shape.lower()})." for shape in shapes)
    text = about.partition(" Raises ")[0].partition("\n")[0]
    return f"| `{name}` | {_members(command.arguments)} | {_shown(text)}{result} |"


def _event(name: str, kind: EventKind) -> str:
    return f"| `{name}` | {_members(kind.data)} | {_shown(kind.about)} |"


def _members(record: type[QapiRecord]) -> str:
    """Return the members of a record, one a line; brackets around those that may be left out."""
    return "<br>".join(_member(record, key) for key in keys_of(record)) or "-"


def _member(record: type[QapiRecord], key: Key) -> str:
    name = f"`{member(record, key.name)}`"
    name = name if key.default is attrs.NOTHING else f"[{name}]"
    return f"{name}: {_shown(key.doc)}" if key.doc else name


def _records(kind: Any) -> list[type[QapiRecord]]:
    """Return the records of QEMU's form in a type, each before those that it refers to."""
    return list(dict.fromkeys(_walk(kind)))


def _walk(kind: Any) -> Iterator[type[QapiRecord]]:
    if isinstance(kind, type) and issubclass(kind, QapiRecord):
        yield kind
        for key in keys_of(kind):
            yield from _walk(key.type)
    for part in get_args(kind):
        yield from _walk(part)


def _shown(text: str) -> str:
    return text.replace("|", "\\|")
