"""A QEMU that has vfio-user devices, which Debian 12 has not: Debian's packages, unpacked and never installed."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from support.machine import RequireTool, in_machine_network, unavailable
from vnet.bench.guest_kernel import CACHE, cache_lock
from vnet.bench.guest_qemu import UNPACKED, has_functions, unpacked_qemu
from vnet.system.qemu import PROGRAM, function_arguments

__all__ = ["function", "new_qemu"]

SUITE = "trixie"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
SOURCES = "".join(
    f"deb [signed-by={KEYRING}] http://deb.debian.org/debian {suite} main\n" for suite in (SUITE, f"{SUITE}-backports")
)
PACKAGE = "qemu-system-x86"
PATIENCE = 600.0
"""Seconds that each step of the download may take."""


@pytest.fixture(scope="session")
def new_qemu(require_tool: RequireTool) -> Sequence[str]:
    """The command that runs it: the installed one if it is new enough, else one that is downloaded once."""
    if has_functions():
        return (PROGRAM,)
    require_tool("apt-get", "dpkg-deb")
    with cache_lock():
        root = next(CACHE.glob(UNPACKED), None) or in_machine_network(_download)
    if root is None:
        unavailable(f"{PACKAGE} of {SUITE}-backports can't be downloaded")
    return unpacked_qemu(root)


def function(socket: Path) -> list[str]:
    """QEMU's arguments for the function that is served at ``socket``, as ``vnet serve`` prints them."""
    *_, device = function_arguments(socket)
    return shlex.split(device)


def _download() -> Path | None:
    """Unpack the package and all that it depends on, some 170 MB, in the cache; None if that fails."""
    folder = Path(tempfile.mkdtemp(dir=CACHE))
    try:
        for name in ("lists/partial", "archives/partial"):
            (folder / name).mkdir(parents=True)
        (folder / "status").touch()
        (folder / "sources.list").write_text(SOURCES)
        options: list[str] = []
        for option in (
            *(f"Dir::Etc::sourcelist={folder}/sources.list", "Dir::Etc::sourceparts=-", f"Dir::State={folder}"),
            *(f"Dir::State::lists={folder}/lists", f"Dir::State::status={folder}/status", f"Dir::Cache={folder}"),
            *(f"Dir::Cache::archives={folder}/archives", "APT::Sandbox::User=root", "APT::Install-Recommends=false"),
        ):
            options += ["-o", option]
        install = ["install", "-y", "-t", f"{SUITE}-backports", "--download-only", PACKAGE]
        for command in (["update"], install):
            apt = ["apt-get", *options, *command]
            if subprocess.run(apt, capture_output=True, timeout=PATIENCE, check=False).returncode:
                return None
        root = folder / "root"
        for package in (folder / "archives").glob("*.deb"):
            subprocess.run(["dpkg-deb", "-x", package, root], capture_output=True, timeout=PATIENCE, check=True)
        [qemu] = (folder / "archives").glob(f"{PACKAGE}_*.deb")
        version = qemu.name.split("_")[1].split("%3a")[-1]
        return root.rename(CACHE / f"qemu-{version}")
    finally:
        shutil.rmtree(folder)
