"""The graph of a topology has each of its parts once."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.graphs import EXAMPLES, GRAPHS
from support.topologies import VHOST_USER_DISK
from vnet.graph.build import of_topology
from vnet.graph.model import node
from vnet.topology import load, parse


@pytest.mark.parametrize("name", GRAPHS)
def test_edges_join_nodes_and_no_node_is_there_twice(name: str) -> None:
    nodes = [node.id for group in GRAPHS[name].groups for node in group.nodes]
    assert len(nodes) == len(set(nodes))
    ends = [end for edge in GRAPHS[name].edges for end in (edge.left, edge.right)]
    assert set(ends) == set(nodes)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_each_link_and_each_device_is_one_edge(path: Path) -> None:
    topology = load(path)
    edges = of_topology("", topology).edges
    assert [edge.label.split(",")[0] for edge in edges if edge.kind == "link"] == list(topology.links)
    assert sorted(edge.label.split(",")[0] for edge in edges if edge.kind == "device") == sorted(topology.devices)


def test_an_end_has_its_kind_and_the_keys_that_are_given() -> None:
    texts = {node.id: node.lines for group in GRAPHS["rc_ep"].groups for node in group.nodes}
    assert texts["rc/pcie0"] == ("pcie0 root complex",)
    assert texts["ep/net0.device"] == ("net0 net device", "tun, 198.18.0.2/24, 2001:2::2/64")
    texts = {node.id: node.lines for group in GRAPHS["scsi_inquiry"].groups for node in group.nodes}
    assert texts["ep/scsi0.device"] == ("scsi0 scsi device", "3 luns")


def test_a_link_says_its_rate_and_that_it_has_faults() -> None:
    assert [edge.label for edge in GRAPHS["timed_link"].edges if edge.kind == "link"] == ["pcie0, Gen2 x1"]
    assert [edge.label for edge in GRAPHS["faulty_link"].edges if edge.kind == "link"] == ["pcie0, faults"]


def test_a_device_of_another_process_is_beside_the_hosts() -> None:
    graph = of_topology("t", parse(VHOST_USER_DISK.format(path="/tmp/d.sock"), "t"))
    assert [(group.name, [node.lines for node in group.nodes]) for group in graph.groups] == [
        ("rc", [("disk0 blk driver",)]),
        ("/tmp/d.sock", [("disk0 blk device",)]),
    ]


def test_both_links_of_an_ntb_end_at_its_node() -> None:
    assert [(edge.left, edge.right) for edge in GRAPHS["ntb"].edges] == [
        ("soc/ntb0", "host1/pcie0"),
        ("host2/pcie1", "soc/ntb0"),
        ("host2/net0.driver", "host1/net0.device"),
    ]


def test_a_long_line_is_wrapped() -> None:
    assert node("a", ["x" * 10 + " " + "y" * 40]).lines == ("x" * 10, "  " + "y" * 40)
