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
    return next((path for path in candidates if path is not None and _runs(path, version)), None)


def _runs(path: str, version: str) -> bool:
    """Return whether the interpreter has this version: pyenv's command of a version that is not chosen fails."""
    code = "import sys; print('{}.{}'.format(*sys.version_info))"
    done = subprocess.run([path, "-c", code], capture_output=True, text=True, check=False)
    return done.returncode == 0 and done.stdout.strip() == version
