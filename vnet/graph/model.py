"""The graph of a system: groups of nodes, and edges between nodes."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping
from typing import Literal

import attrs

__all__ = ["COLOURS", "Edge", "Graph", "Group", "Node", "State", "edge_state", "node"]

State = Literal["up", "down", ""]
"""State of a part; empty in the graph of a file."""
COLOURS: Mapping[State, str] = {"up": "#2b8a3e", "down": "#c92a2a", "": "#495057"}
"""Colour by state. The line of a part that is down is dashed as well, and its label says so."""
WIDTH = 46
"""Characters of the longest line of a node."""


@attrs.frozen
class Node:
    """An end of a link or of a device, or an NTB."""

    id: str
    """Unique in the graph."""
    lines: tuple[str, ...]
    """Text, the name first."""
    state: State


@attrs.frozen
class Group:
    """A host, or a program beside the hosts, with its nodes."""

    name: str
    nodes: tuple[Node, ...]


@attrs.frozen
class Edge:
    """A link, or the connection between the two ends of a device."""

    left: str
    """Id of the node nearer to the driver, or to the root complex."""
    right: str
    """Id of the other node."""
    label: str
    kind: Literal["link", "device"]
    state: State


@attrs.frozen
class Graph:
    """A system."""

    title: str
    groups: tuple[Group, ...]
    edges: tuple[Edge, ...]


def node(ident: str, lines: Iterable[str], state: State = "") -> Node:
    """Return a node; empty lines are left out, long ones are wrapped."""
    wrapped = (part for line in lines if line for part in textwrap.wrap(line, WIDTH, subsequent_indent="  "))
    return Node(ident, tuple(wrapped), state)


def edge_state(up: bool) -> State:
    """Return the state of a part of a running system."""
    return "up" if up else "down"
