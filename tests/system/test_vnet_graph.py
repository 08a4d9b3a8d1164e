"""Graphviz takes the graph of every topology file, with each of its nodes and edges."""

from __future__ import annotations

import subprocess

import pytest

from support.graphs import GRAPHS
from support.machine import RequireTool
from vnet.graph.model import Graph
from vnet.graph.texts import to_dot


def drawn(graph: Graph, kind: str) -> list[str]:
    """Names of the things of one kind that Graphviz has placed."""
    done = subprocess.run(
        ["dot", "-Tplain"], input=to_dot(graph), capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stderr == ""
    return [line.split(" ", 2)[1] for line in done.stdout.splitlines() if line.startswith(kind + " ")]


@pytest.mark.parametrize("name", GRAPHS)
def test_graphviz_draws_every_graph(name: str, require_tool: RequireTool) -> None:
    require_tool("dot")
    graph = GRAPHS[name]
    assert len(drawn(graph, "node")) == sum(len(group.nodes) for group in graph.groups)
    assert len(drawn(graph, "edge")) == len(graph.edges)
