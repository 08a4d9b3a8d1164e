"""Waits until the devices of a system carry data. Nothing is polled: each change of a device is announced."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial

import attrs
import trio

from drivers.contracts.events import Event, Topic
from drivers.errors import ProbeError
from vnet.system.device import Device
from vnet.system.events import EventHub

__all__ = ["Readiness"]


@attrs.define(eq=False)
class _Wait:
    """The devices that have changed since a waiting task looked at them last."""

    names: set[str]
    changed: trio.Event = attrs.field(factory=trio.Event)

    def add(self, name: str) -> None:
        self.names.add(name)
        self.changed.set()

    def take_event(self, event: Event) -> None:
        self.add(event.source.device)

    def take(self) -> set[str]:
        names, self.names, self.changed = self.names, set(), trio.Event()
        return names


class Readiness:
    """Announces changes of a system's devices to tasks that wait for them."""

    def __init__(self, events: EventHub, devices: Mapping[str, Device]) -> None:
        self._events = events
        self._devices = devices
        self._waits: list[_Wait] = []

    def follow(self, device: Device) -> None:
        """Have both ends of ``device``, and its own side, announce their changes. Its buses do so by events."""
        changed = partial(self._announce, device.name)
        device.driver_end.watch(changed)
        device.device_end.watch(changed)
        if device.back is not None:
            device.vhost.liveness.watch(changed)

    def leave(self, device: Device) -> None:
        """Announce that ``device`` has left the system."""
        self._announce(device.name)

    def _announce(self, name: str) -> None:
        for wait in self._waits:
            wait.add(name)

    async def wait_up(self, timeout: float, names: Iterable[str] | None = None) -> None:
        """Return when all devices, or those with ``names``, are up whose driver is in this process.

        A device has ``timeout`` seconds from the first change of its state. One that leaves the system is not waited
        for.

        Raises ProbeError if a device failed, or is not up in time.
        """
        wait = _Wait(set(self._devices if names is None else names))
        self._waits.append(wait)
        try:
            with self._events.listen(wait.take_event, [Topic.LIFECYCLE]):
                await self._wait(wait, timeout)
        finally:
            self._waits.remove(wait)

    async def _wait(self, wait: _Wait, timeout: float) -> None:
        chosen = set(wait.names)
        deadlines = dict.fromkeys(chosen, trio.current_time() + timeout)
        waiting = set(chosen)
        """Devices that have not changed since the wait began."""
        down = {name: device for name, device in self._devices.items() if name in chosen}
        while True:
            for name in wait.take() & down.keys():
                if self._is_done(down[name]):
                    del down[name]
                elif down[name].failed:
                    raise ProbeError(f"{name}: {down[name].trouble()}")
            if not down:
                down = {
                    name: device
                    for name, device in self._devices.items()
                    if name in chosen and not self._is_done(device)
                }
                if not down:
                    return
                wait.names.update(down)  # these went down again meanwhile
                continue
            due = min(down, key=deadlines.__getitem__)
            with trio.move_on_at(deadlines[due]) as scope:
                await wait.changed.wait()
            if scope.cancelled_caught:
                raise ProbeError(f"{due} is not up after {timeout:g} s: {down[due].trouble()}")
            for name in wait.names & waiting:
                deadlines[name] = trio.current_time() + timeout
            waiting -= wait.names

    def _is_done(self, device: Device) -> bool:
        """Return whether nothing is left to wait for."""
        return self._devices.get(device.name) is not device or device.up or device.waits
