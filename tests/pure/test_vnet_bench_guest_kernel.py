"""The kernel of guests and its initial file system, made from a package that is downloaded and unpacked once."""

from __future__ import annotations

import fcntl
import lzma
import os
import struct
import subprocess
from pathlib import Path

import attrs
import pytest

from support.machine import RequireTool
from vnet.bench import guest_kernel
from vnet.bench.guest_kernel import GuestKernel, cache_lock, kernel_package
from vnet.errors import PrivilegeError

NAME, VERSION = "linux-image-6.1.0-9-amd64", "6.1.0-9-amd64"
KERNEL = b"\x7fELF" + bytes(100)
SETUP_SECTORS, PAYLOAD = 3, 0x40
"""Place of a compressed kernel in its image: sectors behind the first one, and bytes behind them."""
DEPENDENCIES = "kernel/virtio_pci.ko.xz: kernel/virtio.ko.xz\nkernel/virtio.ko.xz:\nkernel/other.ko.xz:\n"


def image(payload: bytes) -> bytes:
    """Return a kernel's image with the fields of its header that say where the payload is."""
    header = bytearray((SETUP_SECTORS + 1) * 512)
    header[0x1F1] = SETUP_SECTORS
    struct.pack_into("<II", header, 0x248, PAYLOAD, len(payload))
    return bytes(header) + bytes(PAYLOAD) + payload + b"rest"


@attrs.frozen
class Packages:
    """Stand-ins for Debian's programs, which note their calls."""

    folder: Path

    def calls(self, program: str) -> list[str]:
        log = self.folder / "calls"
        lines = log.read_text().splitlines() if log.exists() else []
        return [line for line in lines if line.startswith(program)]

    def put(self, name: str, script: str) -> None:
        path = self.folder / "bin" / name
        path.write_text(f'#!/bin/sh\necho "{name} $*" >>{self.folder}/calls\n{script}\n')
        path.chmod(0o755)

    def fill(self, payload: bytes, config: str) -> None:
        """Fill the package."""
        boot, modules = self.folder / "package/boot", self.folder / "package/lib/modules" / VERSION
        boot.mkdir(parents=True)
        (modules / "kernel").mkdir(parents=True)
        (boot / f"vmlinuz-{VERSION}").write_bytes(image(payload))
        (boot / f"config-{VERSION}").write_text(config)
        (modules / "modules.dep").write_text(DEPENDENCIES)
        for name in ("modules.order", "modules.builtin", *(line.split(":")[0] for line in DEPENDENCIES.splitlines())):
            (modules / name).write_text(name)


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Packages:
    packages = Packages(tmp_path)
    (tmp_path / "bin").mkdir()
    packages.put("apt-cache", f"echo '  Depends: {NAME}'")
    packages.put("apt-get", f"[ $1 = update ] || touch {NAME}_6.1_amd64.deb")
    packages.put("dpkg-deb", f'cp -r {tmp_path}/package "$3"')
    packages.put("depmod", "")
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    monkeypatch.setattr(guest_kernel, "CACHE", tmp_path / "cache")
    return packages


def unpacked(data: bytes, folder: Path) -> Path:
    folder.mkdir()
    subprocess.run(["cpio", "-i", "--quiet"], cwd=folder, input=data, check=True, capture_output=True)
    return folder


def test_the_package_that_debian_names_is_downloaded_once(packages: Packages) -> None:
    package = kernel_package()
    assert package == packages.folder / f"cache/{NAME}_6.1_amd64.deb"
    assert kernel_package() == package
    assert len(packages.calls("apt-get")) == 1


def test_the_newest_list_of_packages_is_tried_before_one_error(packages: Packages) -> None:
    packages.put("apt-get", "exit 100")
    with pytest.raises(PrivilegeError, match="linux-image-amd64 can't be downloaded"):
        kernel_package()
    assert [call.split()[1] for call in packages.calls("apt-get")] == ["download", "update"] * 2


@pytest.mark.parametrize(
    ("payload", "config", "executable"),
    [
        (lzma.compress(KERNEL), "CONFIG_PVH=y\n", f"vmlinux-{VERSION}"),
        (lzma.compress(KERNEL), "# CONFIG_PVH is not set\n", f"vmlinuz-{VERSION}"),
        (b"\x1f\x8b another format", "CONFIG_PVH=y\n", f"vmlinuz-{VERSION}"),
    ],
    ids=["xz", "no PVH", "gzip"],
)
def test_a_guest_boots_without_decompression_if_the_kernel_can(
    packages: Packages, require_tool: RequireTool, payload: bytes, config: str, executable: str
) -> None:
    require_tool("busybox", "cpio")
    packages.fill(payload, config)
    kernel = GuestKernel(packages.folder / "first", programs=("/bin/cat",))
    assert kernel.image.read_bytes() == image(payload)
    assert kernel.executable.name == executable
    if kernel.executable != kernel.image:
        assert kernel.executable.read_bytes() == KERNEL


def test_the_initial_file_system_has_the_modules_and_the_programs(
    packages: Packages, require_tool: RequireTool, tmp_path: Path
) -> None:
    require_tool("busybox", "cpio")
    packages.fill(lzma.compress(KERNEL), "CONFIG_PVH=y\n")
    more = tmp_path / "more"
    more.write_text("of this machine")
    for folder in ("first", "second"):
        kernel = GuestKernel(tmp_path / folder, programs=("/bin/cat",), files=(str(more),))
    assert len(packages.calls("dpkg-deb")) == 1
    tree = unpacked(kernel.initrd.read_bytes(), tmp_path / "tree")
    assert {path.name for path in (tree / "lib/modules" / VERSION / "kernel").iterdir()} == {
        "virtio_pci.ko.xz",
        "virtio.ko.xz",
    }
    assert (tree / str(more).lstrip("/")).read_text() == "of this machine"
    assert os.access(tree / "init", os.X_OK)
    assert (tree / "bin/mount").readlink() == Path("busybox")
    assert (tree / "bin/cat").exists()
    assert list((tree / "lib").rglob("libc.so*")) or list((tree / "usr/lib").rglob("libc.so*"))


def test_two_processes_do_not_hold_the_cache_at_once(packages: Packages) -> None:
    with cache_lock(), (guest_kernel.CACHE / "lock").open() as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with (guest_kernel.CACHE / "lock").open() as other:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
