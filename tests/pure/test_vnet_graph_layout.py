"""The layout of a graph: nothing covers anything else, and edges run from left to right."""

from __future__ import annotations

from itertools import combinations

import pytest

from support.graphs import GRAPHS, LINKS
from vnet.graph.layout import Box, lay_out


def overlap(one: Box, other: Box) -> bool:
    return (
        one.x < other.x + other.width
        and other.x < one.x + one.width
        and one.y < other.y + other.height
        and other.y < one.y + one.height
    )


@pytest.mark.parametrize("name", GRAPHS)
def test_nothing_covers_anything_else(name: str) -> None:
    graph = GRAPHS[name]
    layout = lay_out(graph)
    assert not [pair for pair in combinations(layout.groups.items(), 2) if overlap(pair[0][1], pair[1][1])]
    assert not [pair for pair in combinations(layout.nodes.items(), 2) if overlap(pair[0][1], pair[1][1])]
    for group in graph.groups:
        outer = layout.groups[group.name]
        assert 0 <= outer.x
        assert outer.x + outer.width <= layout.width
        assert 0 <= outer.y
        assert outer.y + outer.height <= layout.height
        for each in group.nodes:
            box = layout.nodes[each.id]
            assert outer.x < box.x
            assert box.x + box.width < outer.x + outer.width
            assert outer.y < box.y
            assert box.y + box.height < outer.y + outer.height
    for path in layout.paths:
        for x, y in path.points[1:-1]:
            assert not [name for name, box in layout.groups.items() if overlap(box, Box(x + 1, y, 1, 1))]


@pytest.mark.parametrize("name", GRAPHS)
def test_edges_run_from_left_to_right_between_their_ends(name: str) -> None:
    layout = lay_out(GRAPHS[name])
    for path in layout.paths:
        xs = [x for x, _ in path.points]
        assert xs == sorted(xs)
        ends = {path.points[0][1], path.points[-1][1]}
        assert ends == {layout.nodes[path.edge.left].middle, layout.nodes[path.edge.right].middle}


def test_links_of_a_star_do_not_cross() -> None:
    layout = lay_out(GRAPHS["star"])
    starts = [path.points[0][1] for path in sorted(layout.paths, key=lambda path: path.points[-1][1])]
    assert len(starts) == 2 * LINKS
    assert starts == sorted(starts)
