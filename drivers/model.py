"""Buses: devices on one side, drivers on the other, matched by id tables and bound for a while.

Either side may come first. A bus belongs to a host and serves until it is cancelled; nothing is global.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Generic, Protocol, TypeVar

import attrs
import trio

from drivers.errors import DriverError, ProbeDeferred
from rings.ids import ANY_ID

__all__ = ["Binding", "BindState", "Bus", "BusDevice", "BusDriver", "MatchId", "present"]


@attrs.frozen
class MatchId:
    """One row of a driver's id table; ANY_ID matches all."""

    device: int
    vendor: int = ANY_ID

    def matches(self, device_id: int, vendor_id: int) -> bool:
        return self.device in (ANY_ID, device_id) and self.vendor in (ANY_ID, vendor_id)


class BusDevice(Protocol):
    """What a bus needs to know of a device."""

    @property
    def device_id(self) -> int: ...

    @property
    def vendor_id(self) -> int: ...

    name: str
    """The bus gives one (virtio0, vhost1, ...) to a device whose name is empty."""


class BusDriver(Protocol):
    """What a bus needs to know of a driver."""

    @property
    def name(self) -> str: ...

    @property
    def id_table(self) -> Sequence[MatchId]: ...


D = TypeVar("D", bound=BusDevice)
R = TypeVar("R", bound=BusDriver)


F = TypeVar("F")


def present(found: F | None, device: BusDevice, missing: str) -> F:
    """What a driver needs for ``device``, once it was ``found``. Raises ProbeDeferred with what is ``missing``."""
    if found is None:
        raise ProbeDeferred(f"{device.name}: {missing}")
    return found


class BindState(Enum):
    """Where a device stands on its bus."""

    UNBOUND = "unbound"
    PROBING = "probing"
    DEFERRED = "deferred"
    BOUND = "bound"
    FAILED = "failed"


@attrs.define(eq=False)
class Binding(Generic[D, R]):
    """A device, and the driver it is bound to or was last tried with."""

    device: D
    driver: R | None = None
    state: BindState = BindState.UNBOUND
    error: str = ""
    """Why the last probe was deferred or failed."""
    scope: trio.CancelScope | None = None
    ended: trio.Event = attrs.field(factory=trio.Event)
    """Set while no driver has the device."""


class Bus(Generic[D, R]):
    """Matches, probes, removes. Subclasses say in `attach` what binding means on their bus."""

    prefix = "device"

    def __init__(self) -> None:
        self._bindings: list[Binding[D, R]] = []
        self._drivers: list[R] = []
        self._changed = trio.Event()
        self._pokes = 0

    @property
    def bindings(self) -> tuple[Binding[D, R], ...]:
        return tuple(self._bindings)

    def register_driver(self, driver: R) -> None:
        self._drivers.append(driver)
        self.poke()

    async def unregister_driver(self, driver: R) -> None:
        """Remove the driver from the devices it has; they stay, unbound."""
        self._drivers.remove(driver)
        for binding in self.bindings:
            if binding.driver is driver:
                await self._unbind(binding)
        self.poke()

    def register_device(self, device: D) -> None:
        if not device.name:
            taken = {b.device.name for b in self._bindings}
            device.name = next(n for i in range(len(taken) + 1) if (n := f"{self.prefix}{i}") not in taken)
        binding: Binding[D, R] = Binding(device)
        binding.ended.set()
        self._bindings.append(binding)
        self.poke()

    async def unregister_device(self, device: D) -> None:
        """Unbind and forget it. Raises KeyError for one that is not on the bus."""
        binding = self.binding(device)
        self._bindings.remove(binding)
        await self._unbind(binding)
        self.poke()

    async def rebind(self, device: D) -> None:
        """Remove the driver from the device, also from one whose probe failed, and have it matched anew."""
        await self._unbind(self.binding(device))
        self.poke()

    def binding(self, device: D) -> Binding[D, R]:
        for binding in self._bindings:
            if binding.device is device:
                return binding
        raise KeyError(device.name)

    def poke(self) -> None:
        """Look again: something a deferred probe waits for may be there now."""
        self._pokes += 1
        self._changed.set()

    async def serve(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Bind what matches, for ever; cancelling it unbinds everything."""
        async with trio.open_nursery() as nursery:
            task_status.started()
            while True:
                self._changed = trio.Event()
                for binding in self._bindings:
                    if binding.state in (BindState.UNBOUND, BindState.DEFERRED):
                        driver = self.match(binding.device)
                        if driver is not None:
                            binding.driver, binding.state, binding.error = driver, BindState.PROBING, ""
                            binding.ended, binding.scope = trio.Event(), trio.CancelScope()
                            nursery.start_soon(self._bind, binding, driver)
                await self._changed.wait()

    def match(self, device: D) -> R | None:
        """The first driver whose id table has the device."""
        for driver in self._drivers:
            if any(row.matches(device.device_id, device.vendor_id) for row in driver.id_table):
                return driver
        return None

    async def attach(self, binding: Binding[D, R], device: D, driver: R) -> None:
        """Bring the device up with this driver and serve it until cancelled.

        Sets ``binding.state`` to BOUND once it runs. Raises ProbeDeferred to be tried again at the next
        `poke`, another DriverError to be left alone. What it acquired it releases before it returns.
        """
        raise NotImplementedError

    async def _bind(self, binding: Binding[D, R], driver: R) -> None:
        assert binding.scope is not None
        after, error, pokes = BindState.UNBOUND, "", self._pokes
        try:
            with binding.scope:
                await self.attach(binding, binding.device, driver)
        except ProbeDeferred as exc:
            after, error = BindState.DEFERRED, str(exc)
        except DriverError as exc:
            after, error = BindState.FAILED, str(exc)
        finally:
            binding.state, binding.error, binding.scope = after, error, None
            binding.ended.set()
        if after is BindState.DEFERRED and pokes != self._pokes:
            self._changed.set()  # what it missed may have come while it looked

    async def _unbind(self, binding: Binding[D, R]) -> None:
        if binding.scope is not None:
            binding.scope.cancel()
        await binding.ended.wait()
        binding.state, binding.driver = BindState.UNBOUND, None
