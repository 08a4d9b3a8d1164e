"""Interpreters of other versions of Python on this machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

__all__ = ["other_pythons"]

VERSIONS = ("3.11", "3.12", "3.13", "3.14")
"""Versions that the project supports."""


def other_pythons() -> dict[str, str]:
    """Return the path of an interpreter of each other version that is installed, on PATH or by pyenv."""
    own = "{}.{}".format(*sys.version_info)
    paths = {version: _path(version) for version in VERSIONS if version != own}
    return {version: path for version, path in paths.items() if path is not None}


def _path(version: str) -> str | None:
    kept = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions")
    candidates = [shutil.which(f"python{version}"), *map(str, sorted(kept.glob(f"{version}.*/bin/python{version}")))]
    executables = (_executable(path, version) for path in candidates if path is not None)
    return next(filter(None, executables), None)


def _executable(path: str, version: str) -> str:
    """Return the interpreter behind a command, which may be pyenv's; empty if it fails or has another version."""
    code = "import sys; print('{}.{}'.format(*sys.version_info), sys.executable)"
    done = subprocess.run([path, "-c", code], capture_output=True, text=True, check=False)
    answer, _, executable = done.stdout.strip().partition(" ")
    return executable if done.returncode == 0 and answer == version else ""
