"""Buses: devices on one side, drivers on the other, matched by id tables and bound for a while.

Either side may come first. A bus belongs to a host and serves until it is cancelled; nothing is global.

Several tasks may unbind, rebind, and remove the same device at the same time. They only request it: one task at a time
serves a binding, it alone changes the binding's state while it runs, and each requester waits for the end of that task.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Generic, Protocol, TypeVar

import attrs
import trio

from drivers.errors import DriverError, ProbeDeferred
from rings.ids import ANY_ID

__all__ = ["Binding", "BindState", "Bus", "BusDevice", "BusDriver", "MatchId", "require"]


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


def require(found: F | None, device: BusDevice, missing: str) -> F:
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
        self._leaving: list[Binding[D, R]] = []
        """Bindings that were removed while a driver had the device, which is not bound again before that ends."""
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
        """Remove the driver from the devices it has; they stay, unbound. Raises KeyError for one that is not there."""
        if driver not in self._drivers:
            raise KeyError(driver.name)
        self._drivers.remove(driver)
        for ended in [self._release(binding) for binding in self._bindings if binding.driver is driver]:
            await ended.wait()

    def register_device(self, device: D) -> None:
        """Raises ValueError for one that is on the bus already."""
        if any(binding.device is device for binding in self._bindings):
            raise ValueError(f"{device.name} is on the bus already")
        if not device.name:
            taken = {b.device.name for b in self._bindings}
            device.name = next(n for i in range(len(taken) + 1) if (n := f"{self.prefix}{i}") not in taken)
        binding: Binding[D, R] = Binding(device)
        binding.ended.set()
        self._bindings.append(binding)
        self.poke()

    async def unregister_device(self, device: D) -> None:
        """Unbind and forget it. Raises KeyError for one that is not on the bus."""
        self.binding(device)
        await self.discard_device(device)

    async def discard_device(self, device: D) -> None:
        """Unbind and forget it if it is on the bus; return once no driver has it, whichever task removed it."""
        for binding in self._bindings:
            if binding.device is device:
                self._bindings.remove(binding)
                self._leaving.append(binding)
                self._release(binding)
                break
        for binding in tuple(self._leaving):
            if binding.device is device:
                await binding.ended.wait()

    def renew_device(self, device: D) -> None:
        """Register it if it is not on the bus; have it matched anew if its last probe failed."""
        found = next((binding for binding in self._bindings if binding.device is device), None)
        if found is None:
            self.register_device(device)
        elif found.state is BindState.FAILED:
            self._release(found)

    async def rebind(self, device: D) -> None:
        """Remove the driver from the device, also from one whose probe failed, and have it matched anew."""
        await self._release(self.binding(device)).wait()

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
                    if binding.state in (BindState.UNBOUND, BindState.DEFERRED) and not self._leaves(binding.device):
                        driver = self.match(binding.device)
                        if driver is not None:
                            binding.driver, binding.state, binding.error = driver, BindState.PROBING, ""
                            binding.ended, binding.scope = trio.Event(), trio.CancelScope()
                            nursery.start_soon(self._bind, binding, driver, binding.scope)
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

    def _leaves(self, device: D) -> bool:
        return any(binding.device is device for binding in self._leaving)

    async def _bind(self, binding: Binding[D, R], driver: R, scope: trio.CancelScope) -> None:
        after, error, pokes = BindState.UNBOUND, "", self._pokes
        try:
            with scope:
                await self.attach(binding, binding.device, driver)
        except ProbeDeferred as exc:
            after, error = BindState.DEFERRED, str(exc)
        except DriverError as exc:
            after, error = BindState.FAILED, str(exc)
        finally:
            if scope.cancel_called:
                self._free(binding)
            else:
                binding.state, binding.error = after, error
            binding.scope = None
            binding.ended.set()
        if after is BindState.DEFERRED and pokes != self._pokes:
            self._changed.set()  # what it missed may have come while it looked

    def _release(self, binding: Binding[D, R]) -> trio.Event:
        """Request that no driver has the device, and that it is matched anew; the event is set once that is so."""
        if binding.scope is not None:
            binding.scope.cancel()
        else:
            self._free(binding)
        return binding.ended

    def _free(self, binding: Binding[D, R]) -> None:
        binding.state, binding.driver, binding.error = BindState.UNBOUND, None, ""
        if binding in self._leaving:
            self._leaving.remove(binding)
        self.poke()
