"""The capabilities of this process, and the error for an operation that the kernel refused."""

from __future__ import annotations

import os
from pathlib import Path

from vnet.errors import SUDO, PrivilegeError
from vnet.linux.privileges.confinement import DENIED, OFF, is_confined

__all__ = ["CONTAINER", "NAMES", "NET_ADMIN", "SYS_ADMIN", "has_capability", "refusal"]

NET_ADMIN, SYS_ADMIN = 12, 21
NAMES = {NET_ADMIN: "CAP_NET_ADMIN", SYS_ADMIN: "CAP_SYS_ADMIN"}
"""Names of capabilities by number."""
CONTAINER = "docker run --cap-add=NET_ADMIN --cap-add=SYS_ADMIN --device=/dev/net/tun"
"""Command that gives root of a container the capabilities it lacks."""


def has_capability(number: int) -> bool:
    """Return whether the calling thread has the capability (capabilities(7)); True if /proc does not say."""
    try:
        lines = Path("/proc/thread-self/status").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return True
    effective = next((line.split()[1] for line in lines if line.startswith("CapEff:")), None)
    return effective is None or bool(int(effective, 16) >> number & 1)


def refusal(error: OSError, action: str, *capabilities: int) -> PrivilegeError | OSError:
    """Return the error to raise after the kernel refused ``action``, which needs these capabilities.

    PrivilegeError only if one of them is missing: root is refused for other reasons, which OSError reports.
    """
    missing = [NAMES[number] for number in capabilities if not has_capability(number)]
    if error.errno in DENIED and missing:
        if is_confined():
            return PrivilegeError(f"the sandbox of this process forbids it to {action}", f"{OFF} at its start")
        command = SUDO if os.geteuid() else f"{CONTAINER} (this root lacks {' and '.join(missing)})"
        return PrivilegeError(f"no right to {action}", command)
    return OSError(error.errno, f"cannot {action}: {os.strerror(error.errno or 0)}")
