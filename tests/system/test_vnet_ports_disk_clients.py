"""The disk in the hands of real programs: nbdinfo, nbdcopy, qemu-img, qemu-io, fio, and ext4 on a loop mount."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.machine import RequireTool, unavailable
from support.paths import VNET
from vnet.topology.samples import built_in_text
from vnet.transports import TRANSPORTS

pytestmark = pytest.mark.usefixtures("privileged", "no_leaks")

MIB = 1 << 20
SIZE = 64
"""MiB of the disk."""
PATIENCE = 60.0


def run(*argv: str | Path, ok: bool = True, timeout: float = PATIENCE) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        list(map(str, argv)), capture_output=True, text=True, errors="replace", timeout=timeout, check=False
    )
    assert not ok or not done.returncode, f"{argv}: {done.stdout}{done.stderr}"
    return done


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Disk:
    """A running system with one disk."""

    def __init__(self, folder: Path, store: str, transport: str = "pci") -> None:
        self.name = f"t{os.getpid()}-blk"
        self.socket = folder / "disk0.sock"
        self.topology = folder / "topology.toml"
        keys = f'queues = 2\ndriver = {{ nbd = "{self.socket}" }}\ndevice = {{ {store} }}'
        self.topology.write_text(built_in_text("blk", transport, keys, name="disk0"))
        self.process = self.start()

    @property
    def uri(self) -> str:
        return f"nbd+unix:///disk0?socket={self.socket}"

    def start(self) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [VNET, "up", self.topology, "--name", self.name],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert process.stdout is not None
        output = ""
        while "Ctrl-C" not in output:
            line = process.stdout.readline()
            assert line, f"it ended: {output}"
            output += line
        assert f"nbdinfo '{self.uri}'" in output
        return process

    def vnet(self, command: str, *args: str) -> None:
        run(VNET, command, "--name", self.name, *args)

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            output, _ = self.process.communicate(timeout=PATIENCE)
            assert self.process.returncode == 0, output
        elif self.process.stdout is not None:
            self.process.stdout.close()
        run(VNET, "down", "--name", self.name, ok=False)


@contextmanager
def running(folder: Path, store: str, transport: str = "pci") -> Iterator[Disk]:
    disk = Disk(folder, store, transport)
    try:
        yield disk
    finally:
        disk.end()


@pytest.fixture
def tools(require_tool: RequireTool) -> None:
    require_tool("nbdinfo", "nbdcopy", "qemu-img", "qemu-io", "fio")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return tmp_path / "disk.img"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source.img"
    path.write_bytes(os.urandom(SIZE * MIB))
    return path


@pytest.fixture
def disk(tools: None, tmp_path: Path, image: Path) -> Iterator[Disk]:
    """With its sectors in a file."""
    with running(tmp_path, f'store = "file", path = "{image}", size = {SIZE}') as disk:
        yield disk


def test_nbdinfo_shows_the_features_of_the_disk(disk: Disk) -> None:
    [export] = json.loads(run("nbdinfo", "--json", disk.uri).stdout)["exports"]
    assert (export["export-name"], export["export-size"]) == ("disk0", SIZE * MIB)
    can = {"can_flush", "can_fua", "can_trim", "can_zero", "can_multi_conn", "can_df"}
    assert {key for key in can if export[key]} == can
    assert not export["is_read_only"]
    assert [export[f"block_size_{key}"] for key in ("minimum", "preferred", "maximum")] == [512, MIB, 32 * MIB]
    [listed] = json.loads(run("nbdinfo", "--list", "--json", disk.uri).stdout)["exports"]
    assert listed["export-name"] == "disk0"
    assert run("nbdinfo", f"nbd+unix:///other?socket={disk.socket}", ok=False).returncode


def test_nbdcopy_writes_and_reads_every_byte(disk: Disk, image: Path, source: Path, tmp_path: Path) -> None:
    run("nbdcopy", "--flush", source, disk.uri)
    assert digest(image) == digest(source)
    run("nbdcopy", disk.uri, tmp_path / "copy.img")
    assert digest(tmp_path / "copy.img") == digest(source)


def test_a_disk_in_memory_is_as_good(tools: None, tmp_path: Path, source: Path) -> None:
    with running(tmp_path, f'store = "memory", size = {SIZE}') as disk:
        run("nbdcopy", source, disk.uri)
        run("nbdcopy", disk.uri, tmp_path / "copy.img")
        assert digest(tmp_path / "copy.img") == digest(source)


def test_qemu_img_converts_and_compares(disk: Disk, source: Path, tmp_path: Path) -> None:
    run("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", source, disk.uri)
    run("qemu-img", "compare", "-f", "raw", "-F", "raw", source, disk.uri)
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", disk.uri, tmp_path / "copy.qcow2")
    run("qemu-img", "compare", "-f", "qcow2", "-F", "raw", tmp_path / "copy.qcow2", disk.uri)


def test_qemu_io_finds_its_patterns(disk: Disk, image: Path) -> None:
    commands = (
        "write -P 0xa5 0 1M",
        "write -f -P 0x5a 1M 64k",
        "aio_write -P 0x11 2M 3M",
        "aio_flush",
        "read -P 0xa5 0 1M",
        "read -P 0x5a 1M 64k",
        "read -P 0x11 2M 3M",
        "write -z 512k 512k",
        "read -P 0 512k 512k",
        "write -z -u 2M 1M",
        "read -P 0 2M 1M",
        "read -P 0x11 3M 2M",
        "discard 4M 1M",
        "flush",
        "write -P 0x33 512 512",
        "read -P 0x33 512 512",
        "read -P 0xa5 1024 4k",
    )
    output = run("qemu-io", "-f", "raw", *(word for command in commands for word in ("-c", command)), disk.uri).stdout
    assert "failed" not in output
    assert "error" not in output.lower()
    disk.end()
    assert image.read_bytes()[: 1 << 10] == b"\xa5" * 512 + b"\x33" * 512


def test_fio_verifies_what_it_wrote_at_random(disk: Disk) -> None:
    output = run(
        "fio", "--name=verify", "--ioengine=nbd", f"--uri={disk.uri}", "--rw=randwrite", "--bs=4k", "--size=8m",
        "--iodepth=16", "--verify=crc32c", "--verify_fatal=1", "--verify_state_save=0",
        "--fsync=256", "--output-format=json",
    ).stdout  # fmt: skip
    [job] = json.loads(output[output.index("{") :])["jobs"]
    assert (job["error"], job["read"]["total_ios"]) == (0, 2048)


def test_many_clients_work_at_the_same_time(disk: Disk, source: Path, tmp_path: Path) -> None:
    run("nbdcopy", source, disk.uri)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: run("nbdcopy", disk.uri, tmp_path / f"copy{i}.img"), range(8)))
    for i in range(8):
        assert digest(tmp_path / f"copy{i}.img") == digest(source)


def test_a_read_only_disk_is_shown_as_one_and_stays_as_it_is(tools: None, tmp_path: Path, image: Path) -> None:
    image.write_bytes(b"r" * MIB)
    with running(tmp_path, f'store = "file", path = "{image}", read_only = true') as disk:
        run("nbdinfo", "--is", "read-only", disk.uri)
        assert run("nbdinfo", "--can", "trim", disk.uri, ok=False).returncode
        run("qemu-io", "-r", "-f", "raw", "-c", "read -P 0x72 0 1M", disk.uri)
        assert run("qemu-io", "-f", "raw", "-c", "write 0 512", disk.uri, ok=False).returncode
    assert image.read_bytes() == b"r" * MIB


def test_a_client_that_is_killed_in_the_middle_does_no_harm(disk: Disk, source: Path, tmp_path: Path) -> None:
    for _ in range(3):
        for argv in (["nbdcopy", source, disk.uri], ["nbdcopy", disk.uri, tmp_path / "half.img"]):
            with subprocess.Popen([str(word) for word in argv]) as process:
                time.sleep(0.05)
                process.kill()
    run("nbdcopy", source, disk.uri)
    run("nbdcopy", disk.uri, tmp_path / "copy.img")
    assert digest(tmp_path / "copy.img") == digest(source)


def test_a_link_that_flaps_is_a_pause_and_no_more(disk: Disk, source: Path, tmp_path: Path) -> None:
    def flapping(*argv: str | Path) -> None:
        with subprocess.Popen(list(map(str, argv))) as process:
            for _ in range(2):
                disk.vnet("link", "down")
                time.sleep(0.1)
                disk.vnet("link", "up")
            assert process.wait(PATIENCE) == 0

    flapping("nbdcopy", "--flush", source, disk.uri)
    flapping("nbdcopy", disk.uri, tmp_path / "copy.img")
    assert digest(tmp_path / "copy.img") == digest(source)


@pytest.mark.hostile("B07")
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_flushed_data_are_there_after_a_kill(tools: None, tmp_path: Path, image: Path, transport: str) -> None:
    """Acknowledged and flushed, by a flush or by FUA; then SIGKILL in the middle of further writes, several times."""
    with running(tmp_path, f'store = "file", path = "{image}", size = {SIZE}', transport) as disk:
        for turn in range(1, 4 if transport == "pci" else 2):
            run("qemu-io", "-f", "raw", "-c", f"write -P {turn} 0 4M", "-c", "flush", disk.uri)
            run("qemu-io", "-f", "raw", "-c", f"write -f -P {turn + 16} 4M 64k", disk.uri)
            argv = ["qemu-io", "-f", "raw", *["-c", "write -P 0xee 8M 16M"] * 20, disk.uri]
            with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as writer:
                time.sleep(0.1)
                disk.kill()
                writer.wait(PATIENCE)
            run(VNET, "down", "--name", disk.name, ok=False)
            disk.process = disk.start()
            run("qemu-io", "-f", "raw", "-c", f"read -P {turn} 0 4M", "-c", f"read -P {turn + 16} 4M 64k", disk.uri)


def wait_for(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_ext4_lives_on_the_emulated_virtqueue(
    disk: Disk, image: Path, tmp_path: Path, require_tool: RequireTool
) -> None:
    require_tool("nbdfuse", "mkfs.ext4", "mount", "fsck.ext4")
    if not os.access("/dev/fuse", os.W_OK) or not Path("/dev/loop-control").exists():
        unavailable("needs /dev/fuse and loop devices")
    raw, tree = tmp_path / "raw", tmp_path / "tree"
    raw.touch()
    tree.mkdir()
    data = os.urandom(8 * MIB)
    with subprocess.Popen(["nbdfuse", raw, disk.uri]) as fuse:
        try:
            wait_for(lambda: raw.stat().st_size == SIZE * MIB)
            run("mkfs.ext4", "-q", "-F", raw)
            for turn in range(2):
                run("mount", "-o", "loop", raw, tree)
                try:
                    if not turn:
                        (tree / "folder").mkdir()
                        for i in range(50):
                            (tree / "folder" / f"{i}").write_bytes(data[: i * 1000])
                        (tree / "large").write_bytes(data)
                    assert (tree / "large").read_bytes() == data
                    assert [path.stat().st_size for path in sorted((tree / "folder").iterdir())].count(0) == 1
                finally:
                    run("umount", tree)
            run("fsck.ext4", "-f", "-n", raw)
        finally:
            run("umount", raw, ok=False)
            if fuse.wait(PATIENCE):
                fuse.kill()
    run("fsck.ext4", "-f", "-n", image)
