"""The NBD clients nbdcopy and fio, measured, and files to compare."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path

from vnet.errors import TrafficError
from vnet.traffic.kernel import PATIENCE, run

__all__ = ["fill", "fio", "nbdcopy", "sha256"]

MIB = 1 << 20
SLOWEST = 20 * MIB
"""Bytes per second below which a copy is stopped."""


async def nbdcopy(source: Path | str, target: Path | str, size: int) -> float:
    """Copy ``size`` bytes from a file or export to another; return the seconds. Raises TrafficError."""
    began = time.perf_counter()
    await _run(["nbdcopy", str(source), str(target)], 60 + size / SLOWEST)
    return time.perf_counter() - began


async def fio(
    uri: str, rw: str, size: int, *, seconds: float | None = None, depth: int = 16, verify: bool = False
) -> float:
    """Run fio with random requests of 4 KiB in the first ``size`` bytes; return requests per second.

    fio runs for ``seconds``, or uses each block once. ``rw`` is fio's mode, such as randread; with ``verify``, written
    data are read and compared. Raises TrafficError.
    """
    argv = ["fio", "--name=random", "--ioengine=nbd", f"--uri={uri}", f"--rw={rw}", "--bs=4k", f"--iodepth={depth}"]
    argv += [f"--size={size}", "--output-format=json"]
    argv += [] if seconds is None else ["--time_based", f"--runtime={seconds:g}"]
    argv += ["--verify=crc32c", "--verify_fatal=1", "--verify_state_save=0"] if verify else []
    output = await _run(argv, (seconds or 60) + PATIENCE)
    try:
        job = json.loads(output[output.index("{") :])["jobs"][0]
        return float(job["write" if "write" in rw else "read"]["iops"])
    except (ValueError, KeyError, IndexError):
        raise TrafficError(f"fio printed no result of {rw}") from None


async def _run(argv: Sequence[str], timeout: float) -> str:
    done = await run(None, argv, timeout)
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or ["no error message"]
        raise TrafficError(f"{argv[0]} ended with status {done.returncode}: {lines[-1]}")
    return done.stdout.decode(errors="replace")


# These block: they run in a thread.


def fill(path: Path, size: int) -> None:
    """Make a file of ``size`` random bytes."""
    with path.open("wb") as file:
        for at in range(0, size, MIB):
            file.write(os.urandom(min(MIB, size - at)))


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
