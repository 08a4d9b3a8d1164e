"""Tables beside each other, joined by arrows, as elements of an SVG picture."""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal

import attrs

from vnet.svg import CHAR, LINE, label, rect

__all__ = ["MARKER", "Arrow", "Kind", "Place", "Row", "Table", "draw_arrows", "draw_tables"]

Kind = Literal["plain", "readable", "writable", "table", "busy", "fault"]
FILLS: Mapping[Kind, tuple[str, str]] = {
    "plain": ("#ffffff", "#ced4da"),
    "readable": ("#d0ebff", "#1864ab"),
    "writable": ("#ffe8cc", "#c2410c"),
    "table": ("#e5dbff", "#5f3dc4"),
    "busy": ("#e9ecef", "#495057"),
    "fault": ("#ffe3e3", "#c92a2a"),
}
"""Fill and stroke of a row by its kind. Its texts say the same, so that no colour is needed."""
PITCH, GAP, PADDING = LINE + 4, 26.0, 12.0
"""Pixels from a row to the next one, between two tables of a column, and beside the texts of a cell."""
REACH, STEP, BENDS = 22.0, 7.0, 5
"""Pixels that an arrow within a table swings out to the right, pixels more for the next arrow, and different swings."""
MARKER = (
    '<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
    '<path d="M 0 0 L 8 4 L 0 8 z" fill="#212529"/></marker></defs>'
)
"""The tip of an arrow."""

Key = tuple[str, int]
"""Name of a table and the index of one of its rows."""


@attrs.frozen
class Row:
    """A line of a table; an ``index`` below 0 is no target of arrows."""

    index: int
    cells: tuple[str, ...]
    kind: Kind = "plain"


@attrs.frozen
class Table:
    """A table with a title, a line of column names, and rows."""

    name: str
    title: str
    columns: tuple[str, ...]
    rows: Sequence[Row]


@attrs.frozen
class Arrow:
    """An arrow between two rows; left out if one of them is not drawn."""

    start: Key
    end: Key
    dashed: bool = False


@attrs.frozen
class Place:
    """Position of a row in pixels: its left and right end, and its middle."""

    left: float
    right: float
    y: float


def draw_tables(tables: Iterable[Table], x: float, y: float) -> tuple[list[str], dict[Key, Place], float, float]:
    """Draw tables below each other. Return the elements, the places of rows, the right and the lower end."""
    parts: list[str] = []
    places: dict[Key, Place] = {}
    right = x
    for table in tables:
        parts.append(label(x, y + 14, table.title, weight="bold"))
        y += LINE + 4
        texts = [table.columns, *(row.cells for row in table.rows)]
        widths = [CHAR * max(map(len, column)) + PADDING for column in zip(*texts, strict=True)]
        parts += _cells(x, y, table.columns, widths, "#868e96")
        y += PITCH
        for row in table.rows:
            fill, stroke = FILLS[row.kind]
            parts.append(rect(x, y, sum(widths), PITCH, fill, stroke))
            parts += _cells(x, y, row.cells, widths, "#212529")
            if row.index >= 0:
                places[table.name, row.index] = Place(x, x + sum(widths), y + PITCH / 2)
            y += PITCH
        right = max(right, x + sum(widths), x + CHAR * len(table.title))
        y += GAP
    return parts, places, right, y


def _cells(x: float, y: float, texts: Iterable[str], widths: Iterable[float], colour: str) -> Iterator[str]:
    for text, width in zip(texts, widths, strict=True):
        if text:
            yield label(x + PADDING / 2, y + 15, text, colour=colour)
        x += width


def draw_arrows(arrows: Iterable[Arrow], places: Mapping[Key, Place]) -> Iterator[str]:
    """Draw arrows: from the right of a row to the left of one in another table, or around the right of one table."""
    for number, arrow in enumerate(dict.fromkeys(arrows)):
        start, end = places.get(arrow.start), places.get(arrow.end)
        if start is None or end is None:
            continue
        x, y, to_y = start.right, start.y, end.y
        if arrow.start[0] == arrow.end[0]:
            out = x + REACH + STEP * (number % BENDS)
            course = f"M {x:.1f} {y + 4:.1f} C {out:.1f} {y + 4:.1f} {out:.1f} {to_y - 4:.1f} {x:.1f} {to_y - 4:.1f}"
        else:
            bend = (end.left - x) / 2
            course = f"M {x:.1f} {y:.1f} C {x + bend:.1f} {y:.1f} {x + bend:.1f} {to_y:.1f} {end.left:.1f} {to_y:.1f}"
        dashes = ' stroke-dasharray="5 4"' if arrow.dashed else ""
        words = html.escape(f"{arrow.start[0]} {arrow.start[1]} to {arrow.end[0]} {arrow.end[1]}")
        style = f'fill="none" stroke="#212529"{dashes} marker-end="url(#tip)"'
        yield f'<path d="{course}" {style}><title>{words}</title></path>'
