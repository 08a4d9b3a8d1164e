"""The benchmark of many links: its table, its topology, its option."""

from __future__ import annotations

import attrs
import pytest
from click.testing import CliRunner

from vnet.bench.figures import Machine
from vnet.bench.links import LINKS_MAX, LinksFigures, LinksResult, LinksResults, addresses, links_topology
from vnet.cli.bench import command
from vnet.cli.bench_tables import links_table
from vnet.ends.net import NetSpec

MACHINE = Machine(2, "a processor", "Linux 6.1", "CPython 3.11")


def test_links_have_a_line_for_each_number_of_them() -> None:
    figures = {
        "start": 0.5,
        "start_cpu": 0.25,
        "memory": 64 * 2**20,
        "idle": 0.001,
        "ping": 0.3,
        "cpu_per_packet": 9e-6,
    }
    result = LinksResult(figures, 1.0, (LinksFigures(**figures), None))
    text = links_table(LinksResults(MACHINE, 0.5, {"1": result, "100": attrs.evolve(result, cpu_per_packet_ratio=1.1)}))
    rows = [line.split() for line in text.splitlines() if line.startswith("1")]
    assert rows == [
        ["1", "0.50", "0.25", "64", "0.10", "0.30", "9.00", "1.00"],
        ["100", "0.50", "0.25", "64", "0.10", "0.30", "9.00", "1.10"],
    ]
    assert "rounds: 2, interleaved" in text


def test_many_links_have_an_address_and_an_interface_for_each_end() -> None:
    devices = links_topology(LINKS_MAX, ("a", "b")).devices.values()
    ports = [port for device in devices if isinstance(device, NetSpec) for port in (device.driver, device.device)]
    assert len({address for port in ports for address in port.addresses}) == 2 * LINKS_MAX
    assert addresses(64) == ("198.18.1.1", "198.18.1.2")


@pytest.mark.parametrize("text", ["", "0", "1,x", "256", "-1"])
def test_numbers_of_links_that_can_not_be_are_refused(text: str) -> None:
    result = CliRunner().invoke(command, ["--suite", "links", "--links", text])
    assert result.exit_code == 2
    assert f"must be numbers from 1 to {LINKS_MAX}" in result.output
