"""``vnet graph`` draws a file or a running system with its states, and refuses in one line."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner, Result
from trio.testing import wait_all_tasks_blocked

from support.paths import ROOT
from vnet.cli import graph, query
from vnet.graph.build import of_system, of_topology
from vnet.system.snapshot import take_snapshot
from vnet.system.world import open_world
from vnet.topology import DEFAULT, parse
from vnet.topology.samples import built_in
from vnet.views.plain import to_plain

IN_MEMORY = DEFAULT.replace('"tun"', '"memory"')
RC_EP = str(ROOT / "examples" / "topologies" / "rc_ep.toml")


def drawn(*args: str) -> Result:
    return CliRunner().invoke(graph.command, list(args))


async def test_a_running_system_has_its_states(monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_world(parse(IN_MEMORY), "t") as world:
        await world.wait_up()
        up = to_plain(take_snapshot(world))
        world.links["pcie0"].bring_down()
        await wait_all_tasks_blocked()
        down = to_plain(take_snapshot(world))
    monkeypatch.setattr(query, "ask", lambda *_: json.loads(json.dumps(up)))
    assert drawn("--format", "mermaid").output.splitlines() == [
        "flowchart LR",
        '  subgraph g0["rc"]',
        '    n0["pcie0 root complex"]',
        '    n1["net0 net driver<br>memory, 198.18.0.1/24, 2001:2::1/64<br>DRIVER_OK"]',
        "  end",
        '  subgraph g1["ep"]',
        '    n2["pcie0 endpoint"]',
        '    n3["net0 net device<br>memory, 198.18.0.2/24, 2001:2::2/64<br>DRIVER_OK"]',
        "  end",
        '  n0 ===|"pcie0, up"| n2',
        '  n1 ---|"net0, pci, up"| n3',
        "  linkStyle 0 stroke:#2b8a3e",
        "  linkStyle 1 stroke:#2b8a3e",
    ]
    monkeypatch.setattr(query, "ask", lambda *_: json.loads(json.dumps(down)))
    output = drawn("--format", "mermaid").output
    assert '  n0 -.-|"pcie0, down"| n2\n' in output
    assert "<br>down: " in output


@pytest.mark.parametrize("kind", ["net", "blk", "scsi", "rpmsg"])
@pytest.mark.parametrize("transport", ["pci", "ntb", "mmio"])
async def test_a_running_system_has_the_edges_of_its_file(kind: str, transport: str) -> None:
    keys = 'driver = { kind = "memory" }\ndevice = { kind = "memory" }' if kind == "net" else ""
    topology = built_in(kind, transport, keys)
    async with open_world(topology, "t") as world:
        await world.wait_up()
        running = of_system(take_snapshot(world))
    file = of_topology("t", topology)
    assert [(edge.left, edge.right, edge.kind) for edge in running.edges] == [
        (edge.left, edge.right, edge.kind) for edge in file.edges
    ]
    assert [group.name for group in running.groups] == [group.name for group in file.groups]
    assert all(edge.state == "up" for edge in running.edges)


@pytest.mark.parametrize(
    ("name", "start"), [("x.svg", "<?xml"), ("x.mmd", "flowchart"), ("x.dot", "digraph"), ("x.gv", "digraph")]
)
def test_the_suffix_of_the_file_chooses_the_format(tmp_path: Path, name: str, start: str) -> None:
    done = drawn(RC_EP, "-o", str(tmp_path / name))
    assert (done.exit_code, done.output) == (0, "")
    assert (tmp_path / name).read_text(encoding="utf-8").startswith(start)


def test_svg_is_the_default() -> None:
    assert ElementTree.fromstring(drawn(RC_EP).output.encode()).tag.endswith("svg")


@pytest.mark.parametrize(
    ("args", "status", "line"),
    [
        (("missing.toml",), 1, "vnet: missing.toml: No such file or directory"),
        ((RC_EP, "-o", "/proc/none/x.svg"), 1, "vnet: /proc/none/x.svg: No such file or directory"),
        (("--name", "moon"), 1, "vnet: moon is not running; try: vnet up --name moon"),
        ((RC_EP, "--name", "moon"), 2, "Error: FILE and --name exclude each other"),
    ],
)
def test_bad_input_is_one_line(args: tuple[str, ...], status: int, line: str) -> None:
    done = drawn(*args)
    assert (done.exit_code, done.stdout, done.stderr.splitlines()[-1]) == (status, "", line)
