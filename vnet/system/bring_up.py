"""Bringing devices up: the drivers of all device types on a host's buses, and the back halves of transports."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import trio

from drivers.bus.back import VhostBack
from drivers.bus.binding import BindState
from drivers.bus.vhost import VhostBus, VhostDevice
from drivers.bus.virtio import VirtioBus
from drivers.errors import ProbeError
from vnet.ends import DEVICE_TYPES
from vnet.linux.background import gather

__all__ = ["UP_TIMEOUT", "reason_of", "register_device_types", "register_drivers", "wait_offered"]

UP_TIMEOUT = 30.0
"""Seconds that a device may take to come up."""


def register_drivers(bus: VirtioBus, settings: Mapping[str, Any]) -> None:
    """Register the driver of each device type; ``settings`` has a device's settings by its location."""
    for kind in DEVICE_TYPES.values():
        bus.register_driver(kind.virtio.virtio_driver(lambda device: settings.get(device.location)))


def register_device_types(bus: VhostBus, plugs: Mapping[VhostDevice, Any]) -> None:
    """Register the device's side of each device type; ``plugs`` has the plug of each device."""
    for kind in DEVICE_TYPES.values():
        bus.register_driver(kind.virtio.vhost_driver(plugs.get))


async def wait_offered(backs: Iterable[tuple[VhostBus, VhostBack]]) -> None:
    """Return once all devices, which are on their buses, have features, so that the other side may see them.

    Raises ProbeError at once if one of the devices failed, which is final, or if a device has no features after
    `UP_TIMEOUT`.
    """
    await gather([partial(_wait_offered, bus, back.device) for bus, back in backs])


async def _wait_offered(bus: VhostBus, device: VhostDevice) -> None:
    """Wait until a device type has offered features of the device. Raises ProbeError."""
    binding = bus.binding(device)
    with trio.move_on_after(UP_TIMEOUT):
        while not device.ready.is_set() and binding.state is not BindState.FAILED:
            await binding.wait_moved()
    if not device.ready.is_set():
        raise ProbeError(f"{device.name}: {reason_of((binding.error, *device.failures))}")


def reason_of(errors: Iterable[str]) -> str:
    """Return why a device is not up: its ``errors``, each once."""
    return "; ".join(filter(None, dict.fromkeys(errors))) or "it never came up"
