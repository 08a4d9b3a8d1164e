"""``python -m fuzz.child NAME ARGUMENT...``: atheris runs one target until libFuzzer's options end it.

A process of its own, because libFuzzer ends the process, and because the code is instrumented while it is imported.
"""

from __future__ import annotations

import sys
import traceback
from typing import TYPE_CHECKING

import atheris

from fuzz.table import TARGETS

if TYPE_CHECKING:
    from fuzz.oracle import Judge

PACKAGES = ["rings", "drivers", "vnet"]


def _report(judge: Judge) -> None:
    """Print what `fuzz.engines` reads; libFuzzer ends the process without another chance."""
    print(f"judge: calls_max={judge.calls_max} growth={judge.growth or 0:.3f}", file=sys.stderr, flush=True)


def main(name: str, arguments: list[str]) -> None:
    with atheris.instrument_imports(include=PACKAGES, enable_loader_override=False):
        from fuzz.oracle import Judge  # imports the packages

        judge = Judge(TARGETS[name], _report)

    def run(data: bytes) -> None:
        try:
            judge(data)
        except Exception:
            traceback.print_exc()  # atheris prints no part of a group
            raise

    atheris.Setup([sys.argv[0], *arguments], run)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
