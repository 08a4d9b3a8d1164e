"""The environment of processes that run modules of the tests."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["environment"]

TESTS = Path(__file__).parents[1]


def environment(**more: str) -> dict[str, str]:
    """Return this process's environment with ``more``, in which modules of the tests can be imported."""
    paths = [str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **more}
