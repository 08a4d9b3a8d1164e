"""Programs of others that connect to us again: QEMU with a guest, and DPDK on either side. Our process is killed.

If a back end ends during the handshake, QEMU 7.2 never connects again, and DPDK 22.11's virtio-user ends.
"""

from __future__ import annotations

import random
import signal
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from campaigns.disk import DISK_MIB
from campaigns.kill import kill_rounds
from campaigns.load import Load
from campaigns.network import PingLoad
from campaigns.scenes import (
    IMAGE,
    PREFIX,
    Processes,
    Scene,
    System,
    Victim,
    check_scene,
    namespace,
    run_loads,
    write_topology,
)
from campaigns.stage import Stage
from support.guest import Serve
from vnet.bench.guest import shared
from vnet.system.qemu import PROGRAM, qemu_version, reconnect

__all__ = ["dpdk_device", "dpdk_driver", "qemu"]

ENDED = 60.0
"""Seconds that another program may take to end."""
BOOT = Path(__file__).with_name("boot.s")
SECTOR, BLOCKS = 512, 64
"""Bytes of a sector; sectors that the guest uses, and the first of them."""
NUMBER = struct.Struct("<I")
FAILED = 0xFFFFFFFF
"""Number by which the guest says that a command failed or a sector has another content."""
MEMORY = "32M"
TESTPMD = "dpdk-testpmd"


def qemu(stage: Stage) -> None:
    """Kill the back end of a guest's disk."""
    kill_rounds(stage, _guest)


def dpdk_driver(stage: Stage) -> None:
    """Kill the back end of DPDK's virtio-user, which listens."""
    kill_rounds(stage, _virtio_user)


def dpdk_device(stage: Stage) -> None:
    """Kill the front end of DPDK's vhost, which listens."""
    kill_rounds(stage, _vhost)


class GuestLoad(Load):
    """A guest that writes and reads numbered sectors, and prints each number when it is done with it."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        super().__init__()
        self.process = process
        self.number = 0
        """The latest number that the guest was done with."""

    def run(self) -> None:
        output = self.process.stdout
        assert output is not None
        sent = time.monotonic()
        while len(data := output.read(NUMBER.size)) == NUMBER.size:
            number = NUMBER.unpack(data)[0]
            assert number != FAILED, f"the guest's disk failed after number {self.number}"
            assert number == self.number + 1, f"the guest printed {number} after {self.number}"
            self.number = number
            self.answered(sent)
            sent = time.monotonic()
        assert self.ending.is_set(), "QEMU ended"

    def end(self) -> None:
        self.ending.set()
        self.process.terminate()
        super().end()

    def check_file(self, image: Path) -> None:
        """Compare the sectors of the image with the latest numbers. Raises AssertionError.

        The guest may have written one more when it ended.
        """
        data = image.read_bytes()
        for number in range(max(1, self.number - BLOCKS + 2), self.number + 1):
            at = (BLOCKS + number % BLOCKS) * SECTOR
            assert data[at : at + SECTOR] == NUMBER.pack(number) * (SECTOR // NUMBER.size), (
                f"{number} is not on the disk"
            )


@contextmanager
def _guest(stage: Stage) -> Iterator[Scene]:
    """Open a guest of one boot sector, which QEMU's firmware loads from the disk that we serve."""
    folder = stage.folder
    _write_boot_sector(folder)
    with Processes() as add:
        disk = add(Serve(folder, "disk", "blk", "--file", str(folder / IMAGE), "--size", str(DISK_MIB)))
        argv = [
            *(PROGRAM, "-machine", "q35,accel=tcg", "-m", MEMORY, *shared(MEMORY)),
            *("-nodefaults", "-no-user-config", "-display", "none"),
            *("-chardev", "stdio,id=console,signal=off", "-device", "isa-debugcon,iobase=0xe9,chardev=console"),
            *("-chardev", f"socket,id=disk,path={disk.socket},{reconnect(qemu_version())}"),
            *("-device", "vhost-user-blk-pci,chardev=disk,num-queues=1,bootindex=1"),
        ]
        with (
            (folder / "qemu.log").open("wb") as errors,
            subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors) as process,
        ):
            try:
                load = GuestLoad(process)
                victims = {"disk": Victim(disk, ("guest",))}
                with run_loads(Scene(victims, {"guest": load}, folder, survives_handshake=False)) as scene:
                    yield scene
            finally:
                _end(process)
        load.check_file(folder / IMAGE)
    check_scene(scene)


def _write_boot_sector(folder: Path) -> None:
    """Assemble the guest into the first sector of the image."""
    for argv in (
        ("as", "--32", "-o", "boot.o", str(BOOT)),
        ("ld", "-m", "elf_i386", "-Ttext", "0x7c00", "--oformat", "binary", "-o", IMAGE, "boot.o"),
    ):
        subprocess.run(argv, cwd=folder, check=True, capture_output=True)
    with (folder / IMAGE).open("r+b") as image:
        image.truncate(DISK_MIB << 20)


class Connecting(Serve):
    """A ``vnet serve`` that connects to a socket, which is another program's and stays."""

    def end(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(number)
        self.wait(-number if number == signal.SIGKILL else 0)


@contextmanager
def _virtio_user(stage: Stage) -> Iterator[Scene]:
    """Open DPDK's driver, which answers pings, and our device, which connects to it."""
    folder = stage.folder
    vdev = f"net_virtio_user0,mac=02:00:00:00:00:02,path={folder}/peer/net.sock,server=1,queues=1,queue_size=256"
    with namespace("b") as back, _testpmd(folder, vdev), Processes() as add:
        tap = ("--tap", "tap0", "--netns", back, "--address", "198.18.0.1/24")
        served = Connecting(folder / "peer", "net", "net", *tap, "--connect", "--allow-unsealed")
        victims = {"net": Victim(add(served), ("ping",))}
        ping = PingLoad(back, "198.18.0.2", random.Random(stage.seed))
        with run_loads(Scene(victims, {"ping": ping}, folder, survives_handshake=False)) as scene:
            yield scene
    check_scene(scene)


VHOST = """\
[hosts.rc]
[devices.net0]
transport = "vhost_user"
host = "rc"
socket = "{folder}/peer/net.sock"
driver = {{ netns = "{front}", addresses = ["198.18.0.1/24"] }}
"""


@contextmanager
def _vhost(stage: Stage) -> Iterator[Scene]:
    """Open DPDK's device, which answers pings, and our driver, which connects to it."""
    folder = stage.folder
    with (
        namespace("f") as front,
        _testpmd(folder, f"net_vhost0,iface={folder}/peer/net.sock", "--iova-mode=va"),
        Processes() as add,
    ):
        up = System(f"{PREFIX}front", write_topology(stage, VHOST, front=front))
        ping = PingLoad(front, "198.18.0.2", random.Random(stage.seed))
        with run_loads(Scene({"front": Victim(add(up), ("ping",))}, {"ping": ping}, folder)) as scene:
            yield scene
    check_scene(scene)


@contextmanager
def _testpmd(folder: Path, vdev: str, *options: str) -> Iterator[None]:
    """Run DPDK's testpmd, which answers ARP and pings at its only port."""
    (folder / "peer").mkdir()
    memory = ("--no-huge", "-m", "256", "--no-pci", f"--file-prefix={PREFIX}", "-l", "0,1", "--no-telemetry")
    testpmd = ("--total-num-mbufs=4096", "-i", "--forward-mode=icmpecho", "--auto-start")
    argv = [TESTPMD, *memory, *options, "--vdev", vdev, "--", *testpmd]
    quiet = subprocess.DEVNULL
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=quiet, stderr=quiet) as process:
        try:
            yield
        finally:
            _end(process, b"quit\n")


def _end(process: subprocess.Popen[bytes], last: bytes | None = None) -> None:
    """End another program, by a last line of input if one is given, else by SIGTERM."""
    if last is None:
        process.terminate()
    try:
        process.communicate(last, timeout=ENDED)
    except subprocess.TimeoutExpired:
        process.kill()
