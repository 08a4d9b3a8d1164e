"""A graph in the languages of Mermaid and of Graphviz, which lay it out themselves."""

from __future__ import annotations

import html
import json
from collections.abc import Iterator, Mapping

from vnet.graph.model import COLOURS, Edge, Graph, State

__all__ = ["to_dot", "to_mermaid"]

LINES: Mapping[tuple[str, State], str] = {
    ("link", "up"): "===",
    ("link", "down"): "-.-",
    ("link", ""): "===",
    ("device", "up"): "---",
    ("device", "down"): "-.-",
    ("device", ""): "---",
}
"""Mermaid's line by kind and state of an edge."""


def to_mermaid(graph: Graph) -> str:
    """Return a Mermaid flowchart, which Markdown renderers draw in a block of the language ``mermaid``."""
    return "\n".join(_mermaid(graph)) + "\n"


def _mermaid(graph: Graph) -> Iterator[str]:
    ids = _ids(graph)
    yield "flowchart LR"
    for at, group in enumerate(graph.groups):
        yield f'  subgraph g{at}["{_escaped(group.name)}"]'
        for node in group.nodes:
            yield f'    {ids[node.id]}["{"<br>".join(map(_escaped, node.lines))}"]'
        yield "  end"
    for edge in graph.edges:
        line = LINES[edge.kind, edge.state]
        yield f'  {ids[edge.left]} {line}|"{_escaped(edge.label)}"| {ids[edge.right]}'
    for at, edge in enumerate(graph.edges):
        if edge.state:
            yield f"  linkStyle {at} stroke:{COLOURS[edge.state]}"


def _escaped(words: str) -> str:
    """Return words that Mermaid shows as they are: no mark-up, and no entity of its own."""
    return html.escape(words.replace("#", "#35;"), quote=False).replace('"', "#quot;")


def to_dot(graph: Graph) -> str:
    """Return a graph in the DOT language; ``dot -Tsvg`` draws it."""
    return "\n".join(_dot(graph)) + "\n"


def _dot(graph: Graph) -> Iterator[str]:
    ids = _ids(graph)
    yield f"digraph {_quoted(graph.title)} {{"
    yield "  rankdir=LR; ranksep=2; node [shape=box, fontname=monospace]; edge [dir=none, fontname=monospace];"
    for at, group in enumerate(graph.groups):
        yield f"  subgraph cluster_{at} {{"
        yield f"    label={_quoted(group.name)};"
        for node in group.nodes:
            lines = _quoted("\n".join(node.lines))
            yield f"    {ids[node.id]} [label={lines}, color={_quoted(COLOURS[node.state])}];"
        if not group.nodes:
            yield f"    g{at} [style=invis];"
        yield "  }"
    for edge in graph.edges:
        yield f"  {ids[edge.left]} -> {ids[edge.right]} [label={_quoted(edge.label)}, {_style(edge)}];"
    yield "}"


def _style(edge: Edge) -> str:
    dashed = ", style=dashed" if edge.state == "down" else ""
    return f"color={_quoted(COLOURS[edge.state])}, penwidth={3 if edge.kind == 'link' else 1}{dashed}"


def _quoted(words: str) -> str:
    """Return a string of the DOT language."""
    return json.dumps(words, ensure_ascii=False)


def _ids(graph: Graph) -> dict[str, str]:
    """Return an identifier by node that no language reserves."""
    return {node.id: f"n{at}" for at, node in enumerate(node for group in graph.groups for node in group.nodes)}
