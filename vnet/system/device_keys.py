"""Keys of a device that change while it has no driver, as text."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import attrs

__all__ = ["KEYS", "DeviceKey", "device_key_rows"]


def _number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError("must be a whole number") from None


def _names(text: str) -> tuple[str, ...]:
    return tuple(filter(None, text.split(",")))


@attrs.frozen
class DeviceKey:
    """A key of a device in topology files."""

    values: str
    """Its values, for the help text."""
    help: str
    """A phrase that says what it sets."""
    parse: Callable[[str], object]
    """Returns the value in a text. Raises ValueError "must be …"."""


KEYS: Mapping[str, DeviceKey] = {
    "queue_size": DeviceKey("NUMBER", "largest number of descriptors in each virtqueue", _number),
    "features_off": DeviceKey("[NAME,...]", "feature bits that the device does not offer", _names),
}
"""Keys by name."""


def device_key_rows() -> list[tuple[str, str]]:
    """Return each key with its values, and a phrase that says what it sets, for help texts."""
    return [(f"{name} {key.values}", key.help) for name, key in KEYS.items()]
