"""A small protocol for tests of framing: a header with a size and a number of file descriptors, then text."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from drivers.carriers.framing import FrameAssembler, ProtocolError
from drivers.contracts.ipc import Handle

__all__ = ["FDS_MAX", "HEADER_SIZE", "SIZE_MAX", "Letter", "LetterAssembler", "emit"]

HEADER_SIZE = 2
SIZE_MAX = 40
"""Most bytes of a body."""
FDS_MAX = 2


@attrs.frozen
class Letter:
    """A message."""

    text: bytes
    handles: Sequence[Handle] = ()


class LetterAssembler(FrameAssembler[Letter]):
    """Splits a stream into letters."""

    def __init__(self) -> None:
        super().__init__(HEADER_SIZE, FDS_MAX)

    def check_header(self, header: bytes, fds: int) -> int:
        size, count = header
        if size > SIZE_MAX:
            raise ProtocolError(f"a letter of {size} bytes")
        if fds != count:
            raise ProtocolError(f"{fds} file descriptors instead of {count}")
        return size

    def make(self, header: bytes, body: bytes, handles: list[Handle]) -> Letter:
        return Letter(body, handles)


def emit(text: bytes, fds: int = 0) -> bytes:
    """Return the bytes of a letter."""
    return bytes((len(text), fds)) + text
