"""The QEMU of guests: the installed one, or a newer one that is unpacked in the cache for vfio-user devices."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vnet.bench.guest_kernel import CACHE
from vnet.errors import PrivilegeError
from vnet.system.qemu import PROGRAM, VFIO_USER, qemu_version

__all__ = ["UNPACKED", "find_qemu", "has_functions", "unpacked_qemu"]

UNPACKED = "qemu-*"
"""Folders in the cache with Debian's packages of QEMU and all that it depends on, by version."""


def has_functions() -> bool:
    """Return whether the installed QEMU has vfio-user devices."""
    return (qemu_version() or (0, 0)) >= VFIO_USER


def unpacked_qemu(root: Path) -> Sequence[str]:
    """Return the command that runs the QEMU of packages that are unpacked, but not installed."""
    libraries, share = root / "usr/lib/x86_64-linux-gnu", root / "usr/share"
    return (
        *("env", f"QEMU_MODULE_DIR={libraries / 'qemu'}"),
        *(str(root / "usr/lib64/ld-linux-x86-64.so.2"), "--library-path", str(libraries)),
        *(str(root / "usr/bin" / PROGRAM), "-L", str(share / "qemu"), "-L", str(share / "seabios")),
    )


def find_qemu(*, functions: bool) -> tuple[Sequence[str], bool]:
    """Return the command of the newest QEMU here, and whether it has vfio-user devices.

    Raises PrivilegeError if it has to have ``functions``, and none has.
    """
    if has_functions():
        return (PROGRAM,), True
    root = next(CACHE.glob(UNPACKED), None)
    if root is not None:
        return unpacked_qemu(root), True
    if functions:
        version = ".".join(map(str, VFIO_USER))
        raise PrivilegeError(f"no QEMU {version} is installed", "install qemu-system-x86 of Debian's trixie-backports")
    return (PROGRAM,), False
