"""A graph as an SVG picture."""

from __future__ import annotations

import html
from collections.abc import Iterator
from itertools import pairwise

from vnet.graph.layout import Path, lay_out
from vnet.graph.model import COLOURS, Graph
from vnet.svg import LINE, document, label, rect

__all__ = ["to_svg"]

WIDTHS = {"link": 5, "device": 1.5}
"""Pixels of a line by kind of edge."""
BASELINE = 17
"""Pixels from the upper edge of a box to the baseline of its first line."""


def to_svg(graph: Graph) -> str:
    """Return the picture: hosts as boxes in columns, links as thick lines, devices as thin ones."""
    return document(*_drawing(graph))


def _drawing(graph: Graph) -> tuple[float, float, str, list[str]]:
    layout = lay_out(graph)
    parts = [label(24, 32, graph.title, size=20, weight="bold")]
    for group in graph.groups:
        box = layout.groups[group.name]
        parts.append(rect(box.x, box.y, box.width, box.height, "#f8f9fa", "#868e96", radius=6))
        parts.append(label(box.x + 12, box.y + 20, group.name, weight="bold"))
        for node in group.nodes:
            inner = layout.nodes[node.id]
            parts.append(rect(inner.x, inner.y, inner.width, inner.height, "#ffffff", COLOURS[node.state], radius=3))
            for row, line in enumerate(node.lines):
                weight = "" if row else "bold"
                parts.append(label(inner.x + 8, inner.y + BASELINE + LINE * row, line, weight=weight))
    for path in layout.paths:
        parts += _line(path)
    return max(layout.width, 48 + 12.5 * len(graph.title)), layout.height, graph.title, parts


def _line(path: Path) -> Iterator[str]:
    """Yield an edge: curves between columns, straight lines across them, and its label above its start."""
    edge, points = path.edge, path.points
    course = f"M {points[0][0]:.1f} {points[0][1]:.1f}"
    for at, ((x, y), (to_x, to_y)) in enumerate(pairwise(points)):
        bend = (to_x - x) / 2
        between = f"C {x + bend:.1f} {y:.1f} {to_x - bend:.1f} {to_y:.1f} {to_x:.1f} {to_y:.1f}"
        course += f" L {to_x:.1f} {to_y:.1f}" if at % 2 else f" {between}"
    dashed = ' stroke-dasharray="7 5"' if edge.state == "down" else ""
    style = f'fill="none" stroke="{COLOURS[edge.state]}" stroke-width="{WIDTHS[edge.kind]}"{dashed}'
    yield f'<path d="{course}" {style}><title>{html.escape(edge.label)}</title></path>'
    yield label(points[0][0] + 16, points[0][1] - 6, edge.label, colour=COLOURS[edge.state])
