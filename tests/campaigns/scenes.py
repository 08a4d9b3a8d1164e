"""Systems of several processes with loads, which a campaign disturbs, and of which nothing is left at the end."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Protocol, Self, TypeVar

import attrs

from campaigns.disk import DISK_MIB, DiskLoad
from campaigns.load import PATIENCE, Load
from campaigns.network import PingLoad
from campaigns.stage import Stage
from support.cli import READY, Up, left_behind, vnet
from support.guest import Serve
from support.machine import ip, remove_netns

__all__ = [
    "IMAGE",
    "LINK",
    "PREFIX",
    "Process",
    "Processes",
    "Scene",
    "System",
    "Victim",
    "both_sides",
    "check_scene",
    "halves",
    "namespace",
    "run_loads",
    "served",
    "write_topology",
]

T = TypeVar("T", bound="Process")
PREFIX = f"c{os.getpid()}-"
"""Beginning of the names of systems; names of namespaces that outlive them begin in another way."""
IMAGE = "disk.img"
"""File of a disk, in the folder of the stage."""


class Process(Protocol):
    """A process of ours that can be started again."""

    @property
    def process(self) -> subprocess.Popen[str]: ...

    def start(self) -> None:
        """Start it, and return once it is ready."""

    def end(self, number: int = signal.SIGTERM) -> None:
        """End it by a signal. Raises AssertionError if it ends in another way than that signal wants."""


class System:
    """A ``vnet up`` under one name."""

    def __init__(self, name: str, *arguments: str | Path) -> None:
        self.name, self._arguments = name, list(map(str, arguments))
        self.start()

    @property
    def process(self) -> subprocess.Popen[str]:
        return self._up.process

    def start(self) -> None:
        self.begin()
        self._up.wait_for(READY)

    def begin(self) -> None:
        """Start it without waiting."""
        self._up = Up(self.name, *self._arguments)

    def end(self, number: int = signal.SIGTERM) -> None:
        status = self._up.end(number)
        assert status == (0 if number == signal.SIGTERM else -number), f"{self.name}: {status}: {self._up.text}"
        assert "Traceback" not in self._up.text, self._up.text

    def down(self) -> None:
        """Remove what is left after SIGKILL."""
        vnet("down", "--name", self.name)


@attrs.frozen
class Victim:
    """A process that a campaign disturbs."""

    process: Process
    loads: tuple[str, ...]
    """Loads whose service it is part of; the others go on meanwhile."""
    witness: tuple[str, str] | None = None
    """System that notices its end, and the event by which it says so; None: there is no other process."""
    has_clients: bool = True
    """Whether clients of the disk are connected to it."""


@attrs.frozen
class Scene:
    """Processes under loads."""

    victims: Mapping[str, Victim]
    loads: Mapping[str, Load]
    folder: Path
    survives_handshake: bool = True
    """Whether the other side gets over an end of the process while both set up their connection."""
    _counted: dict[str, int] = attrs.field(factory=dict, init=False)

    @property
    def connections(self) -> int:
        """Connections so far of the client of the disk; 0 if there is none."""
        return sum(load.connections for load in self.loads.values() if isinstance(load, DiskLoad))

    def mark(self, begun: float | None = None) -> None:
        """Begin to measure how long each load waits, from ``begun`` on."""
        for load in self.loads.values():
            load.mark(begun)

    def wait_all(self) -> None:
        """Wait until each load has an answer to a request of now."""
        self.mark()
        for load in self.loads.values():
            load.wait_back()

    def open_fds(self) -> dict[str, int]:
        """Return the number of open file descriptors by process, once all loads run."""
        self.wait_all()
        return {name: self._fds(name) for name in self.victims}

    def wait_fds(self, before: Mapping[str, int]) -> None:
        """Wait until no process has more of them than before. Raises AssertionError."""
        deadline = time.monotonic() + PATIENCE
        for name, most in before.items():
            while (now := self._fds(name)) > most:
                assert time.monotonic() < deadline, f"{name} has {now} file descriptors, {most} before"
                time.sleep(0.05)

    def _fds(self, name: str) -> int:
        return sum(1 for _ in Path(f"/proc/{self.victims[name].process.process.pid}/fd").iterdir())

    def count(self, stage: Stage) -> None:
        """Add the growth of the loads' counters since the last call."""
        for name, load in self.loads.items():
            for counter, number in load.counters().items():
                key = f"{name} {counter}"
                stage.add(key, number - self._counted.get(key, 0))
                self._counted[key] = number

    def check_nothing_left(self) -> None:
        """Look for what ended processes left: namespaces, sockets, files. Raises AssertionError."""
        left = left_behind(PREFIX) + left_behind("serve-")
        left += [str(path) for path in self.folder.iterdir() if path.is_socket()]
        assert not left, f"left behind: {left}"


@contextmanager
def namespace(word: str) -> Iterator[str]:
    """Make a network namespace for as long as the block runs; yield its name."""
    name = f"n{os.getpid()}-{word}"
    ip("netns", "add", name)
    try:
        yield name
    finally:
        remove_netns(name)


class Processes:
    """Processes that end with the block, in reverse order: by SIGTERM, after an error by SIGKILL."""

    def __init__(self) -> None:
        self._running: list[Process] = []

    def __call__(self, process: T) -> T:
        """Add a process and return it."""
        self._running.append(process)
        return process

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                for process in reversed(self._running):
                    process.end()
        finally:
            for process in self._running:
                _clean_up(process)


def _clean_up(process: Process) -> None:
    """End a process that did not end by itself, and remove what it left."""
    popen = process.process
    if popen.poll() is None or popen.returncode == -signal.SIGKILL:
        popen.kill()
        popen.wait()
        if isinstance(process, System):
            process.down()
    if popen.stdout is not None:
        popen.stdout.close()


FRONT = """\
[hosts.rc]
[devices.disk0]
type = "blk"
transport = "vhost_user"
host = "rc"
socket = "{folder}/disk.sock"
driver = {{ nbd = "{folder}/nbd.sock" }}
[devices.net0]
transport = "vhost_user"
host = "rc"
socket = "{folder}/net.sock"
driver = {{ netns = "{front}", addresses = ["198.18.0.1/24"] }}
"""


def write_topology(stage: Stage, text: str, **names: str) -> Path:
    """Write a topology file into the folder of the stage, with these names in it, and return it."""
    file = stage.folder / "topology.toml"
    file.write_text(text.format(folder=stage.folder, **names))
    return file


LINK = """\
[hosts.rc]
[hosts.ep]
[links.pcie0]
root = "rc"
endpoint = "ep"
{link}
[devices.net0]
link = "pcie0"
driver = {{ netns = "{front}", addresses = ["198.18.0.1/24"] }}
device = {{ netns = "{back}", addresses = ["198.18.0.2/24"] }}
[devices.net1]
link = "pcie0"
function = 1
[devices.disk0]
type = "blk"
link = "pcie0"
function = 2
driver = {{ nbd = "{folder}/nbd.sock" }}
device = {{ store = "file", path = "{folder}/disk.img", size = {size} }}
"""
"""Namespaces of net0 outlive the system, so that its load goes on; net1 has those that the system makes."""


@contextmanager
def served(stage: Stage) -> Iterator[Scene]:
    """Open ``vnet serve blk`` and ``vnet serve net``, and a ``vnet up`` whose drivers use both."""
    folder, name = stage.folder, f"{PREFIX}front"
    with namespace("f") as front, namespace("b") as back, Processes() as add:
        disk = add(Serve(folder, "disk", "blk", "--file", str(folder / IMAGE), "--size", str(DISK_MIB)))
        net = add(Serve(folder, "net", "net", "--tun", "vnet1", "--netns", back, "--address", "198.18.0.2/24"))
        up = add(System(name, write_topology(stage, FRONT, front=front)))
        gone = "VNET_BACK_END_DISCONNECTED"
        victims = {
            "disk": Victim(disk, ("disk",), (name, gone), False),
            "net": Victim(net, ("ping",), (name, gone), False),
            "front": Victim(up, ("disk", "ping"), ("serve-blk-disk", "VNET_FRONT_END_DISCONNECTED")),
        }
        with _disk_and_ping(stage, front, victims) as scene:
            yield scene
    check_scene(scene)


@contextmanager
def both_sides(stage: Stage) -> Iterator[Scene]:
    """Open a ``vnet up`` with both sides of a link."""
    with namespace("f") as front, namespace("b") as back, Processes() as add:
        file = write_topology(stage, LINK, link="", front=front, back=back, size=str(DISK_MIB))
        up = add(System(f"{PREFIX}up", file))
        victims = {"up": Victim(up, ("disk", "ping"))}
        with _disk_and_ping(stage, front, victims) as scene:
            yield scene
    check_scene(scene)


@contextmanager
def halves(stage: Stage) -> Iterator[Scene]:
    """Open a process for each side of a link, joined by vfio-user."""
    names = {host: f"{PREFIX}{host}" for host in ("rc", "ep")}
    with namespace("f") as front, namespace("b") as back, Processes() as add:
        link = f'vfio_user = "{stage.folder}/link"'
        file = write_topology(stage, LINK, link=link, front=front, back=back, size=str(DISK_MIB))
        ep = add(System(names["ep"], file, "--only", "ep"))
        rc = add(System(names["rc"], file, "--only", "rc"))
        victims = {
            "ep": Victim(ep, ("disk", "ping"), (names["rc"], "VNET_LINK_DOWN"), False),
            "rc": Victim(rc, ("disk", "ping"), (names["ep"], "VNET_FRONT_END_DISCONNECTED")),
        }
        with _disk_and_ping(stage, front, victims) as scene:
            yield scene
    check_scene(scene)


@contextmanager
def _disk_and_ping(stage: Stage, netns: str, victims: Mapping[str, Victim]) -> Iterator[Scene]:
    dice = random.Random(stage.seed)
    disk = DiskLoad(stage.folder / "nbd.sock", "disk0", dice)
    ping = PingLoad(netns, "198.18.0.2", dice)
    with run_loads(Scene(victims, {"disk": disk, "ping": ping}, stage.folder)) as scene:
        yield scene


@contextmanager
def run_loads(scene: Scene) -> Iterator[Scene]:
    """Run the loads of a scene as long as the block. What they and the processes leave is checked by `check_scene`."""
    with ExitStack() as stack:
        for load in scene.loads.values():
            stack.enter_context(load)
        yield scene


def check_scene(scene: Scene) -> None:
    """Check what ended processes left: images, namespaces, sockets. Raises AssertionError."""
    for load in scene.loads.values():
        if isinstance(load, DiskLoad):
            load.check_file(scene.folder / IMAGE)
    scene.check_nothing_left()
