"""One topology in two processes: traffic crosses, each shows its half, and either is killed and started again."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.cli import PING, READY, Up, clean_machine, left_behind, vnet
from support.machine import RequireTool
from support.topologies import TWO_HOSTS

pytestmark = [pytest.mark.usefixtures("privileged"), pytest.mark.timeout(1800)]

TOPOLOGY = (
    TWO_HOSTS
    + """\
vfio_user = "{folder}/link"
[devices.net0]
link = "pcie0"
driver = {{ addresses = ["198.18.0.1/24"] }}
device = {{ addresses = ["198.18.0.2/24"] }}
[devices.blk0]
type = "blk"
link = "pcie0"
function = 1
driver = {{ nbd = "{folder}/disk.sock" }}
device = {{ store = "file", path = "{folder}/disk.img", size = 8 }}
"""
)
PATIENCE = 180.0


class Halves:
    """Both processes; each has the name of its host."""

    def __init__(self, folder: Path, prefix: str, started: list[Up]) -> None:
        self.folder, self.prefix, self._started = folder, prefix, started
        self.file = folder / "two.toml"
        self.file.write_text(TOPOLOGY.format(folder=folder))
        self.running: dict[str, Up] = {}

    def start(self, host: str) -> Up:
        up = self.running[host] = Up(self.name(host), str(self.file), "--only", host, "-v")
        self._started.append(up)
        return up

    def name(self, host: str) -> str:
        return f"{self.prefix}-{host}"

    def kill(self, host: str) -> None:
        assert self.running[host].end(signal.SIGKILL) == -signal.SIGKILL

    def pings(self) -> None:
        deadline = time.monotonic() + PATIENCE
        ping = ["ip", "netns", "exec", f"{self.name('rc')}-rc", *PING, "198.18.0.2"]
        while subprocess.run(ping, capture_output=True, check=False).returncode:
            assert time.monotonic() < deadline, {host: up.text for host, up in self.running.items()}

    def copies(self, data: bytes) -> None:
        """A file that is written to the disk is in the image, and comes back."""
        given, returned = self.folder / "given", self.folder / "returned"
        given.write_bytes(data)
        uri = f"nbd+unix:///blk0?socket={self.folder}/disk.sock"
        for source, target in ((given, uri), (uri, returned)):
            subprocess.run(["nbdcopy", "--flush", source, target], check=True, capture_output=True, timeout=PATIENCE)
        for path in (returned, self.folder / "disk.img"):
            assert hashlib.sha256(path.read_bytes()).digest() == hashlib.sha256(data).digest()

    def shows(self, host: str, *parts: str) -> None:
        """Wait until ``vnet show`` of a host has all these parts at once."""
        deadline = time.monotonic() + PATIENCE
        while True:
            text = vnet("show", "--name", self.name(host), "--all").stdout
            if all(part in text for part in parts):
                return
            assert time.monotonic() < deadline, (parts, text)
            time.sleep(0.2)


@pytest.fixture
def halves(tmp_path: Path, require_tool: RequireTool) -> Iterator[Halves]:
    require_tool("ip", "ping", "nbdcopy")
    prefix = f"t{os.getpid()}-two"
    with clean_machine(prefix) as started:
        yield Halves(tmp_path, prefix, started)


def test_traffic_crosses_and_either_process_is_killed_and_started_again(halves: Halves) -> None:
    rc, ep = halves.start("rc"), halves.start("ep")  # the driver's first: it waits for the other
    rc.wait_for(READY)
    ep.wait_for(READY)
    halves.pings()
    halves.copies(os.urandom(8 << 20))
    halves.shows("rc", "to vfio-user", "device net0: net over pci on pcie0, 0000:01:00.0: up", "in another process")
    halves.shows("ep", "root complex) to ep (endpoint), up", ": up", "driver at vfio-user", "connected, 2 connections")

    halves.kill("ep")
    halves.shows("rc", "down (", "not connected (", "is the other process started?")
    halves.start("ep").wait_for(READY)
    halves.pings()
    halves.copies(os.urandom(8 << 20))
    halves.shows("rc", "up, epoch 2")

    halves.kill("rc")
    halves.shows("ep", "not connected")
    halves.start("rc").wait_for(READY)
    halves.pings()
    halves.copies(os.urandom(8 << 20))
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
    file.write_text(TOPOLOGY.format(folder=tmp_path))
    done = vnet("up", str(file), "--only", "middle")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"vnet: {file}: --only = 'middle': must be one of rc, ep\n"
    done = vnet("up", "--only", "rc")
    assert done.stderr == (
        "vnet: built-in topology: links.pcie0.vfio_user: must be given, or stream: each host is a process of its own\n"
    )
