"""The log of a run: a line for each event, and the hash of all lines."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable
from functools import cache

import attrs

from drivers.contracts.events import RECORDS, Event, FrameEvent, Source

__all__ = ["EventLog", "line"]

LEFT_OUT = frozenset({"time", "source", "pieces"})
"""Fields that the line has in another form."""
FIELDS = {
    kind: tuple(field.name for field in attrs.fields(kind) if field.name not in LEFT_OUT) for kind in RECORDS.values()
}
"""Names of the fields of each kind of event that its line has."""


@cache
def _place(source: Source) -> str:
    return " ".join(filter(None, attrs.astuple(source))) or "-"


def line(event: Event) -> str:
    """Return an event as a line: time in seconds, place, kind and fields; the content of a frame as its CRC-32."""
    kind = type(event)
    words = [f"{event.time:.9f}", _place(event.source), kind.__name__]
    for name in FIELDS[kind]:
        value = getattr(event, name)
        words.append(f"{name}={value.hex() if isinstance(value, bytes) else value}")
    if isinstance(event, FrameEvent):
        words.append(f"crc={zlib.crc32(event.data()):08x}")
    return " ".join(words)


class EventLog:
    """A sink that hashes the line of each event."""

    def __init__(self, write: Callable[[str], object] | None = None) -> None:
        """``write`` takes each line, with its end."""
        self._write = write
        self._hash = hashlib.sha256()
        self.events = 0

    def __call__(self, event: Event) -> None:
        text = line(event) + "\n"
        self.events += 1
        self._hash.update(text.encode())
        if self._write is not None:
            self._write(text)

    def digest(self) -> str:
        """Return the SHA-256 of all lines so far, in hexadecimal."""
        return self._hash.hexdigest()
