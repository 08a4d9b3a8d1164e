"""Runs tests with the native plain path under the sanitizers of addresses and of undefined behaviour.

``python tests/support/sanitized.py ARGUMENT...`` passes its arguments to pytest. The packages are copied to a temporary
folder and compiled there, so that the installation stays as it is.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[2]
PACKAGES = ("rings", "drivers", "vnet")
FLAGS = "-O1 -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer"


def library(name: str) -> str:
    """Return the path of a sanitizer's library, which Python itself is not linked with."""
    return subprocess.run(["cc", f"-print-file-name={name}"], check=True, capture_output=True, text=True).stdout.strip()


def main(arguments: list[str]) -> int:
    with TemporaryDirectory(prefix="vnet-sanitized-") as folder:
        copy = Path(folder)
        for package in PACKAGES:
            shutil.copytree(ROOT / package, copy / package, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
        shutil.copy(ROOT / "hatch_build.py", copy)
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
        subprocess.run([sys.executable, copy / "hatch_build.py"], env={**environment, "CFLAGS": FLAGS}, check=True)
        environment |= {
            "PYTHONPATH": folder,
            "PYTHONMALLOC": "malloc",  # each object is memory of its own, with its bounds
            "LD_PRELOAD": f"{library('libasan.so')} {library('libubsan.so')}",
            "ASAN_OPTIONS": "detect_leaks=0",  # an interpreter that ends leaves its objects
        }
        check = "import rings, sys; sys.exit(not rings.__file__.startswith(sys.argv[1]))"
        subprocess.run([sys.executable, "-P", "-c", check, folder], env=environment, cwd=ROOT, check=True)
        tests = [sys.executable, "-P", "-m", "pytest", *arguments]  # -P: the work tree is not on the path
        return subprocess.run(tests, env=environment, cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
