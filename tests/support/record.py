"""Results of a long run with what is needed to repeat it: command, commit, machine and Python."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

__all__ = ["origin", "record"]

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


def origin(results: Mapping[str, Any]) -> str:
    """Return where the results of `record` come from, as the beginning of a sentence."""
    machine = results["machine"]
    return (
        f"`{results['command']}` at commit {results['commit'][:12]} on {results['date']}, Python {results['python']}, "
        f"{machine['processors']} processors ({machine['architecture']}), Linux {machine['kernel']}"
    )
