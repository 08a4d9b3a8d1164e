"""``vnet mount``: a mount outlives neither its system nor its process, and neither disturbs the other."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from support.cli import PATIENCE, Up, vnet
from support.paths import VNET

pytestmark = pytest.mark.usefixtures("privileged", "fuse", "no_leaks")

OTHER_UID = "65534"
START = "pci_ep/controllers/pcie0/start"
TOPOLOGY = """
[hosts.rc]
[hosts.ep]
[links.pcie0]
root = "rc"
endpoint = "ep"
[devices.net0]
link = "pcie0"
driver = { kind = "memory" }
device = { kind = "memory" }
"""


@contextmanager
def system(folder: Path, name: str) -> Iterator[Up]:
    topology = folder / "topology.toml"
    topology.write_text(TOPOLOGY, encoding="utf-8")
    up = Up(name, str(topology))
    try:
        up.wait_for("Ctrl-C")
        yield up
    finally:
        if up.process.poll() is None:
            up.process.send_signal(signal.SIGCONT)
        up.end(signal.SIGTERM)


@contextmanager
def mount(name: str, at: Path) -> Iterator[subprocess.Popen[str]]:
    with suppress(FileExistsError):
        at.mkdir()
    process = subprocess.Popen([VNET, "mount", name, str(at)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert "is mounted at" in process.stdout.readline()
        yield process
    finally:
        process.kill()
        process.wait(PATIENCE)
        process.stdout.close()


def mounts(at: Path) -> int:
    return sum(f" {at} " in line for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines())


def number(operation: Callable[[], object]) -> int | None:
    """Return the error number of a failed operation."""
    try:
        operation()
    except OSError as exc:
        return exc.errno
    return None


@pytest.mark.hostile("X05", "X06")
def test_a_file_system_has_the_errors_of_configfs_and_belongs_to_its_owner(tmp_path: Path) -> None:
    at = tmp_path / "config"
    tmp_path.chmod(0o755)
    with system(tmp_path, "t-mount"), mount("t-mount", at) as process:
        start, functions = at / START, at / "pci_ep/functions/pci_epf_virtio"
        assert (start.read_text(encoding="utf-8"), start.stat().st_mode) == ("1\n", 0o100600)
        assert (at / "pci_ep/controllers/pcie0/net0").resolve() == functions / "net0"
        for data in (b"1" * 4096, b"1\0", b"\xff", b"2", b"x" * 200_000):
            assert number(lambda data=data: start.write_bytes(data)) == errno.EINVAL  # type: ignore[misc]
        fd = os.open(start, os.O_RDWR)
        assert [os.pwrite(fd, b"1", 5), os.pread(fd, 9, 0), os.pread(fd, 9, 2)] == [1, b"1\n", b""]
        os.close(fd)
        for operation, expected in (
            ((functions / ("n" * 256)).mkdir, errno.ENAMETOOLONG),
            ((functions / ("n" * 255)).mkdir, errno.EINVAL),
            ((functions / "net0").mkdir, errno.EEXIST),
            ((functions / os.fsdecode(b"\xff")).mkdir, errno.EINVAL),
            ((functions / os.fsdecode(b"\xff")).stat, errno.ENOENT),
            ((functions / "net0").rmdir, errno.EBUSY),
            ((at / "pci_ep").rmdir, errno.EPERM),
            ((at / "x").mkdir, errno.EPERM),
            (lambda: (functions / "net0").rename(functions / "net1"), errno.EPERM),
            (lambda: (functions / "x").symlink_to("/etc"), errno.EPERM),
            ((at / "x").touch, errno.EACCES),
            (start.unlink, errno.EPERM),
            (lambda: start.chmod(0o666), errno.EPERM),
            (lambda: (at / "devices/net0/type").write_text("x", encoding="utf-8"), errno.EACCES),
        ):
            assert number(operation) == expected
        other = ["setpriv", "--reuid", OTHER_UID, "--clear-groups", "ls", str(at)]
        assert "Permission denied" in subprocess.run(other, capture_output=True, text=True, check=False).stderr
        with (at / "devices/net0/up").open(encoding="utf-8") as file:
            subprocess.run(["umount", "--lazy", str(at)], check=True)
            assert file.read() == "1\n"
        assert (process.wait(PATIENCE), mounts(at)) == (0, 0)


@pytest.mark.hostile("X07")
def test_neither_a_mount_nor_a_system_that_hangs_or_is_killed_disturbs_the_others(tmp_path: Path) -> None:
    at, other = tmp_path / "config", tmp_path / "other"
    with system(tmp_path, "t-mount") as up, mount("t-mount", at) as process, mount("t-mount", other) as second:
        second.send_signal(signal.SIGSTOP)
        process.kill()
        process.wait(PATIENCE)
        assert number((at / START).read_bytes) == errno.ENOTCONN
        assert vnet("cfs", "cat", "t-mount", START).stdout == "1\n"
        with mount("t-mount", at):  # in the place of the one that was killed
            assert (at / START).read_text(encoding="utf-8") == "1\n"
            up.process.send_signal(signal.SIGSTOP)
            assert number((at / START).read_bytes) == errno.EIO  # after a time-out
            up.process.send_signal(signal.SIGCONT)
            assert (at / START).read_text(encoding="utf-8") == "1\n"
        second.send_signal(signal.SIGCONT)
        fd = os.open(other / START, os.O_RDONLY)  # not before: each fork closes it, which asks the mount
        up.process.kill()
        up.process.wait(PATIENCE)
        assert (second.wait(PATIENCE), mounts(at), mounts(other)) == (0, 1, 0)
        assert number(lambda: os.read(fd, 9)) == errno.ENOTCONN
        assert number(lambda: os.close(fd)) in (None, errno.ENOTCONN)
        assert f"unmounted {at}" in vnet("down", "--name", "t-mount").stdout
        assert mounts(at) == 0
