"""The kernel and the initial file system of guests: Debian's kernel, busybox, nothing installed."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from vnet.errors import PrivilegeError

__all__ = ["CACHE", "PROGRAMS", "TOOLS", "GuestKernel", "archive", "cache_lock", "kernel_package"]

KERNEL = "linux-image-amd64"
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "vnet-virtio"
MODULES = ("virtio_pci", "virtio_net", "virtio_blk", "virtio_scsi", "sd_mod", "virtio-rng", "ext4", "crc32c_generic")
RECIPE = hashlib.sha256(repr(MODULES).encode()).hexdigest()[:8]
PROGRAMS = ("/usr/bin/iperf3",)
TOOLS = ("qemu-system-x86_64", "busybox", "cpio", "depmod", "dpkg-deb", "apt-get", "apt-cache", "iperf3")
INIT = """\
#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for module in {modules}; do modprobe $module; done
exec </dev/ttyS1 >/dev/ttyS1 2>&1
stty raw -echo
echo 'guest is up'
while read -r size line; do
    [ "${{#line}}" = "$size" ] || {{ echo 'again;'; continue; }}
    echo 'taken;'
    eval "$line"
    echo "status=$?;"
done
"""


def _run(*argv: str | Path, cwd: Path | None = None, data: bytes | None = None) -> bytes:
    done = subprocess.run([str(arg) for arg in argv], cwd=cwd, input=data, capture_output=True, timeout=120, check=True)
    return done.stdout


def archive(tree: Path) -> bytes:
    """Return a folder as an initial file system; Linux unpacks several that follow each other in one file."""
    names = "\n".join(str(path.relative_to(tree)) for path in sorted(tree.rglob("*")))
    return _run("cpio", "-o", "-H", "newc", "--quiet", cwd=tree, data=names.encode())


class GuestKernel:
    """A kernel and an initial file system for any number of guests."""

    def __init__(self, folder: Path, programs: Sequence[str] = PROGRAMS, files: Sequence[str] = ()) -> None:
        """Write some 20 MiB to ``folder``, with programs, their libraries and files of this machine.

        Raises PrivilegeError if no kernel can be downloaded.
        """
        kept = _unpacked(kernel_package())
        [self.image] = kept.glob("vmlinuz-*")
        self.executable = next(kept.glob("vmlinux-*"), self.image)
        """File for QEMU: the image without its compression if possible, which halves the time of a boot."""
        self.initrd = folder / "initrd"
        tree = folder / "root"
        for name in ("bin", "dev", "etc", "proc", "sys", "tmp", "mnt"):
            (tree / name).mkdir(parents=True)
        busybox = shutil.which("busybox")
        assert busybox is not None
        shutil.copy(busybox, tree / "bin/busybox")
        for applet in _run(busybox, "--list").decode().split():
            if applet != "busybox":
                (tree / "bin" / applet).symlink_to("busybox")
        libraries = re.findall(r"(/\S+) \(0x", _run("ldd", *programs).decode())
        for path in (*programs, *dict.fromkeys(libraries), *files):
            (tree / path.lstrip("/")).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, tree / path.lstrip("/"))
        shutil.copytree(kept / "lib", tree / "lib", dirs_exist_ok=True)
        init = tree / "init"
        init.write_text(INIT.format(modules=" ".join(MODULES)))
        init.chmod(0o755)
        self.initrd.write_bytes(archive(tree))
        shutil.rmtree(tree)


@contextlib.contextmanager
def cache_lock() -> Iterator[None]:
    """Hold the lock of `CACHE`, so that no two processes download or build the same. A process must not nest it."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def kernel_package() -> Path:
    """Debian's current kernel package, downloaded once and never installed. Raises PrivilegeError if that fails."""
    with cache_lock():
        package = _have() or _have()
    if package is None:
        raise PrivilegeError(
            f"the package {KERNEL} can't be downloaded", f"apt-get update && apt-get download {KERNEL}"
        )
    return package


def _have() -> Path | None:
    """Return the package, downloading it if needed; None on failure, after `apt-get update` for the next try."""
    depends = subprocess.run(["apt-cache", "depends", KERNEL], capture_output=True, text=True, check=False).stdout
    names = re.findall(r"Depends: (linux-image-\S+)", depends)
    if names:
        if not list(CACHE.glob(f"{names[0]}_*.deb")):
            download = ["apt-get", "download", "-o", "APT::Sandbox::User=root", names[0]]
            subprocess.run(download, cwd=CACHE, capture_output=True, timeout=300, check=False)
        if list(CACHE.glob(f"{names[0]}_*.deb")):
            return max(CACHE.glob(f"{names[0]}_*.deb"))
    subprocess.run(["apt-get", "update"], capture_output=True, timeout=300, check=False)
    return None


def _unpacked(package: Path) -> Path:
    """Return the folder with the kernel of the package, and with `MODULES` below lib; it is filled once."""
    kept = CACHE / f"{package.stem}-{RECIPE}"
    with cache_lock():
        if not kept.is_dir():
            with tempfile.TemporaryDirectory(dir=CACHE) as folder:
                root, tree = Path(folder, "package"), Path(folder, "kept")
                _run("dpkg-deb", "-x", package, root)
                [image] = (root / "boot").glob("vmlinuz-*")
                version = image.name.removeprefix("vmlinuz-")
                _run("depmod", "-b", root, version)
                _copy_modules(root, tree, version)
                executable = _executable(image.read_bytes())
                if executable is not None and "CONFIG_PVH=y" in (root / "boot" / f"config-{version}").read_text():
                    (tree / f"vmlinux-{version}").write_bytes(executable)
                shutil.copy(image, tree)
                tree.rename(kept)
    return kept


def _executable(image: bytes) -> bytes | None:
    """Return the kernel that a compressed image holds; None if its format is another than xz.

    The fields are in Linux's Documentation/arch/x86/boot.rst: setup_sects, payload_offset, payload_length.
    """
    try:
        import lzma
    except ImportError:  # a Python that was built without it
        return None
    start = (image[0x1F1] + 1) * 512
    offset, length = struct.unpack_from("<II", image, 0x248)
    try:
        return lzma.LZMADecompressor().decompress(image[start + offset : start + offset + length])
    except lzma.LZMAError:
        return None


def _copy_modules(root: Path, tree: Path, version: str) -> None:
    """Copy `MODULES` and their dependencies."""
    modules = root / "lib/modules" / version
    needs = dict(line.split(":") for line in (modules / "modules.dep").read_text().splitlines())
    paths = {Path(path).name.split(".")[0].replace("-", "_"): path for path in needs}
    wanted = {paths[name.replace("-", "_")] for name in MODULES if name.replace("-", "_") in paths}
    wanted |= {path for name in set(wanted) for path in needs[name].split()}
    # Softdeps that modprobe can't see here.
    for path in wanted:
        to = tree / "lib/modules" / version / path
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(modules / path, to)
    for name in ("modules.order", "modules.builtin"):
        shutil.copy(modules / name, tree / "lib/modules" / version / name)
    _run("depmod", "-b", tree, version)
