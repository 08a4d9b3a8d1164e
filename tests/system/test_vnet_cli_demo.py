"""`vnet demo` on machines where something is missing."""

from __future__ import annotations

import pytest

from support.cli import left_behind, vnet
from support.machine import RequireTool

pytestmark = pytest.mark.usefixtures("privileged")


@pytest.mark.hostile("X03")
@pytest.mark.parametrize("lacking", ["-net_admin,-sys_admin", "-net_admin", "-sys_admin"])
def test_without_a_right_it_runs_in_memory_although_dev_net_tun_is_there(
    name: str, require_tool: RequireTool, lacking: str
) -> None:
    require_tool("setpriv")
    prefix = ("setpriv", f"--bounding-set={lacking}", "--")
    done = vnet("demo", "--seconds", "1", "--name", name, prefix=prefix)
    missing, instead = done.stderr.splitlines()
    assert missing.startswith("vnet: no right to make network namespaces; try: ")
    assert instead == "vnet: running on in-memory ports with scapy traffic instead"
    assert done.returncode == 0
    assert "scapy ping ipv4" in done.stdout
    assert left_behind(name) == []


def test_a_file_for_the_figures_that_can_not_be_made_is_known_at_once(name: str) -> None:
    done = vnet("demo", "--name", name, "--json", "/nowhere/figures.json")
    line = "vnet: /nowhere/figures.json: No such file or directory\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", line)
