"""A frame as a slide: one self-contained SVG, in which changed words are marked."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Sequence

from vnet.learn.step import Cell, Frame, Sheet
from vnet.learn.text import access_lines
from vnet.svg import CHAR, LINE, document, label, rect

__all__ = ["slide"]

WIDTH, MARGIN, COLUMN = 1480, 24, 860
"""Pixels: of the slide, of its margin, and left of the accesses."""
COLOURS = {"driver": "#1864ab", "device": "#c2410c", "both": "#495057"}
CHANGED = "#ffe066"

Drawing = tuple[list[str], float, float]
"""Elements, with the origin at the top left; width and height in pixels."""


def slide(frame: Frame) -> str:
    """Return the slide of a frame, a valid XML document without scripts and without references to other files."""
    texts = textwrap.wrap(frame.step.text, 165)
    parts = [
        label(MARGIN, 38, f"{frame.lesson} {frame.number}. {frame.step.title}", size=24, weight="bold"),
        label(WIDTH - MARGIN, 38, f"VIRTIO 1.4, {frame.step.section}", anchor="end"),
        *(label(MARGIN, 66 + LINE * at, line) for at, line in enumerate(texts)),
    ]
    top = 66 + LINE * len(texts) + 12
    drawings, bottom = _flow(frame.sheets, top)
    lines = list(access_lines(frame.trace))
    parts += drawings
    parts.append(label(COLUMN, top + LINE, "Accesses in order" if lines else "No access", weight="bold"))
    for at, line in enumerate(lines, 2):
        parts.append(label(COLUMN, top + LINE * at, line, colour=COLOURS.get(line.split(" ", 1)[0], "#212529")))
    bottom = max(bottom, top + LINE * (len(lines) + 2)) + 12
    for at, line in enumerate(textwrap.wrap(frame.outcome, 165)):
        parts.append(label(MARGIN, bottom + LINE * at, line, weight="bold"))
        bottom += LINE
    return document(WIDTH, bottom + MARGIN, frame.step.title, parts)


def _flow(sheets: Sequence[Sheet], top: float) -> tuple[list[str], float]:
    """Place drawings from left to right and from top to bottom. Return the elements and the lower end."""
    parts: list[str] = []
    x, y, tallest = float(MARGIN), top, 0.0
    for sheet in sheets:
        elements, width, height = _sheet(sheet)
        if x > MARGIN and x + width > COLUMN - MARGIN:
            x, y, tallest = MARGIN, y + tallest, 0.0
        parts += [f'<g transform="translate({x:.0f} {y:.0f})">', *elements, "</g>"]
        x, tallest = x + width + MARGIN, max(tallest, height + 16)
    return parts, y + tallest


def _sheet(sheet: Sheet) -> Drawing:
    writes = "both write" if sheet.writer == "both" else f"{sheet.writer} writes"
    title = label(0, 14, f"{sheet.title} ({writes})", colour=COLOURS[sheet.writer], weight="bold")
    parts, width, height = [title], CHAR * (len(sheet.title) + 18), 24.0
    words = [f"{cell.name} {_value(cell)}" for cell in sheet.words]
    for cell, text in zip(sheet.words, words, strict=True):
        parts += _box(0, height, text, cell.changed)
        width, height = max(width, CHAR * len(text) + 12), height + LINE + 2
    if sheet.slots:
        elements, own_width, own_height = (_circle if sheet.circle else _table)(sheet.slots)
        parts += [f'<g transform="translate(0 {height + 4:.0f})">', *elements, "</g>"]
        width, height = max(width, own_width), height + 4 + own_height
    return parts, width, height


def _table(slots: Sequence[Sequence[Cell]]) -> Drawing:
    """Draw a slot per row and a field per column."""
    rows = [["", *(_field(cell) for cell in slots[0])]]
    rows += [[f"[{index}]", *(_value(cell) for cell in slot)] for index, slot in enumerate(slots)]
    widths = [CHAR * max(map(len, column)) + 12 for column in zip(*rows, strict=True)]
    parts: list[str] = []
    for row, texts in enumerate(rows):
        x = 0.0
        for column, (text, width) in enumerate(zip(texts, widths, strict=True)):
            changed = row > 0 and column > 0 and slots[row - 1][column - 1].changed
            parts += _box(x, row * (LINE + 4), text, changed, width, frame=row > 0 and column > 0)
            x += width
    return parts, sum(widths), len(rows) * (LINE + 4)


def _circle(slots: Sequence[Sequence[Cell]]) -> Drawing:
    """Draw the slots on a circle, clockwise from the top."""
    texts = [[f"[{index}]", *(f"{_field(cell)} {_value(cell)}" for cell in slot)] for index, slot in enumerate(slots)]
    width = CHAR * max(len(line) for lines in texts for line in lines) + 14
    height = LINE * len(texts[0]) + 6
    rx, ry = width * 0.75, (height + 16) * max(1.0, len(slots) / 4)
    cx, cy = rx + width / 2, ry + height / 2
    parts = [f'<ellipse cx="{cx:.0f}" cy="{cy:.0f}" rx="{rx:.0f}" ry="{ry:.0f}" fill="none" stroke="#adb5bd"/>']
    for at, (slot, lines) in enumerate(zip(slots, texts, strict=True)):
        angle = 2 * math.pi * at / len(slots)
        x, y = cx + rx * math.sin(angle) - width / 2, cy - ry * math.cos(angle) - height / 2
        parts.append(rect(x, y, width, height, "#ffffff", "#868e96"))
        parts.append(label(x + 6, y + 14, lines[0], colour="#868e96"))
        for row, (cell, line) in enumerate(zip(slot, lines[1:], strict=True), 1):
            parts += _box(x + 1, y + row * LINE + 2, line, cell.changed, width - 2)
    return parts, 2 * cx, 2 * cy


def _box(x: float, y: float, text: str, changed: bool, width: float = 0.0, *, frame: bool = False) -> Iterator[str]:
    """Yield a text with a marked or framed background."""
    if changed or frame:
        fill = CHANGED if changed else "#ffffff"
        yield rect(x, y, width or CHAR * len(text) + 12, LINE + 4 * frame, fill, "#868e96" if frame else fill)
    yield label(x + 6, y + 14 + frame, text)


def _field(cell: Cell) -> str:
    return cell.name.rpartition(".")[2]


def _value(cell: Cell) -> str:
    return f"{cell.before} → {cell.after}" if cell.changed and cell.before else cell.after
