"""Linux's own drivers that Debian's kernel package lacks, built from Debian's kernel sources against its headers."""

from __future__ import annotations

import copy
import hashlib
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from support.guest import GuestKernel
from support.machine import RequireTool, in_machine_network, unavailable
from vnet.bench.guest_kernel import CACHE, archive, cache_lock, kernel_package

__all__ = ["driver_kernel"]

SOURCES = {
    "pci_endpoint_test": "drivers/misc/pci_endpoint_test.c",
    "ntb": "drivers/ntb/core.c",
    "ntb_hw_epf": "drivers/ntb/hw/epf/ntb_hw_epf.c",
    "ntb_transport": "drivers/ntb/ntb_transport.c",
    "ntb_netdev": "drivers/net/ntb_netdev.c",
    "rpmsg_core": "drivers/rpmsg/rpmsg_core.c",
    "rpmsg_ns": "drivers/rpmsg/rpmsg_ns.c",
    "virtio_rpmsg_bus": "drivers/rpmsg/virtio_rpmsg_bus.c",
    "rpmsg_char": "drivers/rpmsg/rpmsg_char.c",
}
"""Source of each module."""
HEADERS = ("drivers/rpmsg/rpmsg_internal.h", "drivers/rpmsg/rpmsg_char.h", "include/uapi/linux/pcitest.h")
TEST = "tools/pci/pcitest.c"
"""The program for pci_endpoint_test's ioctls."""
FLAGS = "-DCONFIG_RPMSG_MODULE -DCONFIG_RPMSG_NS_MODULE -DCONFIG_RPMSG_CHAR_MODULE"
KBUILD = "".join(f"obj-m += {name}.o\n" for name in SOURCES) + "ntb-y := core.o\n"
RECIPE = hashlib.sha256(f"{SOURCES}{HEADERS}{FLAGS}{KBUILD}".encode()).hexdigest()[:8]
PATIENCE = 600.0
"""Seconds that each step may take."""


@pytest.fixture(scope="session")
def driver_kernel(
    guest_kernel: GuestKernel, require_tool: RequireTool, tmp_path_factory: pytest.TempPathFactory
) -> GuestKernel:
    """The guest's kernel with the modules in /modules, and pcitest among its programs."""
    require_tool("apt-get", "apt-cache", "dpkg-deb", "gcc", "make", "strip", "tar", "xz")
    package = kernel_package()
    _, version, _ = package.name.split("_")
    release = guest_kernel.image.name.removeprefix("vmlinuz-")
    built = CACHE / f"drivers-{release}-{version}-{RECIPE}"
    with cache_lock():
        if not built.is_dir():
            in_machine_network(lambda: _build(built, release, version.replace("%3a", ":")))
    tree = tmp_path_factory.mktemp("drivers")
    for name, folder in (("*.ko", "modules"), ("pcitest", "bin")):
        (tree / folder).mkdir()
        for file in built.glob(name):
            shutil.copy(file, tree / folder / file.name)
    kernel = copy.copy(guest_kernel)
    kernel.initrd = tmp_path_factory.mktemp("initrd") / "initrd"
    kernel.initrd.write_bytes(guest_kernel.initrd.read_bytes() + archive(tree))
    return kernel


def _build(built: Path, release: str, version: str) -> None:
    """Download, build, and keep the modules and pcitest in the folder ``built``; some 160 MB and half a minute."""
    work = Path(tempfile.mkdtemp(dir=CACHE))
    try:
        headers = f"linux-headers-{release}"
        depends = _run(work, "apt-cache", "depends", headers)
        names = [headers, *re.findall(r"Depends: (linux-\S+)", depends)]
        source = f"linux-source-{'.'.join(version.split('.')[:2])}"
        try:
            _run(work, "apt-get", "download", "-o", "APT::Sandbox::User=root", *names, f"{source}={version}")
        except subprocess.CalledProcessError as exc:
            unavailable(f"the headers or the source of Linux {version} can't be downloaded: {exc.stderr.strip()}")
        for package in (next(work.glob(f"{name}_*.deb")) for name in names):
            _run(work, "dpkg-deb", "-x", package, work)
        files = [*SOURCES.values(), *HEADERS, TEST]
        unpack = "dpkg-deb --fsys-tarfile $0_*.deb | tar -xO ./usr/src/$0.tar.xz | tar -xJ --strip-components=1 "
        _run(work, "sh", "-c", unpack + '"$@"', source, *(f"{source}/{path}" for path in files))
        modules = work / "modules"
        modules.mkdir()
        for path in files:
            shutil.copy(work / path, modules)
        (modules / "Kbuild").write_text(KBUILD)
        kernel = work / "usr/src" / headers
        makefile = kernel / "Makefile"
        makefile.write_text(makefile.read_text().replace("/usr/src", str(work / "usr/src")))
        _run(work, "make", "-j2", "-C", kernel, f"M={modules}", "CC=gcc", f"KCFLAGS={FLAGS}", "modules")
        _run(work, "strip", "--strip-debug", *modules.glob("*.ko"))
        (modules / "linux").mkdir()
        shutil.move(modules / "pcitest.h", modules / "linux")
        test = modules / "pcitest"
        _run(work, "gcc", "-static", "-O2", "-I", modules, "-o", test, work / TEST)
        kept = work / "kept"
        kept.mkdir()
        for file in (*modules.glob("*.ko"), test):
            shutil.copy(file, kept)
        kept.rename(built)
    finally:
        shutil.rmtree(work)


def _run(folder: Path, *argv: str | Path) -> str:
    done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, timeout=PATIENCE, check=True)
    return done.stdout
