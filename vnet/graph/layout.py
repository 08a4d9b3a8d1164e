"""The places of a graph's parts in a picture: hosts in columns, the driver's side to the left.

Groups stand in the column behind all groups to their left (longest path). A column passes an edge that spans it through
a place of its own. Within columns, groups and nodes are ordered by the mean place of their neighbours.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

import attrs

from vnet.graph.model import Edge, Graph, Group
from vnet.svg import CHAR, LINE

__all__ = ["Box", "Layout", "Path", "lay_out"]

SWEEPS = 4
"""Times that all columns are ordered."""
MARGIN, TITLE, PADDING, GAP, FAN = 24, 30, 12, 18, 70
"""Pixels: around the picture, of a group's title, inside of a group, between groups, and for the bends of edges."""
ROW = 8
"""Pixels between the text of a node and its box, above and below together."""
SPACE = 6
"""Pixels between nodes."""


@attrs.frozen
class Box:
    """A rectangle in pixels."""

    x: float
    y: float
    width: float
    height: float

    @property
    def middle(self) -> float:
        """Vertical middle."""
        return self.y + self.height / 2


@attrs.frozen
class Path:
    """The course of an edge: points at which it enters and leaves the columns, from left to right."""

    edge: Edge
    points: tuple[tuple[float, float], ...]


@attrs.frozen
class Layout:
    """The places of all parts."""

    width: float
    height: float
    groups: Mapping[str, Box]
    """Boxes of groups by name."""
    nodes: Mapping[str, Box]
    """Boxes of nodes by id."""
    paths: tuple[Path, ...]


@attrs.define(eq=False)
class _Item:
    """A group, or the place at which an edge passes a column."""

    rows: list[str]
    """Ids of its nodes, from top to bottom."""
    group: Group | None


@attrs.frozen
class _Run:
    """An edge with the ids of the places that it passes, its ends included."""

    edge: Edge
    stops: tuple[str, ...]


def lay_out(graph: Graph) -> Layout:
    """Return the places of all parts of a graph."""
    owner = {node.id: group.name for group in graph.groups for node in group.nodes}
    level = _levels(graph, owner)
    columns: list[list[_Item]] = [[] for _ in range(max(level.values(), default=0) + 1)]
    for group in graph.groups:
        columns[level[group.name]].append(_Item([node.id for node in group.nodes], group))
    runs = [_run(edge, level, owner, columns) for edge in graph.edges]
    beside: dict[str, list[str]] = defaultdict(list)
    for run in runs:
        for left, right in pairwise(run.stops):
            beside[left].append(right)
            beside[right].append(left)
    _order(columns, beside)
    heights = {node.id: LINE * len(node.lines) + ROW for group in graph.groups for node in group.nodes}
    tops = _tops(columns, beside, heights)
    return _place(graph, columns, runs, tops, heights)


def _levels(graph: Graph, owner: Mapping[str, str]) -> dict[str, int]:
    """Return the column of each group. ``owner`` is the group of each node. Edges that close a circle are ignored."""
    followers: dict[str, dict[str, None]] = {group.name: {} for group in graph.groups}
    for edge in graph.edges:
        if owner[edge.left] != owner[edge.right]:
            followers[owner[edge.left]][owner[edge.right]] = None
    finished: list[str] = []
    seen: set[str] = set()
    for start, firsts in followers.items():
        stack = [] if start in seen else [(start, iter(firsts))]
        seen.add(start)
        while stack:
            name, rest = stack[-1]
            following = next((each for each in rest if each not in seen), None)
            if following is None:
                finished.append(name)
                stack.pop()
            else:
                seen.add(following)
                stack.append((following, iter(followers[following])))
    level = dict.fromkeys(followers, 0)
    order = {name: at for at, name in enumerate(reversed(finished))}
    for name in reversed(finished):
        for following in followers[name]:
            if order[following] > order[name]:
                level[following] = max(level[following], level[name] + 1)
    return level


def _run(edge: Edge, level: Mapping[str, int], owner: Mapping[str, str], columns: list[list[_Item]]) -> _Run:
    """Return the course of an edge, and give it a place in each column that it passes."""
    ends = sorted((edge.left, edge.right), key=lambda end: level[owner[end]])
    first, last = (level[owner[end]] for end in ends)
    stops = [ends[0]]
    for column in range(first + 1, last):
        stops.append(f"{column}|{edge.left}|{edge.right}")
        columns[column].append(_Item([stops[-1]], None))
    return _Run(edge, (*stops, ends[1]))


def _order(columns: Sequence[list[_Item]], beside: Mapping[str, Sequence[str]]) -> None:
    """Order groups and nodes by the mean place of their neighbours, which avoids most crossings."""

    def places() -> dict[str, float]:
        return {row: float(at) for items in columns for at, row in enumerate(r for item in items for r in item.rows)}

    def mean(rows: Iterable[str], place: Mapping[str, float]) -> float:
        near = [place[other] for row in rows for other in beside.get(row, ())]
        return sum(near) / len(near) if near else sum(place[row] for row in rows) / max(1, len(list(rows)))

    for _ in range(SWEEPS):
        for items in columns[1:]:
            place = places()
            items.sort(key=lambda item: mean(item.rows, place))
            for item in items:
                item.rows.sort(key=lambda row: mean([row], place))


def _tops(
    columns: Sequence[Sequence[_Item]], beside: Mapping[str, Sequence[str]], heights: Mapping[str, float]
) -> dict[str, float]:
    """Return the upper edge of each place: those of the tallest column first, then beside their neighbours."""

    def size(items: Sequence[_Item]) -> float:
        return sum(TITLE + GAP + sum(heights.get(row, ROW) + SPACE for row in item.rows) for item in items)

    tallest = max(range(len(columns)), key=lambda at: size(columns[at]))
    tops: dict[str, float] = {}
    for at in (*range(tallest, len(columns)), *range(tallest - 1, -1, -1)):
        y = float(MARGIN + TITLE)
        for item in columns[at]:
            y += TITLE if item.group is not None else 0
            for row in item.rows:
                half = heights.get(row, ROW) / 2
                near = [tops[other] + heights.get(other, ROW) / 2 for other in beside.get(row, ()) if other in tops]
                tops[row] = max(y, sum(near) / len(near) - half if near else y)
                y = tops[row] + 2 * half + SPACE
            y += PADDING + GAP if item.group is not None else 0
    return tops


def _place(
    graph: Graph,
    columns: Sequence[Sequence[_Item]],
    runs: Sequence[_Run],
    tops: Mapping[str, float],
    heights: Mapping[str, float],
) -> Layout:
    texts = {node.id: max(map(len, node.lines)) for group in graph.groups for node in group.nodes}
    column_of = {row: at for at, items in enumerate(columns) for item in items for row in item.rows}
    labels: dict[int, float] = defaultdict(float)
    for run in runs:
        start = column_of[run.stops[0]]
        labels[start] = max(labels[start], CHAR * len(run.edge.label))
    groups: dict[str, Box] = {}
    nodes: dict[str, Box] = {}
    spans: list[tuple[float, float]] = []
    x, bottom = float(MARGIN), 0.0
    for at, items in enumerate(columns):
        inner = max((CHAR * texts[row] for item in items for row in item.rows if row in texts), default=0.0)
        named = [item.group.name for item in items if item.group is not None]
        width = max(inner + 3 * PADDING, CHAR * max(map(len, named), default=0) + 2 * PADDING) + PADDING
        y = float(MARGIN + TITLE)
        for item in items:
            if item.group is None:
                continue
            for row in item.rows:
                nodes[row] = Box(x + PADDING, tops[row], width - 2 * PADDING, heights[row])
            upper = tops[item.rows[0]] - TITLE if item.rows else y
            lower = tops[item.rows[-1]] + heights[item.rows[-1]] + PADDING if item.rows else y + TITLE
            groups[item.group.name] = Box(x, upper, width, lower - upper)
            y, bottom = lower + GAP, max(bottom, lower)
        spans.append((x, x + width))
        x += width + labels[at] + FAN
    width = spans[-1][1] + MARGIN

    def crossing(row: str) -> list[tuple[float, float]]:
        if row in nodes:
            box = nodes[row]
            return [(box.x, box.middle), (box.x + box.width, box.middle)]
        return [(edge, tops[row] + ROW / 2) for edge in spans[column_of[row]]]

    paths = tuple(Path(run.edge, tuple(point for row in run.stops for point in crossing(row))[1:-1]) for run in runs)
    return Layout(width, bottom + MARGIN, groups, nodes, paths)
