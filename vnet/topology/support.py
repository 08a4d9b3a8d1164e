"""Which device type runs on which transport, and how: made from the registry, so that no page can claim more."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from drivers.registry import DEVICES, TRANSPORTS
from vnet.ends import ENDS

__all__ = ["MatrixCell", "cells", "matrix", "unmediated"]

KINDS = ("ideal", "timed", "faulty")
"""Of links."""
NOTES = "¹²³⁴⁵⁶⁷⁸⁹"


@attrs.frozen
class MatrixCell:
    """One device type on one transport."""

    device: str
    transport: str
    modes: tuple[str, ...]
    links: tuple[str, ...]
    """Kinds of links; the first of them also stands for no link."""
    missing: tuple[str, ...] = ()
    """Why there is no more, a sentence each."""


def unmediated(device: str, transport: str) -> str:
    """Why a device of this type can't be mediated over that transport; empty where it can."""
    if TRANSPORTS[transport].on == "host":
        return f"transport {transport} is within one host: there is nothing to mediate between"
    if ENDS[device].mediator is None:
        return f"a {device} device has no peer driver at its own end: use direct"
    return ""


def cells() -> Mapping[tuple[str, str], MatrixCell]:
    """All there are, by device type and transport."""
    return {(device, transport): _cell(device, transport) for device in DEVICES for transport in TRANSPORTS}


def _cell(device: str, transport: str) -> MatrixCell:
    why = unmediated(device, transport)
    modes = ("direct",) if why else ("direct", "mediated")
    if TRANSPORTS[transport].on != "host":
        return MatrixCell(device, transport, modes, KINDS, (why,) if why else ())
    unlinked = f"transport {transport} is within one host: there is no link to take time or to lose anything"
    return MatrixCell(device, transport, modes, KINDS[:1], (why, unlinked))


def matrix() -> str:
    """The table as Markdown: in each cell the modes that exist, and notes that say why no other does."""
    columns, found = list(TRANSPORTS), cells()
    notes: dict[str, str] = {}
    lines = [f"| device | {' | '.join(f'`{name}`' for name in columns)} |", "|---" * (len(columns) + 1) + "|"]
    for device in DEVICES:
        row = []
        for transport in columns:
            cell = found[device, transport]
            marks = [notes.setdefault(why, NOTES[len(notes)]) for why in cell.missing]
            row.append(", ".join(cell.modes) + (f" {' '.join(marks)}" if marks else ""))
        lines.append(f"| `{device}` | {' | '.join(row)} |")
    some = next(iter(DEVICES))
    links = [", ".join(found[some, name].links) if found[some, name].links == KINDS else "none" for name in columns]
    lines.append(f"| on links | {' | '.join(links)} |")
    return "\n".join([*lines, "", *(f"{mark} {why[0].upper()}{why[1:]}.  " for why, mark in notes.items())]).rstrip()
