"""Paths of programs as paths of the tree: from a mount's directory, or from the working directory of a process."""

from __future__ import annotations

import os.path
from pathlib import PurePosixPath

__all__ = ["inside", "resolved"]


def inside(mountpoint: str, path: str) -> str | None:
    """Return an absolute ``path`` below ``mountpoint`` as a path of the tree; None if it is elsewhere."""
    try:
        relative = PurePosixPath(os.path.normpath(path)).relative_to(mountpoint)
    except ValueError:
        return None
    return "" if str(relative) == "." else str(relative)


def resolved(mountpoint: str, target: str, bases: list[str]) -> list[str]:
    """Return the paths of the tree that a link's ``target`` may mean, the likeliest first.

    The kernel resolves the target of a configfs link when it is made: from the working directory of the process.
    ``bases`` are the absolute directories to try.
    """
    paths = (inside(mountpoint, str(PurePosixPath(base, target))) for base in bases)
    return list(dict.fromkeys(path for path in paths if path is not None))
