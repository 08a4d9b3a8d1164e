"""A device type of virtio: one record of its ids, its features, and the classes of its two sides.

    ENTROPY = VirtioType(
        DeviceId.ENTROPY,
        EMPTY_TABLE,
        RING_FEATURES,
        driver=Side("virtio_rng", BoundVirtioRng),
        device=Side("vhost_rng", BoundVhostRng),
    )

The driver's side is a `drivers.bus.virtio.VirtioBound`, the device's side a `drivers.bus.vhost.VhostBound`. Both are
made of a device and its settings. The settings come from the host that registers the drivers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import attrs

from drivers.bus.back import UNCLASSIFIED
from drivers.bus.model import BusDevice, MatchId, require
from drivers.bus.vhost import Joinable, VhostBound, VhostDevice, VhostDriver
from drivers.bus.virtio import DriverSettings, VirtioBound, VirtioDevice, VirtioDriver
from rings.features import FeatureTable, RingFeature, mask

__all__ = ["Side", "VirtioType", "join"]

D = TypeVar("D", bound=BusDevice)
B = TypeVar("B")
S = TypeVar("S")
P = TypeVar("P")
T = TypeVar("T")


@attrs.frozen
class Side(Generic[D, S, B]):
    """One side of a device type: the name of its driver, and the class that is bound to each device."""

    name: str
    bind: Callable[[D, S], B]
    """Class of the bound driver or device: takes a device and its settings."""
    needs: str = "user"
    """Noun for the settings in the message "no … yet" of a device that waits for them."""


@attrs.frozen(eq=False)
class SideDriver(Generic[D, S, B]):
    """The driver of one side on a host's bus: a `VirtioDriver` or a `VhostDriver`."""

    side: Side[D, S, B]
    id_table: Sequence[MatchId]
    table: FeatureTable
    settings_for: Callable[[D], S | None]

    @property
    def name(self) -> str:
        return self.side.name

    def bind(self, device: D) -> B:
        return self.side.bind(device, require(self.settings_for(device), device, f"no {self.side.needs} yet"))


@attrs.frozen
class VirtioType(Generic[S, P]):
    """A device type of virtio. ``S`` and ``P`` are the settings of its driver and of its device.

    Its ends, options and demonstration are not part of it: `vnet.ends.kind.DeviceKind` has them.
    """

    device_id: int
    """Virtio device id (VIRTIO 1.4 section 5)."""
    table: FeatureTable
    supported: int
    """All supported feature bits, including ring features."""
    driver: Side[VirtioDevice, S, VirtioBound[DriverSettings]]
    device: Side[VhostDevice, P, VhostBound[object]]
    class_code: int = UNCLASSIFIED
    """PCI class code, where a device is a PCI function."""
    on_request: int = 0
    """Supported feature bits of the type that a device offers only if its user wants it to."""

    @property
    def switchable(self) -> int:
        """Feature bits that may be switched off one by one: all but VERSION_1, which is mandatory."""
        return self.supported & ~mask((RingFeature.VERSION_1,))

    def virtio_driver(self, settings_for: Callable[[VirtioDevice], S | None]) -> VirtioDriver:
        """Return the driver for a host's virtio bus. ``settings_for`` returns a device's settings, or None so far."""
        return self._on_bus(self.driver, settings_for)

    def vhost_driver(self, plug_for: Callable[[VhostDevice], P | None]) -> VhostDriver:
        """Return the device's side for a host's vhost bus. ``plug_for`` returns a device's plug, or None so far."""
        return self._on_bus(self.device, plug_for)

    def _on_bus(self, side: Side[D, T, B], settings_for: Callable[[D], T | None]) -> SideDriver[D, T, B]:
        return SideDriver(side, (MatchId(self.device_id),), self.table, settings_for)


def join(device: VhostDevice, end: Joinable) -> VhostBound[object]:
    """Bind a device to its plug or to a mediator: the ``bind`` of a device side that has both."""
    return end.join(device)
