"""One topology in two processes: traffic crosses, each shows its half, and either is killed and started again."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.cli import READY, clean_machine, left_behind, vnet
from support.halves import DEVICES, Halves
from support.machine import RequireTool
from support.topologies import TWO_HOSTS

pytestmark = [pytest.mark.usefixtures("privileged"), pytest.mark.timeout(1800)]

TOPOLOGY = TWO_HOSTS + 'vfio_user = "{folder}/link"\n' + DEVICES
SIZE = 8


@pytest.fixture
def halves(tmp_path: Path, require_tool: RequireTool) -> Iterator[Halves]:
    require_tool("ip", "ping", "nbdcopy")
    prefix = f"t{os.getpid()}-two"
    with clean_machine(prefix) as started:
        yield Halves(TOPOLOGY, SIZE, tmp_path, prefix, started)


def test_traffic_crosses_and_either_process_is_killed_and_started_again(halves: Halves) -> None:
    rc, ep = halves.start("rc"), halves.start("ep")  # the driver's first: it waits for the other
    rc.wait_for(READY)
    ep.wait_for(READY)
    halves.pings()
    halves.copies(os.urandom(SIZE << 20))
    halves.shows("rc", "to vfio-user", "device net0: net over pci on pcie0, 0000:01:00.0: up", "in another process")
    halves.shows("ep", "root complex) to ep (endpoint), up", ": up", "driver at vfio-user", "connected, 2 connections")

    halves.kill("ep")
    halves.shows("rc", "down (", "not connected (", "is the other process started?")
    halves.start("ep").wait_for(READY)
    halves.pings()
    halves.copies(os.urandom(SIZE << 20))
    halves.shows("rc", "up, epoch 2")

    halves.kill("rc")
    halves.shows("ep", "not connected")
    halves.start("rc").wait_for(READY)
    halves.pings()
    halves.copies(os.urandom(SIZE << 20))
    for host in ("rc", "ep"):
        up = halves.running[host]
        assert up.end(signal.SIGTERM) == 0, up.text
        assert "Traceback" not in up.text
        assert left_behind(halves.name(host)) == []
    assert not (halves.folder / "link").exists()


def test_a_link_that_the_endpoint_takes_down_is_down_for_both(halves: Halves) -> None:
    halves.start("ep").wait_for(READY)
    halves.start("rc").wait_for(READY)
    assert vnet("link", "--name", halves.name("ep"), "down").returncode == 0
    halves.shows("rc", "down, epoch 1", "device net0: net over pci on pcie0, 0000:01:00.0: down")
    assert vnet("link", "--name", halves.name("ep"), "up").returncode == 0
    halves.shows("rc", "up, epoch 2")
    halves.pings()


def test_a_host_that_can_not_run_alone_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "two.toml"
    file.write_text(TOPOLOGY.format(folder=tmp_path, size=SIZE))
    done = vnet("up", str(file), "--only", "middle")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"vnet: {file}: --only = 'middle': must be one of rc, ep\n"
    done = vnet("up", "--only", "rc")
    assert done.stderr == (
        "vnet: built-in topology: links.pcie0.vfio_user: must be given, or stream: each host is a process of its own\n"
    )
