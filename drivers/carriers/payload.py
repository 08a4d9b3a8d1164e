"""Bodies of messages that are packed fields, for every protocol over unix sockets."""

from __future__ import annotations

import struct
from typing import ClassVar, Self

import attrs

__all__ = ["EmptyPayload", "PackedPayload"]


@attrs.frozen
class PackedPayload:
    """A body whose fields are packed one after the other, as ``FORM`` says."""

    FORM: ClassVar[struct.Struct]

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """Parse a body: missing last bytes are padding, further ones are fields of later versions."""
        return cls(*cls.FORM.unpack_from(body.ljust(cls.FORM.size, b"\0")))

    def emit(self) -> bytes:
        return self.FORM.pack(*attrs.astuple(self, recurse=False))


@attrs.frozen
class EmptyPayload:
    """A body without fields."""

    @classmethod
    def parse(cls, body: bytes) -> Self:
        return cls()

    def emit(self) -> bytes:
        return b""
