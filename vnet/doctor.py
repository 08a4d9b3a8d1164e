"""State of each prerequisite of the product on this machine, with the command that mends it."""

from __future__ import annotations

import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from enum import Enum
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import attrs

from rings.native import NATIVE, WHY_NOT
from vnet.errors import SUDO
from vnet.linux.privileges.confinement import why_impossible, why_incomplete
from vnet.linux.privileges.landlock import landlock_version
from vnet.linux.privileges.rights import CONTAINER, NAMES, NET_ADMIN, SYS_ADMIN, has_capability
from vnet.linux.privileges.rootless import TUN_DEVICE, why_not
from vnet.traffic.tools import PACKAGES, install_command

__all__ = ["Finding", "Grade", "examine"]

USO_KERNEL = (6, 2)
"""First Linux whose TUN segments UDP (TUN_F_USO4 and TUN_F_USO6)."""
MSIX_QEMU = (10, 1)
"""First QEMU that was seen to keep MSI-X with vhost-user devices under emulation."""
FEW_FILES = 1024
"""Soft limit of open files that a system of about a hundred devices reaches."""
PROBE_SECONDS = 10.0
"""Seconds that a program may take to print its version."""
DISTRIBUTION = "vnet-virtio"
FUSE_DEVICE = Path("/dev/fuse")
EXTRAS = {
    "pyfuse3": ("fuse", "vnet mount"),
    "prometheus-client": ("metrics", "vnet metrics"),
    "starlette": ("web", "vnet web"),
    "hypercorn": ("web", "vnet web"),
    "ray": ("ray", "vnet campaign --backend ray"),
}
"""Extra, and the command that needs it, by optional package."""
BUILD = {"pyfuse3": "sudo apt-get install -y fuse3 gcc libfuse3-dev pkg-config python3-dev"}
"""Command that installs the programs with which ``pip install`` builds a package, by optional package."""


class Grade(Enum):
    """State of a prerequisite."""

    OK = "ok"
    LIMITED = "limited"
    """Present, but some features are missing."""
    MISSING = "missing"


@attrs.frozen
class Finding:
    """One prerequisite and its state on this machine."""

    name: str
    grade: Grade
    state: str
    """Details, such as a version or the reason why it is missing."""
    needed_for: str
    """Parts of the product that need it."""
    mend: str = ""
    """Command that mends it; empty if it needs no mending."""
    without: str = ""
    """Parts of the product that work without it; empty if it is there."""
    optional: bool = True
    """Whether anything works without it."""


@attrs.frozen
class Tool:
    """A program of another package."""

    name: str
    needed_for: str
    without: str
    flag: str | None = None
    """Argument that makes it print its version; None: it is only looked up."""
    recent: tuple[int, ...] = ()
    """First version with all features that we use."""
    older: str = ""
    """Parts of the product that work with an older version."""


TOOLS = (
    Tool("ping", "vnet demo, bench", "vnet demo --port memory; every other command"),
    Tool("iperf3", "vnet demo, bench", "vnet demo leaves out its throughput runs", "--version"),
    Tool("ip", "your own commands in namespaces, such as ip -n", "vnet exec runs commands in a host", "-V"),
    Tool("nbdcopy", "vnet demo blk", "vnet demo blk leaves out its copy", "--version"),
    Tool("nbdinfo", "looking at NBD exports", "every vnet command", "--version"),
    Tool("fio", "vnet demo blk, bench --suite disk", "vnet demo blk leaves out random I/O", "--version"),
    Tool("nbdkit", "vnet bench --suite disk", "the other suites", "--version"),
    Tool(
        "qemu-system-x86_64",
        "guests that use served devices",
        "everything without a guest",
        "--version",
        MSIX_QEMU,
        "guests with vectors=0 at the device, or with KVM",
    ),
    Tool("dpdk-testpmd", "DPDK as the other side of vhost-user", "every other peer"),
    Tool("tshark", "reading packet captures", "every vnet command", "--version"),
    Tool("lspci", "vnet lspci", "vnet lspci -x, vnet show --all", "--version"),
)
"""Programs in the order of the report."""


def examine() -> list[Finding]:
    """Return the state of every prerequisite. Takes about a second, changes nothing and needs no right."""
    return [*_python(), *_extras(), _native(), *_kernel(), *_rights(), _fuse(), *map(_tool, TOOLS)]


def _python() -> Iterator[Finding]:
    yield Finding("Python", Grade.OK, ".".join(map(str, sys.version_info[:3])), "everything")
    for name in _dependencies():
        needed = {"scapy": "vnet demo --port memory, your own frames"}.get(name, "everything")
        yield _package(name, needed, name, "nothing", optional=False)


def _dependencies() -> list[str]:
    """Return the names of the packages that ours requires, without extras."""
    listed = requires(DISTRIBUTION) or []
    return [re.split(r"[^A-Za-z0-9_.-]", line, maxsplit=1)[0] for line in listed if "extra ==" not in line]


def _extras() -> Iterator[Finding]:
    for package, (extra, needed) in EXTRAS.items():
        finding = _package(package, needed, f"'{DISTRIBUTION}[{extra}]'", "every other command", optional=True)
        if finding.mend and package in BUILD:
            finding = attrs.evolve(finding, mend=f"{BUILD[package]} && {finding.mend}", without="vnet cfs")
        yield finding


def _native() -> Finding:
    """Return the state of the extension that moves plain packets in C."""
    name, needed = "native plain path", "fewer CPU microseconds per packet"
    if NATIVE:
        return Finding(name, Grade.OK, "built", needed)
    mend = (
        "unset VNET_PURE"
        if "VNET_PURE" in WHY_NOT
        else f"sudo apt-get install -y gcc python3-dev, then install {DISTRIBUTION} again"
    )
    return Finding(name, Grade.LIMITED, WHY_NOT, needed, mend, "every command: Python does the work")


def _package(name: str, needed: str, install: str, without: str, optional: bool) -> Finding:
    """Return the state of a package of Python, which ``pip install`` has by the name ``install``."""
    try:
        return Finding(f"package {name}", Grade.OK, version(name), needed)
    except PackageNotFoundError:
        mend = f"{sys.executable} -m pip install {install}"
        return Finding(f"package {name}", Grade.MISSING, "not installed", needed, mend, without, optional=optional)


def _kernel() -> Iterator[Finding]:
    release = os.uname().release
    enough = _numbers(release) >= USO_KERNEL
    yield Finding(
        "Linux",
        Grade.OK if enough else Grade.LIMITED,
        release,
        "everything",
        "" if enough else "a kernel of version 6.2 or newer",
        "" if enough else "everything but segmentation of UDP (USO) on TUN and TAP",
    )
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield Finding(
        "open files",
        Grade.OK if soft > FEW_FILES else Grade.LIMITED,
        f"{soft} of at most {hard}",
        "large systems",
        "" if soft > FEW_FILES else f"ulimit -n {min(hard, 64 * FEW_FILES)}",
        "" if soft > FEW_FILES else "systems of up to about a hundred devices",
    )


def _fuse() -> Finding:
    name, needed, without = str(FUSE_DEVICE), "vnet mount", "vnet cfs"
    if not FUSE_DEVICE.exists():
        return Finding(name, Grade.MISSING, "no such device", needed, "sudo modprobe fuse", without)
    if not os.access(FUSE_DEVICE, os.R_OK | os.W_OK):
        return Finding(name, Grade.MISSING, "no right to open it", needed, f"{SUDO} ...", without)
    return Finding(name, Grade.OK, "can be opened", needed)


def _rights() -> Iterator[Finding]:
    without = "memory ports, disks, SCSI and rpmsg: vnet demo --port memory, vnet demo blk"
    needed = "TUN and TAP ports: vnet demo, up, exec"
    if not TUN_DEVICE.exists():
        yield Finding(str(TUN_DEVICE), Grade.MISSING, "no such device", needed, "sudo modprobe tun", without)
    elif not os.access(TUN_DEVICE, os.R_OK | os.W_OK):
        yield Finding(str(TUN_DEVICE), Grade.MISSING, "no right to open it", needed, f"{SUDO} ...", without)
    else:
        yield Finding(str(TUN_DEVICE), Grade.OK, "can be opened", needed)
    refused, name = why_not(), "user namespaces"
    used = "TUN and TAP ports without root: vnet demo, vnet up --rootless"
    if refused is None:
        yield Finding(name, Grade.OK, "this user can make them", used)
    else:
        yield Finding(name, Grade.MISSING, refused.missing, used, refused.command, "the same as root")
    yield _sandbox()
    for number in (NET_ADMIN, SYS_ADMIN):
        if has_capability(number):
            yield Finding(NAMES[number], Grade.OK, "this process has it", needed)
        else:
            mend = f"{SUDO} ..." if os.geteuid() else CONTAINER
            rest = without if refused else f"vnet up --rootless; {without}"
            yield Finding(NAMES[number], Grade.MISSING, "this process lacks it", needed, mend, rest)


def _sandbox() -> Finding:
    name, needed = "sandbox", "vnet up and serve --sandbox=strict"
    lacking = "; ".join(filter(None, (why_impossible(), why_incomplete())))
    if not lacking:
        return Finding(name, Grade.OK, f"seccomp, Landlock {landlock_version()}", needed)
    mend = install_command(["libseccomp2"]) if "libseccomp2" in lacking else "a kernel of version 5.13 or newer"
    return Finding(name, Grade.LIMITED, lacking, needed, mend, "--sandbox=on takes what it can")


def _tool(tool: Tool) -> Finding:
    path = shutil.which(tool.name)
    if path is None:
        return Finding(
            tool.name, Grade.MISSING, "not installed", tool.needed_for, install_command([tool.name]), tool.without
        )
    text = _version_text(path, tool.flag) if tool.flag is not None else path
    if tool.recent and _numbers(text) < tool.recent:
        newer = ".".join(map(str, tool.recent))
        return Finding(
            tool.name,
            Grade.LIMITED,
            text,
            tool.needed_for,
            f"{PACKAGES.get(tool.name, tool.name)} {newer} or newer, such as that of Debian 13",
            tool.older,
        )
    return Finding(tool.name, Grade.OK, text, tool.needed_for)


def _version_text(path: str, flag: str) -> str:
    """Return the first version number that the program prints, else its path."""
    try:
        outcome = subprocess.run(
            [path, flag],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=PROBE_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return path
    match = re.search(r"\d+(\.\d+)+", outcome.stdout)
    return match[0] if match else path


def _numbers(text: str) -> tuple[int, ...]:
    """Return the numbers of the first version in a text; empty if there is none."""
    match = re.search(r"\d+(\.\d+)+", text)
    return tuple(map(int, match[0].split("."))) if match else ()
