"""Real NBD clients, nbdcopy and fio, with their figures as values; and files to compare."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path

from vnet.traffic.kernel import PATIENCE, TrafficError, run

__all__ = ["fill", "fio", "nbdcopy", "sha256"]

MIB = 1 << 20
SLOWEST = 20 * MIB
"""Bytes in a second below which a copy is given up."""


async def nbdcopy(source: Path | str, target: Path | str, size: int) -> float:
    """Copy ``size`` bytes from a file or export to another; seconds. Raises TrafficError."""
    began = time.perf_counter()
    await _run(["nbdcopy", str(source), str(target)], 60 + size / SLOWEST)
    return time.perf_counter() - began


async def fio(
    uri: str, rw: str, size: int, *, seconds: float | None = None, depth: int = 16, verify: bool = False
) -> float:
    """Requests a second of 4 KiB each, by random in the first ``size`` bytes, for ``seconds`` or once each.

    ``rw`` is fio's word, such as randread; with ``verify`` what was written is read and compared. Raises TrafficError.
    """
    argv = ["fio", "--name=random", "--ioengine=nbd", f"--uri={uri}", f"--rw={rw}", "--bs=4k", f"--iodepth={depth}"]
    argv += [f"--size={size}", "--output-format=json"]
    argv += [] if seconds is None else ["--time_based", f"--runtime={seconds:g}"]
    argv += ["--verify=crc32c", "--verify_fatal=1", "--verify_state_save=0"] if verify else []
    said = await _run(argv, (seconds or 60) + PATIENCE)
    try:
        job = json.loads(said[said.index("{") :])["jobs"][0]
        return float(job["write" if "write" in rw else "read"]["iops"])
    except (ValueError, KeyError, IndexError):
        raise TrafficError(f"fio said nothing of {rw}") from None


async def _run(argv: Sequence[str], timeout: float) -> str:
    done = await run(None, argv, timeout)
    if done.returncode:
        words = done.stderr.decode(errors="replace").strip().splitlines() or ["no words"]
        raise TrafficError(f"{argv[0]} ended with status {done.returncode}: {words[-1]}")
    return done.stdout.decode(errors="replace")


# In a thread.


def fill(path: Path, size: int) -> None:
    """Make a file of ``size`` random bytes."""
    with path.open("wb") as file:
        for at in range(0, size, MIB):
            file.write(os.urandom(min(MIB, size - at)))


def sha256(path: Path) -> str:
    """Of a whole file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
