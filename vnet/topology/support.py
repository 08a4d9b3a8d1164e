"""The support matrix of device types and transports, generated from the registry."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from drivers.carriers.options import SocketOptions
from vnet.ends import DEVICE_TYPES
from vnet.transports import TRANSPORTS

__all__ = ["MatrixCell", "cells", "matrix", "unmediated"]

KINDS = ("ideal", "timed", "faulty", "wire")
"""Kinds of links."""
PROTOCOLS = {"link": "vfio-user, stream"}
"""Protocols between the processes at both ends, by what transports are on."""
NOTES = "¹²³⁴⁵⁶⁷⁸⁹"
"""Marks of notes, in order."""


@attrs.frozen
class MatrixCell:
    """Support of one device type on one transport."""

    device: str
    transport: str
    modes: tuple[str, ...]
    links: tuple[str, ...]
    """Supported kinds of links; only the first one for transports without a link."""
    missing: tuple[str, ...] = ()
    """Reasons why other modes or links are not supported, a sentence each."""


def unmediated(device: str, transport: str) -> str:
    """Return why a device of this type cannot be mediated over that transport; empty if it can."""
    if TRANSPORTS[transport].on == "host":
        return f"transport {transport} is within one host: there is nothing to mediate between"
    if DEVICE_TYPES[device].mediator is None:
        return f"a {device} device has no peer driver at its own end: use direct"
    return ""


def cells() -> Mapping[tuple[str, str], MatrixCell]:
    """Return all cells by device type and transport."""
    return {(device, transport): _cell(device, transport) for device in DEVICE_TYPES for transport in TRANSPORTS}


def _cell(device: str, transport: str) -> MatrixCell:
    why = unmediated(device, transport)
    modes = ("direct",) if why else ("direct", "mediated")
    if TRANSPORTS[transport].on != "host":
        return MatrixCell(device, transport, modes, KINDS, (why,) if why else ())
    unlinked = f"transport {transport} is within one host: there is no link to take time or to lose anything"
    return MatrixCell(device, transport, modes, KINDS[:1], (why, unlinked))


def _protocols(transport: str) -> str:
    """Return the protocols between two processes that have a side each of a device over the transport."""
    kind = TRANSPORTS[transport]
    return PROTOCOLS.get(kind.on, "vhost-user" if kind.options is SocketOptions else "none")


def matrix() -> str:
    """Return the matrix as Markdown: each cell lists the supported modes; notes say why the others are not."""
    columns, table = list(TRANSPORTS), cells()
    notes: dict[str, str] = {}
    lines = [f"| device | {' | '.join(f'`{name}`' for name in columns)} |", "|---" * (len(columns) + 1) + "|"]
    for device in DEVICE_TYPES:
        row = []
        for transport in columns:
            cell = table[device, transport]
            marks = [notes.setdefault(why, NOTES[len(notes)]) for why in cell.missing]
            row.append(", ".join(cell.modes) + (f" {' '.join(marks)}" if marks else ""))
        lines.append(f"| `{device}` | {' | '.join(row)} |")
    some = next(iter(DEVICE_TYPES))
    links = [", ".join(table[some, name].links) if table[some, name].links == KINDS else "none" for name in columns]
    lines.append(f"| on links | {' | '.join(links)} |")
    lines.append(f"| in two processes | {' | '.join(map(_protocols, columns))} |")
    return "\n".join([*lines, "", *(f"{mark} {why[0].upper()}{why[1:]}.  " for why, mark in notes.items())]).rstrip()
