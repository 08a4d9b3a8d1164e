"""A device of a running system: its two hosts, its two halves, and its two ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs

from drivers.bus.back import VhostBack
from drivers.bus.binding import BindState
from drivers.bus.device_queue import DeviceQueue
from drivers.bus.driver_queue import DriverQueue
from drivers.bus.vhost import VhostDevice
from drivers.bus.virtio import VirtioDevice
from drivers.contracts.events import Source
from rings.memory import Memory
from rings.status import Status
from vnet.ends.base import End, SideName
from vnet.host.host import Host
from vnet.spec import DeviceSpec
from vnet.system.bring_up import reason_of
from vnet.system.carriers import Carrier

__all__ = ["Device"]

NOT_CONNECTED = "no driver is connected"
NOT_STARTED = "the driver has not set DRIVER_OK"


@attrs.define(eq=False)
class Device:
    """A device of the topology, or the local driver's device behind a mediated one, with both ends."""

    name: str
    spec: DeviceSpec
    hosts: tuple[str, str]
    """Names of the driver's and the device's host, see `vnet.topology.Topology.ends`."""
    driver_host: Host
    """The driver's host; the device's host if the driver is in another process."""
    device_host: Host
    """The device's host; the driver's host if the device is in another process."""
    location: str
    """Name of the device on the driver's host, such as the name of a PCI function."""
    back: VhostBack | None
    """Device half of the transport; None if the device is in another process."""
    driver_end: End
    """End of the driver."""
    device_end: End
    """End of the device; a `MediatorEnd` in mediated mode."""
    carrier: Carrier | None = None
    """Shows and hides the device; None for a device of `vnet serve`."""
    local: Device | None = None
    """In mediated mode, the local driver's device, which is behind this one."""
    driver_memory: Callable[[], Memory] | None = None
    """Returns the memory of a driver in another process, as far as that shares it; None for a driver in this process.
    Raises MemoryFault."""

    def source(self, side: SideName, queue: str = "") -> Source:
        """Return the place of the events of one side, or of its queue."""
        return Source(self.hosts[side == "device"], self.name, side, queue)

    @property
    def ends(self) -> tuple[End, End]:
        """The two ends that programs use; in mediated mode, the second one is the local driver's end."""
        return self.driver_end, self.device_end if self.local is None else self.local.driver_end

    @property
    def vhost(self) -> VhostDevice:
        """The device on the vhost bus; only if it is in this process."""
        assert self.back is not None, f"{self.name} is in another process"
        return self.back.device

    @property
    def virtio(self) -> VirtioDevice | None:
        """The device on the virtio bus, once the driver's host has enumerated it; else None."""
        return self.driver_host.virtio.device_at(self.location)

    @property
    def driver_queues(self) -> Sequence[DriverQueue]:
        """Queues of the driver's side; empty before the driver's host has enumerated the device."""
        virtio = self.virtio
        return () if virtio is None else virtio.queues

    @property
    def device_queues(self) -> Sequence[DeviceQueue]:
        """Queues of the device's side; empty if the device is in another process."""
        return () if self.back is None else self.vhost.queues

    @property
    def asking_queues(self) -> Sequence[DriverQueue | DeviceQueue]:
        """Queues of the side that knows the age of chains: the driver's, if it is in this process."""
        return self.driver_queues if self.spec.driven else self.device_queues

    @property
    def up(self) -> bool:
        """Whether the device carries data: DRIVER_OK on both sides, both ends live; of those in this process."""
        virtio = self.virtio
        if not self.spec.driven:
            return self.vhost.running and self.driver_end.live and self.device_end.live
        return (
            virtio is not None
            and bool(virtio.status & Status.DRIVER_OK)
            and (self.back is None or self.vhost.running)
            and self.driver_end.live
            and self.device_end.live
        )

    @property
    def waits(self) -> bool:
        """Whether the device is down, and only its driver in another process or a `bind` by hand can change that."""
        return not self.up and not self.failed and (not self.spec.driven or bool(self.unbound))

    @property
    def unbound(self) -> Sequence[SideName]:
        """Sides whose driver was unbound by hand."""
        sides: list[SideName] = []
        if self.spec.driven and self.driver_host.virtio.is_unbound(self.location):
            sides.append("driver")
        if self.back is not None and self.device_host.vhost.is_unbound(self.name):
            sides.append("device")
        return sides

    @property
    def failed(self) -> bool:
        """Whether a driver on either bus has failed."""
        virtio = self.virtio
        states = [self.device_host.vhost.binding(self.vhost).state] if self.back is not None else []
        if virtio is not None:
            states.append(self.driver_host.virtio.binding(virtio).state)
        return BindState.FAILED in states

    def trouble(self) -> str:
        """Return why the device is not up: the errors of both buses."""
        virtio = self.virtio
        if self.unbound:
            again = "; ".join(f"vnet bind {self.name} {side}" for side in self.unbound)
            return f"the {' and the '.join(self.unbound)} is unbound by hand; try: {again}"
        if not self.spec.driven and not self.driver_end.live:
            return NOT_CONNECTED
        errors = [self.device_host.vhost.binding(self.vhost).error] if self.back is not None else []
        if virtio is not None:
            errors += [self.driver_host.virtio.binding(virtio).error, *virtio.failures]
        else:
            bindings = (binding for bus in self.driver_host.carriers for binding in bus.bindings)
            errors += [binding.error for binding in bindings if binding.device.name == self.location]
        if self.back is not None:
            errors += self.vhost.failures
        if not self.spec.driven:
            errors.append(NOT_STARTED)
        return reason_of(errors)
