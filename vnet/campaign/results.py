"""The results file of a campaign: a line of JSON for each trial, so that a campaign that was killed goes on."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs

from vnet.campaign.trial import Record
from vnet.errors import ControlError
from vnet.linux.files import open_to_write

__all__ = ["Results", "open_results"]

BEGINNING = b'{"campaign":'
"""First bytes of a file."""


@attrs.frozen(eq=False)
class Results:
    """An open results file."""

    fd: int
    removed: int
    """Bytes of half a line that a killed campaign left at the end."""
    began: str
    """Date and time at which the campaign began, of the first of its runs."""

    def add(self, record: Record) -> None:
        """Append the result of a trial."""
        _write(self.fd, record)


def _write(fd: int, line: Mapping[str, Any]) -> None:
    data = memoryview(json.dumps(line, separators=(",", ":")).encode() + b"\n")
    while data:
        data = data[os.write(fd, data) :]


@contextmanager
def open_results(
    path: Path, identity: Mapping[str, Any], command: str, began: str, take: Callable[[Record], object], *, resume: bool
) -> Iterator[Results]:
    """Open a new file for the campaign ``identity``, or with ``resume`` an old one, each result of which ``take`` gets.

    The first line of a file has the campaign's identity, its ``command``, and the time at which it ``began``. Raises
    ControlError if the file does not fit, or if another process uses it, and OSError.
    """
    if resume and not path.exists():
        raise ControlError(f"{path}: there is no such file, so nothing to resume; leave out --resume")
    fd = open_to_write(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ControlError(f"{path}: another campaign is writing to it") from None
        if not resume and os.fstat(fd).st_size:
            raise ControlError(f"{path}: the file exists; --resume goes on with it, --results names another one")
        first = _check_first(path, fd, identity)
        removed = _repair(fd)
        if os.fstat(fd).st_size:
            for record in _records(path, fd):
                take(record)
        else:
            _write(fd, {"campaign": identity, "command": command, "began": began})
        yield Results(fd, removed, first.get("began", began))
    finally:
        os.close(fd)


def _repair(fd: int) -> int:
    """Remove half a line at the end; return its number of bytes."""
    end = size = os.fstat(fd).st_size
    while end:
        start = max(end - 65536, 0)
        newline = os.pread(fd, end - start, start).rfind(b"\n")
        if newline >= 0:
            end = start + newline + 1
            break
        end = start
    os.ftruncate(fd, end)
    return size - end


def _records(path: Path, fd: int) -> Iterator[Record]:
    with os.fdopen(os.dup(fd), "rb") as file:
        file.seek(0)
        file.readline()
        for number, line in enumerate(file, 2):
            record = _parse(path, number, line)
            if not (type(record.get("seed")) is int and {"failure", "took"} <= record.keys()):
                raise ControlError(f"{path}: line {number} is no result of a trial")
            yield record


def _parse(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise ControlError(f"{path}: line {number} is no line of a campaign's results")
    return value


def _check_first(path: Path, fd: int, identity: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the first line of a file, or an empty one. Raises ControlError if it is that of another campaign."""
    with os.fdopen(os.dup(fd), "rb") as file:
        file.seek(0)
        line = file.readline()
    if not line.endswith(b"\n") and (line.startswith(BEGINNING) or BEGINNING.startswith(line)):
        return {}
    first = _parse(path, 1, line)
    campaign = first.get("campaign")
    if not isinstance(campaign, dict):
        raise ControlError(f"{path}: line 1 is no beginning of a campaign's results")
    for key, value in json.loads(json.dumps(identity)).items():
        if (old := campaign.get(key)) != value:
            why = _difference(key, old, value)
            raise ControlError(f"{path}: results of another campaign: {why}; it was: {first.get('command')}")
    return first


def _difference(key: str, old: object, new: object) -> str:
    if key in ("topology", "extensions"):
        return f"its {key} differ" if key == "extensions" else "its topology differs"
    return f"{key} is {old!r} there, and {new!r} here"
