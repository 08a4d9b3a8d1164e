"""Settings of a device that ``vnet set`` changes while the device runs: a table per device type."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Generic, TypeVar

import attrs

from vnet.ends.base import End, SideName
from vnet.spec import DeviceSpec

__all__ = ["Setting", "change_setting"]

SpecT = TypeVar("SpecT", bound=DeviceSpec)


@attrs.frozen
class Setting(Generic[SpecT]):
    """A setting of a device type."""

    side: SideName
    """The side that it belongs to."""
    values: str
    """Its values as a help text shows them, such as on|off; empty for a setting without a value."""
    help: str
    """A phrase that says what it sets."""
    change: Callable[[Any, str, SpecT], Awaitable[None]]
    """Changes it. Arguments: `End.settings` of its side, the value, and the device's record in the topology.

    Raises ValueError "must be …" for an invalid value, LookupError if there is nothing to change now, DriverError.
    """


async def change_setting(
    settings: Mapping[str, Setting[SpecT]], spec: SpecT, driver: End, device: End, name: str, value: str
) -> None:
    """Change the setting ``name`` of a running device with this record and these ends.

    Raises LookupError for a setting that does not exist or is not ours, and the errors of `Setting.change`.
    """
    if not settings:
        raise LookupError(f"a {spec.type} device has no settings that can change while it runs")
    if name not in settings:
        raise LookupError(f"unknown setting {name}; known are {', '.join(settings)}")
    setting = settings[name]
    end = driver if setting.side == "driver" else device
    if end.fixed:
        raise LookupError(f"{name} {end.fixed}")
    await setting.change(end.settings, value, spec)
