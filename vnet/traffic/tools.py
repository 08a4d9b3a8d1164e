"""Programs of other packages that the product runs, and the Debian packages that have them."""

from __future__ import annotations

import shutil
from collections.abc import Iterable

from vnet.errors import PrivilegeError

__all__ = ["PACKAGES", "install_command", "need_tools"]

PACKAGES = {
    "ping": "iputils-ping",
    "ip": "iproute2",
    "nsenter": "util-linux",
    "nbdcopy": "libnbd-bin",
    "nbdinfo": "libnbd-bin",
    "qemu-system-x86_64": "qemu-system-x86",
    "busybox": "busybox-static",
    "depmod": "kmod",
    "dpdk-testpmd": "dpdk-dev",
    "pasta": "passt",
    "dpkg-deb": "dpkg",
    "apt-get": "apt",
    "apt-cache": "apt",
    "lspci": "pciutils",
}
"""Debian package by program, if it has another name."""


def install_command(names: Iterable[str]) -> str:
    """Return the command that installs programs on Debian."""
    packages = dict.fromkeys(PACKAGES.get(name, name) for name in names)
    return f"sudo apt-get install -y {' '.join(packages)}"


def need_tools(*names: str) -> None:
    """Raise PrivilegeError if programs are not installed, with the command that installs them."""
    missing = [name for name in names if shutil.which(name) is None]
    if missing:
        raise PrivilegeError(f"not installed: {', '.join(missing)}", install_command(missing))
