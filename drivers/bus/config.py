"""Fields of a device-specific configuration space (VIRTIO 1.4 section 2.5)."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import TypeVar

__all__ = ["ConfigField", "emit_config"]


class ConfigField(Enum):
    """Offset and size in bytes of a field. The fields of a device type are a subclass."""


F = TypeVar("F", bound=ConfigField)


def emit_config(fields: Mapping[F, int], size: int) -> bytes:
    """Return a configuration space of ``size`` bytes, little-endian. All bytes of other fields are 0."""
    config = bytearray(size)
    for field, value in fields.items():
        offset, width = field.value
        config[offset : offset + width] = value.to_bytes(width, "little")
    return bytes(config)
