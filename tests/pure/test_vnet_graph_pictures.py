"""The pictures of a graph show all of it, in the grammar of each format."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from support.graphs import GRAPHS
from vnet.graph.model import Edge, Graph, Group, node
from vnet.graph.svg import to_svg
from vnet.graph.texts import to_dot, to_mermaid

SVG = "{http://www.w3.org/2000/svg}"
MERMAID = re.compile(
    r"flowchart LR\n"
    r'(?:  subgraph g\d+\["[^"\n]*"\]\n(?:    n\d+\["[^"\n]*"\]\n)*  end\n)*'
    r'(?:  n\d+ (?:===|---|-\.-)\|"[^"\n]*"\| n\d+\n)*'
    r"(?:  linkStyle \d+ stroke:#[0-9a-f]{6}\n)*"
)
"""The part of Mermaid's grammar of flowcharts that is used."""


@pytest.mark.parametrize("name", GRAPHS)
def test_a_picture_is_an_xml_document_without_scripts_and_references(name: str) -> None:
    graph, text = GRAPHS[name], to_svg(GRAPHS[name])
    root = ElementTree.fromstring(text.encode())
    assert root.tag == f"{SVG}svg"
    assert {element.tag.removeprefix(SVG) for element in root.iter()} <= {"svg", "title", "rect", "text", "path"}
    assert not re.findall(r"href|url\(|on\w+=", text)
    words = {element.text for element in root.iter(f"{SVG}text")}
    assert words >= {line for group in graph.groups for node in group.nodes for line in node.lines}
    assert words >= {edge.label for edge in graph.edges}


@pytest.mark.parametrize("name", GRAPHS)
def test_mermaid_is_a_flowchart(name: str) -> None:
    assert MERMAID.fullmatch(to_mermaid(GRAPHS[name]))


def test_no_text_is_mark_up() -> None:
    lines = ('<b> "x" #1 & \\',)
    graph = Graph('t"', (Group('"<g>', (node("a", lines), node("b", lines))),), (Edge("a", "b", 'l"<', "link", "up"),))
    ElementTree.fromstring(to_svg(graph).encode())
    assert MERMAID.fullmatch(to_mermaid(graph))
    assert 'n0["&lt;b&gt; #quot;x#quot; #35;1 &amp; \\"]' in to_mermaid(graph)
    assert r'n0 [label="<b> \"x\" #1 & \\", ' in to_dot(graph)


def test_a_part_that_is_down_is_dashed_everywhere() -> None:
    a, b = Group("a", (node("a", ["a"], "down"),)), Group("b", (node("b", ["b"], "down"),))
    graph = Graph("t", (a, b), (Edge("a", "b", "l, down", "link", "down"),))
    assert "stroke-dasharray" in to_svg(graph)
    assert 'n0 -.-|"l, down"| n1' in to_mermaid(graph)
    assert "style=dashed" in to_dot(graph)


@pytest.mark.parametrize("groups", [(), (Group("a", ()),)])
def test_a_graph_without_nodes_has_a_picture(groups: tuple[Group, ...]) -> None:
    ElementTree.fromstring(to_svg(Graph("t", groups, ())).encode())
    assert MERMAID.fullmatch(to_mermaid(Graph("t", groups, ())))
