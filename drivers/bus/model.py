"""Buses: they match devices with drivers by id tables and bind them.

Devices and drivers register in any order. A bus belongs to a host and serves until it is cancelled; nothing is global.

Several tasks may unbind, rebind, and remove the same device at the same time. They only request it: one task at a time
serves a binding and changes the binding's state, and each requester waits for the end of that task.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import partial
from typing import Generic, Protocol, TypeVar

import attrs
import trio

from drivers.bus.binding import Binding, BindMove, BindState
from drivers.contracts.events import SILENT, Reporter
from drivers.errors import DriverError, ProbeDeferred
from rings.ids import ANY_ID

__all__ = ["Bus", "BusDevice", "BusDriver", "MatchId", "require"]


@attrs.frozen
class MatchId:
    """A row of a driver's id table; ANY_ID matches all ids."""

    device: int
    vendor: int = ANY_ID

    def matches(self, device_id: int, vendor_id: int) -> bool:
        return self.device in (ANY_ID, device_id) and self.vendor in (ANY_ID, vendor_id)


class BusDevice(Protocol):
    """A device, as its bus sees it."""

    @property
    def device_id(self) -> int: ...

    @property
    def vendor_id(self) -> int: ...

    name: str
    """Name of the device; if it is empty, the bus assigns one (virtio0, vhost1, ...)."""


class BusDriver(Protocol):
    """A driver, as its bus sees it."""

    @property
    def name(self) -> str: ...

    @property
    def id_table(self) -> Sequence[MatchId]: ...


D = TypeVar("D", bound=BusDevice)
R = TypeVar("R", bound=BusDriver)
F = TypeVar("F")


def require(resource: F | None, device: BusDevice, reason: str) -> F:
    """Return a resource that a driver needs for ``device``. If it is None, raises ProbeDeferred with ``reason``."""
    if resource is None:
        raise ProbeDeferred(f"{device.name}: {reason}")
    return resource


class Bus(ABC, Generic[D, R]):
    """A bus that matches, probes and removes. Subclasses implement `attach`, which brings a device up."""

    prefix = "device"

    def __init__(self) -> None:
        self._bindings: dict[int, Binding[D, R]] = {}
        """Bindings by the `id` of their devices, in the order of registration."""
        self._leaving: list[Binding[D, R]] = []
        """Bindings removed while a driver still uses the device, which is not bound again before that driver ends."""
        self._drivers: list[R] = []
        self._held: set[str] = set()
        """Places of devices that no driver may use, see `unbind`."""
        self._changed = trio.Event()
        self._pokes = 0

    @property
    def bindings(self) -> tuple[Binding[D, R], ...]:
        return tuple(self._bindings.values())

    def register_driver(self, driver: R) -> None:
        self._drivers.append(driver)
        self.poke()

    @property
    def drivers(self) -> tuple[R, ...]:
        return tuple(self._drivers)

    async def unregister_driver(self, driver: R) -> None:
        """Unbind the driver from its devices, which stay on the bus. Raises KeyError if it is not registered."""
        if driver not in self._drivers:
            raise KeyError(driver.name)
        self._drivers.remove(driver)
        for ended in [self._release(binding) for binding in self.bindings if binding.driver is driver]:
            await ended.wait()

    def register_device(self, device: D) -> None:
        """Add a device. Raises ValueError if it is on the bus already."""
        if self.has(device):
            raise ValueError(f"{device.name} is on the bus already")
        if not device.name:
            names = {binding.device.name for binding in self.bindings}
            device.name = next(n for i in range(len(names) + 1) if (n := f"{self.prefix}{i}") not in names)
        self._bindings[id(device)] = Binding(device, self.reporter(device))
        self.poke()

    async def unregister_device(self, device: D) -> None:
        """Unbind and remove a device. Raises KeyError if it is not on the bus."""
        self.binding(device)
        await self.discard_device(device)

    async def discard_device(self, device: D) -> None:
        """Unbind and remove a device if it is on the bus. Returns once no driver uses it, whichever task removed it."""
        binding = self._bindings.pop(id(device), None)
        if binding is not None:
            self._leaving.append(binding)
            self._release(binding)
        for leaving in tuple(self._leaving):
            if leaving.device is device:
                await leaving.ended.wait()

    async def clear(self, place: str) -> None:
        """Unbind and remove every device at ``place``, see `place`. Returns once no driver uses one of them."""
        for device in [binding.device for binding in (*self.bindings, *self._leaving)]:
            if self.place(device) == place:
                await self.discard_device(device)

    def renew_device(self, device: D) -> None:
        """Register a device that is not on the bus; match it again if its last probe failed."""
        binding = self._bindings.get(id(device))
        if binding is None:
            self.register_device(device)
        elif binding.state is BindState.FAILED:
            self._release(binding)

    async def rebind(self, device: D) -> None:
        """Unbind the device, even if its probe failed, and match it again."""
        await self._release(self.binding(device)).wait()

    async def unbind(self, place: str) -> None:
        """Unbind the device at ``place``, and keep it unbound until `bind`, also if it leaves the bus and returns."""
        self.hold(place)
        for ended in [self._release(binding) for binding in self.bindings if self.place(binding.device) == place]:
            await ended.wait()

    def hold(self, place: str) -> None:
        """Keep a device that comes to ``place`` unbound until `bind`."""
        self._held.add(place)

    def bind(self, place: str) -> None:
        """Match the device at ``place`` again, after `unbind` or a probe that failed."""
        self._held.discard(place)
        for binding in self.bindings:
            if self.place(binding.device) == place and binding.state is BindState.FAILED:
                self._release(binding)
        self.poke()

    def is_unbound(self, place: str) -> bool:
        """Return whether `unbind` keeps the device at ``place`` unbound."""
        return place in self._held

    def place(self, device: D) -> str:
        """Return the name of the device's place on the bus, which it keeps if it leaves the bus and returns."""
        return device.name

    def has(self, device: D) -> bool:
        """Return whether the device is on the bus."""
        return id(device) in self._bindings

    def binding(self, device: D) -> Binding[D, R]:
        if (binding := self._bindings.get(id(device))) is None:
            raise KeyError(device.name)
        return binding

    def poke(self) -> None:
        """Retry deferred probes, because a resource that they need may exist now."""
        self._pokes += 1
        self._changed.set()

    async def serve(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Bind matching devices and drivers until cancelled, then unbind all."""
        async with trio.open_nursery() as nursery:
            task_status.started()
            while True:
                self._changed = trio.Event()
                for binding in self.bindings:
                    if binding.allows(BindMove.PROBE) and self._is_free(binding.device):
                        driver = self.match(binding.device)
                        if driver is not None:
                            nursery.start_soon(self._bind, binding, driver, binding.probe(driver))
                await self._changed.wait()

    def reporter(self, device: D) -> Reporter:
        """Return the reporter of events of a device on this bus."""
        return SILENT

    def match(self, device: D) -> R | None:
        """Return the first driver whose id table matches the device, or None."""
        for driver in self._drivers:
            if any(row.matches(device.device_id, device.vendor_id) for row in driver.id_table):
                return driver
        return None

    @abstractmethod
    async def attach(self, binding: Binding[D, R], device: D, driver: R) -> None:
        """Bring the device up with this driver, and serve it until cancelled.

        Calls ``binding.bound()`` once the device runs, and releases all resources before it returns. On ProbeDeferred
        the bus probes again at the next `poke`, on another DriverError it does not.
        """

    def _is_free(self, device: D) -> bool:
        """Return whether a driver may use the device: `unbind` does not keep it, and no removed binding is in use."""
        return not (self.is_unbound(self.place(device)) or any(each.device is device for each in self._leaving))

    async def _bind(self, binding: Binding[D, R], driver: R, scope: trio.CancelScope) -> None:
        end, pokes = binding.end, self._pokes
        try:
            with scope:
                await self.attach(binding, binding.device, driver)
        except ProbeDeferred as exc:
            end = partial(binding.defer, str(exc))
        except DriverError as exc:
            end = partial(binding.fail, str(exc))
        finally:
            if scope.cancel_called:
                self._free(binding)
            else:
                end()
        if binding.state is BindState.DEFERRED and pokes != self._pokes:
            self._changed.set()  # a `poke` during the probe may mean that its resource exists now

    def _release(self, binding: Binding[D, R]) -> trio.Event:
        """Request that the device is unbound and matched again. Returns the event that is set once it is unbound."""
        if binding.scope is not None:
            binding.scope.cancel()
        else:
            self._free(binding)
        return binding.ended

    def _free(self, binding: Binding[D, R]) -> None:
        binding.free()
        if binding in self._leaving:
            self._leaving.remove(binding)
        self.poke()
