"""``python -P -m vnet.cli.view NETNS CMD...`` runs CMD in the network namespace at path NETNS, with its /sys and /etc.

Only the standard library is imported, for a fast start.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from vnet.linux.netns_view import execute, mount_view
from vnet.linux.syscalls import CLONE_NEWNET, setns

__all__ = ["view_command"]


def view_command(netns: Path, argv: Sequence[str]) -> list[str]:
    """Return the command line that runs ``argv`` in the namespace at ``netns``, with its /sys and /etc."""
    return [sys.executable, "-P", "-m", __name__, str(netns), *argv]


if __name__ == "__main__":
    logging.basicConfig(format="vnet: %(message)s")
    path = Path(sys.argv[1])
    try:
        setns(path, CLONE_NEWNET)
        mount_view(path.name)
        execute(sys.argv[2:])
    except OSError as exc:
        sys.exit(f"vnet: {exc.filename}: {exc.strerror}")
