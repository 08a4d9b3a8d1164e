"""The two hosts of a topology in a process each, by ``vnet up --only``: traffic between them, looks, kills."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import time
from pathlib import Path

from support.cli import PING, Up, vnet

__all__ = ["DEVICES", "PATIENCE", "Halves"]

PATIENCE = 180.0
DEVICES = """\
[devices.net0]
link = "pcie0"
driver = {{ addresses = ["198.18.0.1/24"] }}
device = {{ addresses = ["198.18.0.2/24"] }}
[devices.blk0]
type = "blk"
link = "pcie0"
function = 1
driver = {{ nbd = "{folder}/disk.sock" }}
device = {{ store = "file", path = "{folder}/disk.img", size = {size} }}
"""
"""A network device and a disk, which a topology of `Halves` ends with."""


class Halves:
    """Both processes; each has the name of its host."""

    def __init__(self, topology: str, size: int, folder: Path, prefix: str, started: list[Up]) -> None:
        """``size``: MiB of the disk. Each process that is started is appended to ``started``."""
        self.folder, self.size, self.prefix, self._started = folder, size, prefix, started
        self.file = folder / "two.toml"
        self.file.write_text(topology.format(folder=folder, size=size))
        self.running: dict[str, Up] = {}

    def name(self, host: str) -> str:
        return f"{self.prefix}-{host}"

    def start(self, host: str, *options: str, prefix: tuple[str, ...] = ()) -> Up:
        up = self.running[host] = Up(self.name(host), str(self.file), "--only", host, *options, "-v", prefix=prefix)
        self._started.append(up)
        return up

    def kill(self, host: str) -> None:
        assert self.running[host].end(signal.SIGKILL) == -signal.SIGKILL

    def inside(self, host: str, *command: str | Path) -> tuple[str | Path, ...]:
        """Return a command in the namespace of a host's ports."""
        return ("ip", "netns", "exec", f"{self.name(host)}-{host}", *command)

    def pings(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while subprocess.run(self.inside("rc", *PING, "198.18.0.2"), capture_output=True, check=False).returncode:
            assert time.monotonic() < deadline, {host: up.text for host, up in self.running.items()}

    def copies(self, data: bytes) -> None:
        """A file as large as the disk that is written to it is in the image, and comes back."""
        assert len(data) == self.size << 20
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
