"""Registers of a device that are shown through selectors, as virtio-pci and virtio-mmio have them."""

from __future__ import annotations

from collections.abc import Callable

from drivers.bus.vhost import DeviceQueue, VhostDevice
from rings.features import word

__all__ = ["SelectedRegisters"]


class SelectedRegisters:
    """Base of register blocks: selects a word of the features, and a queue (VIRTIO 1.4 sections 4.1.4.3 and 4.2.2)."""

    def __init__(self, device: VhostDevice) -> None:
        self._device = device
        self.clear()

    def clear(self) -> None:
        """Reset all selectors."""
        self._device_select = self._driver_select = self._queue_select = 0

    def select_device_features(self, value: int) -> None:
        self._device_select = value

    def select_driver_features(self, value: int) -> None:
        self._driver_select = value

    def select_queue(self, value: int) -> None:
        self._queue_select = value

    def device_features(self) -> int:
        return word(self._device.device_features, self._device_select)

    def set_driver_features(self, value: int) -> None:
        self._device.write_driver_features(self._driver_select, value)

    def queue_field(self, get: Callable[[DeviceQueue], int], absent: int = 0) -> int:
        """Return a field of the selected queue; ``absent`` if there is no such queue."""
        queue = self._device.queue(self._queue_select)
        return get(queue) if queue is not None else absent

    def idle_queue(self) -> DeviceQueue | None:
        """Return the selected queue if the driver may configure it, else None."""
        return self._device.idle_queue(self._queue_select)

    def set_size(self, value: int) -> None:
        if (queue := self.idle_queue()) is not None:
            queue.resize(value)

    def reset_queue(self, value: int) -> None:
        """Reset the selected queue for a 1. That is done at once, so that the register always reads 0."""
        if value == 1:
            self._device.reset_queue(self._queue_select)

    def enable_queue(self) -> None:
        if self.idle_queue() is not None:
            self._device.enable_queue(self._queue_select)
