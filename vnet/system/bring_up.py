"""Bringing devices up: the drivers of all device types on a host's buses, and the back halves of transports."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import trio

from drivers.bus.back import VhostBack
from drivers.bus.binding import BindState
from drivers.bus.vhost import VhostBus, VhostDevice
from drivers.bus.virtio import VirtioBus
from drivers.errors import ProbeError
from vnet.ends import DEVICE_TYPES

__all__ = ["POLL_INTERVAL", "UP_TIMEOUT", "bring_up", "reason_of", "register_device_types", "register_drivers"]

UP_TIMEOUT = 30.0
"""Seconds that a device may take to come up."""
POLL_INTERVAL = 0.002
"""Seconds between two checks whether devices are up or have failed."""


def register_drivers(bus: VirtioBus, settings: Mapping[str, Any]) -> None:
    """Register the driver of each device type; ``settings`` has a device's settings by its location."""
    for kind in DEVICE_TYPES.values():
        bus.register_driver(kind.virtio.virtio_driver(lambda device: settings.get(device.location)))


def register_device_types(bus: VhostBus, plugs: Mapping[VhostDevice, Any]) -> None:
    """Register the device's side of each device type; ``plugs`` has the plug of each device."""
    for kind in DEVICE_TYPES.values():
        bus.register_driver(kind.virtio.vhost_driver(plugs.get))


async def bring_up(backs: Iterable[tuple[VhostBus, VhostBack]]) -> None:
    """Register the devices of back halves on their buses, and show each to the other side when it has its features.

    Raises ProbeError at once if one of the devices failed, which is final, or if a device has no features after
    `UP_TIMEOUT`.
    """
    backs = list(backs)
    for bus, back in backs:
        bus.register_device(back.device)
    for bus, back in backs:
        with trio.move_on_after(UP_TIMEOUT) as scope:
            while not back.device.ready.is_set():
                for owner, other in backs:
                    if owner.binding(other.device).state is BindState.FAILED:
                        raise _failure(owner, other)
                await trio.sleep(POLL_INTERVAL)
        if scope.cancelled_caught:
            raise _failure(bus, back)
        back.bind()


def _failure(bus: VhostBus, back: VhostBack) -> ProbeError:
    return ProbeError(f"{back.device.name}: {reason_of((bus.binding(back.device).error, *back.device.failures))}")


def reason_of(errors: Iterable[str]) -> str:
    """Return why a device is not up: its ``errors``, each once."""
    return "; ".join(filter(None, dict.fromkeys(errors))) or "it never came up"
