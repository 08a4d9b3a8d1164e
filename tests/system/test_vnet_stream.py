"""Two machines, as two namespaces: a command in each, traffic, and either is killed and started again."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.cli import READY, Up, clean_machine
from support.halves import DEVICES, PATIENCE, Halves
from support.machine import NETNS, RequireTool
from support.topologies import TWO_HOSTS

pytestmark = [pytest.mark.usefixtures("privileged"), pytest.mark.timeout(1800)]

TOPOLOGY = TWO_HOSTS + 'stream = {{ key = "0123456789abcdef0123456789abcdef" }}\n' + DEVICES
SIZE = 2
ADDRESSES = {"rc": "198.19.0.1", "ep": "198.19.0.2"}
PLACE = "198.19.0.2:7000"
OPTIONS = {"rc": ("--connect", PLACE), "ep": ("--listen", PLACE)}
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


class Machines(Halves):
    """Two namespaces with a cable, and the process in each."""

    def machine(self, host: str) -> str:
        return f"m{self.name(host)}"

    def start_there(self, host: str) -> Up:
        # Not by ip netns exec, which would hide the namespaces of the system from this one.
        return self.start(host, *OPTIONS[host], prefix=("nsenter", f"--net={NETNS / self.machine(host)}"))

    def sends(self, path: Path, digest: str) -> None:
        """A file that is sent by TCP has the same hash at the other side."""
        command = self.inside("ep", "python3", "-c", RECEIVE)
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as receiver:
            assert receiver.stdout is not None
            assert receiver.stdout.readline() == "ready\n"
            run(*self.inside("rc", "python3", "-c", SEND, path))
            assert receiver.communicate(timeout=PATIENCE)[0].strip() == digest

    def works(self) -> None:
        """Ping, the disk and TCP."""
        self.pings()
        data = os.urandom(SIZE << 20)
        self.copies(data)
        self.sends(self.folder / "given", hashlib.sha256(data).hexdigest())


@pytest.fixture
def machines(tmp_path: Path, require_tool: RequireTool) -> Iterator[Machines]:
    require_tool("ip", "ping", "nbdcopy", "nsenter")
    prefix = f"t{os.getpid()}-tm"
    with clean_machine(prefix) as started:
        both = Machines(TOPOLOGY, SIZE, tmp_path, prefix, started)
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
    rc, ep = machines.start_there("rc"), machines.start_there("ep")
    rc.wait_for(READY)
    ep.wait_for(READY)
    machines.works()
    for host in ("ep", "rc"):
        machines.kill(host)
        machines.shows("rc" if host == "ep" else "ep", "not connected (")
        machines.start_there(host).wait_for(READY)
        machines.works()
