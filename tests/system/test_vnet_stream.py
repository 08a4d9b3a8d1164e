"""Two machines, as two namespaces: a command in each, traffic, and either is killed and started again."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.cli import PING, READY, Up, clean_machine, vnet
from support.machine import NETNS, RequireTool
from support.topologies import TWO_HOSTS

pytestmark = [pytest.mark.usefixtures("privileged"), pytest.mark.timeout(1800)]

TOPOLOGY = (
    TWO_HOSTS
    + """\
stream = {{ key = "0123456789abcdef0123456789abcdef" }}
[devices.net0]
link = "pcie0"
driver = {{ addresses = ["198.18.0.1/24"] }}
device = {{ addresses = ["198.18.0.2/24"] }}
[devices.blk0]
type = "blk"
link = "pcie0"
function = 1
driver = {{ nbd = "{folder}/disk.sock" }}
device = {{ store = "file", path = "{folder}/disk.img", size = 2 }}
"""
)
ADDRESSES = {"rc": "198.19.0.1", "ep": "198.19.0.2"}
PLACE = "198.19.0.2:7000"
OPTIONS = {"rc": ("--connect", PLACE), "ep": ("--listen", PLACE)}
PATIENCE = 180.0
RECEIVE = """
import hashlib, socket
server = socket.create_server(("198.18.0.2", 5001))
print("ready", flush=True)
connected, digest = server.accept()[0], hashlib.sha256()
while data := connected.recv(1 << 16):
    digest.update(data)
print(digest.hexdigest())
"""
SEND = """
import socket, sys
connected = socket.create_connection(("198.18.0.2", 5001))
connected.sendall(open(sys.argv[1], "rb").read())
"""


def run(*command: str | Path) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=PATIENCE)


class Machines:
    """Two namespaces with a cable, and the process in each."""

    def __init__(self, folder: Path, prefix: str, started: list[Up]) -> None:
        self.folder, self.prefix, self._started = folder, prefix, started
        self.file = folder / "two.toml"
        self.file.write_text(TOPOLOGY.format(folder=folder))
        self.running: dict[str, Up] = {}

    def name(self, host: str) -> str:
        return f"{self.prefix}-{host}"

    def machine(self, host: str) -> str:
        return f"m{self.name(host)}"

    def start(self, host: str) -> Up:
        # Not by ip netns exec, which would hide the namespaces of the system from this one.
        inside = ("nsenter", f"--net={NETNS / self.machine(host)}")
        up = Up(self.name(host), str(self.file), "--only", host, *OPTIONS[host], "-v", prefix=inside)
        self.running[host] = up
        self._started.append(up)
        return up

    def inside(self, host: str, *command: str | Path) -> tuple[str | Path, ...]:
        """Return a command in the namespace of a host's ports."""
        return ("ip", "netns", "exec", f"{self.name(host)}-{host}", *command)

    def pings(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while subprocess.run(self.inside("rc", *PING, "198.18.0.2"), capture_output=True, check=False).returncode:
            assert time.monotonic() < deadline, {host: up.text for host, up in self.running.items()}

    def sends(self, path: Path, digest: str) -> None:
        """A file that is sent by TCP has the same hash at the other side."""
        command = self.inside("ep", "python3", "-c", RECEIVE)
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as receiver:
            assert receiver.stdout is not None
            assert receiver.stdout.readline() == "ready\n"
            run(*self.inside("rc", "python3", "-c", SEND, path))
            assert receiver.communicate(timeout=PATIENCE)[0].strip() == digest

    def works(self) -> None:
        """Ping, TCP and the disk."""
        self.pings()
        given, returned, data = self.folder / "given", self.folder / "returned", os.urandom(2 << 20)
        digest = hashlib.sha256(data).hexdigest()
        given.write_bytes(data)
        self.sends(given, digest)
        uri = f"nbd+unix:///blk0?socket={self.folder}/disk.sock"
        for source, target in ((given, uri), (uri, returned)):
            run("nbdcopy", "--flush", source, target)
        for path in (returned, self.folder / "disk.img"):
            assert hashlib.sha256(path.read_bytes()).hexdigest() == digest

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
def machines(tmp_path: Path, require_tool: RequireTool) -> Iterator[Machines]:
    require_tool("ip", "ping", "nbdcopy", "nsenter")
    prefix = f"t{os.getpid()}-tm"
    with clean_machine(prefix) as started:
        both = Machines(tmp_path, prefix, started)
        names = {host: both.machine(host) for host in ADDRESSES}
        try:
            for name in names.values():
                run("ip", "netns", "add", name)
            cable = ("ip", "-n", names["rc"], "link", "add", "eth0", "type", "veth", "peer", "name", "eth0")
            run(*cable, "netns", names["ep"])
            for host, name in names.items():
                run("ip", "-n", name, "address", "add", f"{ADDRESSES[host]}/24", "dev", "eth0")
                run("ip", "-n", name, "link", "set", "eth0", "up")
            yield both
            for up in started:
                if up.process.poll() is None:
                    assert up.end(signal.SIGTERM) == 0, up.text
                    assert "Traceback" not in up.text
        finally:
            for name in names.values():
                subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)


@pytest.mark.hostile("T01", "T02", "L11")
def test_traffic_crosses_between_two_machines_and_either_comes_back(machines: Machines) -> None:
    rc, ep = machines.start("rc"), machines.start("ep")
    rc.wait_for(READY)
    ep.wait_for(READY)
    machines.works()
    for host in ("ep", "rc"):
        assert machines.running[host].end(signal.SIGKILL) == -signal.SIGKILL
        machines.shows("rc" if host == "ep" else "ep", "not connected (")
        machines.start(host).wait_for(READY)
        machines.works()
