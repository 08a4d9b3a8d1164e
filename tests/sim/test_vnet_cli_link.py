"""A system without a link: nothing advises to take it down, and the attempt is an error."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from vnet.cli import link
from vnet.cli.up import _hints
from vnet.system.world import open_world
from vnet.topology.samples import built_in

PORTS = 'driver = { kind = "memory" }\ndevice = { kind = "memory" }'


@pytest.mark.parametrize(
    ("transport", "advised"), [("pci", True), ("ntb", True), ("mmio", False), ("vhost_user", False)]
)
async def test_links_are_advised_where_there_are_some(transport: str, advised: bool) -> None:
    async with open_world(built_in("net", transport, PORTS)) as world:
        assert ("  vnet link down; vnet link up" in _hints(world)) is advised


@pytest.mark.parametrize("move", ["up", "down"])
def test_a_link_that_is_not_there_is_not_moved(monkeypatch: pytest.MonkeyPatch, move: str) -> None:
    def no_names(name: str, kind: str) -> list[str]:
        return []

    monkeypatch.setattr(link, "part_names", no_names)
    done = CliRunner().invoke(link.command, [move])
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == "vnet: vnet has no link: all its devices are within one host\n"
