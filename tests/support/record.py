"""Results of a long run with what is needed to repeat it: command, commit, machine and Python."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

__all__ = ["record"]

ROOT = Path(__file__).parents[2]
_GIT = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
COMMIT = subprocess.run(_GIT, capture_output=True, text=True, check=False).stdout.strip()
"""Commit of the work tree when the program started, whose code it runs; "" without Git."""


def record(module: str, arguments: Sequence[str], results: Sequence[object]) -> dict[str, object]:
    """Return the results of ``python -m module arguments``, ready for JSON, without the name of the result file."""
    at = arguments.index("--json") if "--json" in arguments else len(arguments)
    return {
        "command": shlex.join(["python", "-m", module, *arguments[:at], *arguments[at + 2 :]]),
        "commit": COMMIT,
        "date": datetime.now(UTC).date().isoformat(),
        "machine": {"processors": os.cpu_count(), "architecture": platform.machine(), "kernel": platform.release()},
        "python": platform.python_version(),
        "results": list(results),
    }
