"""The corpus of a target: a file with an input in hexadecimal on each line, the shortest first."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

__all__ = ["FOLDER", "read", "write"]

FOLDER = Path(__file__).parent / "corpus"


def read(name: str) -> list[bytes]:
    """Return the inputs of a target; none if it has no file. Raises ValueError for a line that is not hexadecimal."""
    path = FOLDER / f"{name}.txt"
    return [bytes.fromhex(line) for line in path.read_text("ascii").split()] if path.exists() else []


def write(name: str, inputs: Iterable[bytes]) -> int:
    """Write the inputs of a target, without empty ones. Returns their number."""
    kept = sorted({data for data in inputs if data}, key=lambda data: (len(data), data))
    (FOLDER / f"{name}.txt").write_text("".join(f"{data.hex()}\n" for data in kept), "ascii")
    return len(kept)
