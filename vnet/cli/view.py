"""Run ``python -P -m vnet.cli.view NETNS CMD...`` to become CMD with the view of the namespace at the path NETNS.

Nothing but the standard library is imported, so that this starts fast.
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
    """The command line that runs ``argv`` with the view of the namespace at ``netns``."""
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
