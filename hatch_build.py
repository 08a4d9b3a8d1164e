"""Builds the native plain path with the package, if there is a C compiler with Python's headers.

Without them the package is pure Python, and works the same. In a work tree, ``python hatch_build.py`` builds in place;
CFLAGS and CC are those of the environment.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

SOURCES = (
    "rings/native/_rings.c",
    "vnet/ports/packet/native/_frames.c",
    "vnet/ports/packet/native/_shuttles.c",
    "vnet/bench/_forwarder.c",
)
FLAGS = ("-std=c11", "-O2", "-g", "-Wall", "-Wextra", "-fPIC", "-shared", "-fvisibility=hidden")
SUFFIX = ".abi3.so"
"""Built for the limited API of Python 3.11, so that later versions take it as well."""


def build(root: Path) -> dict[str, str]:
    """Compile all sources, each beside itself. Returns the paths of the results by their paths in the package.

    If one can't be compiled, prints one line, and returns none.
    """
    compiler = shlex.split(os.environ.get("CC") or "cc")
    flags = [*FLAGS, *shlex.split(os.environ.get("CFLAGS") or ""), f"-I{sysconfig.get_path('include')}"]
    built: dict[str, str] = {}
    for source in SOURCES:
        target = Path(source).with_suffix(SUFFIX)
        new = (root / source).with_suffix(".new")  # replaced at once: a process may have the former one mapped
        try:
            subprocess.run([*compiler, *flags, str(root / source), "-o", str(new)], check=True)
            new.replace(root / target)
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"vnet-virtio: no native plain path, Python does its work: {error}", file=sys.stderr)  # noqa: T201
            for other in SOURCES:
                (root / other).with_suffix(SUFFIX).unlink(missing_ok=True)
            return {}
        built[str(root / target)] = str(target)
    return built


try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:  # a work tree without the build backend
    pass
else:

    class NativeBuildHook(BuildHookInterface[Any]):
        """The hook that hatchling calls before it makes a wheel or an editable installation."""

        def initialize(self, version: str, build_data: dict[str, Any]) -> None:
            built = build(Path(self.root))
            if built:
                build_data["pure_python"] = False
                build_data["tag"] = f"cp311-abi3-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"
                if version != "editable":
                    build_data["force_include"].update(built)


if __name__ == "__main__":
    sys.exit(not build(Path(__file__).parent))
