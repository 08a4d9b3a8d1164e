"""The shuttles of a system: C carries plain frames of network devices from port to port while Trio waits.

A shuttle gets the state of two flows only if both wait for what it serves, and if all that is between them would do
nothing else than to count notifications.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from drivers.bus.device_queue import DeviceQueue
from drivers.bus.driver_queue import DriverQueue
from drivers.devices.net.device.device import NetPlug
from drivers.devices.net.driver.driver import NetSettings
from rings.errors import MemoryFault, RemoteRingError
from rings.memory import was_released
from rings.native import NATIVE
from vnet.linux.poller import Poller
from vnet.ports.packet.native.shuttle import Returned, Shuttle
from vnet.ports.packet.tuntap import TunTapPort
from vnet.system.device import Device
from vnet.system.route import Route, find_route

if TYPE_CHECKING or NATIVE:
    from vnet.ports.packet.native import _shuttles

__all__ = ["Shuttles"]

REST_MAX = 8
"""Maximum events that Python handles before a shuttle is tried again that carried little."""
WORTH = 16
"""Frames for which it is worth the time to lend a shuttle its state."""


class _PairShuttle:
    """The shuttle of one direction of a queue pair."""

    def __init__(
        self, settings: NetSettings, plug: NetPlug, pair: int, to_device: bool, lent: list[_PairShuttle]
    ) -> None:
        """Appends itself to ``lent`` when it lends the flows' state."""
        self._settings, self._plug, self._pair, self._to_device = settings, plug, pair, to_device
        self._lent = lent
        self._last_rest = self._rest = 0
        self._between: tuple[DriverQueue, DeviceQueue, Route] | None = None
        self.shuttle = Shuttle(self._offer)

    def _offer(self) -> None:
        """Lend C the state of both flows, if that is possible now."""
        if self._rest:
            self._rest -= 1
            return
        try:
            self._lend()
        except (RemoteRingError, MemoryFault):
            pass  # the flow meets it again
        except ValueError as error:
            if not was_released(error):
                raise
        if self.shuttle.lent:
            self._lent.append(self)

    def _lend(self) -> None:
        driver, device = self._settings.bound, self._plug.bound
        near = None if driver is None else driver.flows(self._pair)
        far = None if device is None else device.flows(self._pair)
        if near is None or far is None:
            return
        transmit, receive = near
        from_driver, to_driver = far
        if self._to_device:
            if self._connect(transmit.queue, from_driver.queue, transmit.port, from_driver.queue.signal.serves):
                self.shuttle.lend_to_device(transmit, from_driver)
        elif self._connect(receive.queue, to_driver.queue, to_driver.port, receive.queue.signal.serves):
            self.shuttle.lend_to_driver(to_driver, receive)

    def _connect(self, driver: DriverQueue, device: DeviceQueue, source: object, writer_waits: bool) -> bool:
        """Return whether both flows wait, and the way between them only counts."""
        if not writer_waits or not isinstance(source, TunTapPort) or not source.serves:
            return False
        if driver.reporter.events.rings is not None or device.device.reporter.events.rings is not None:
            return False
        route = find_route(driver, device)
        self._between = None if route is None else (driver, device, route)
        return route is not None

    def take_back(self) -> tuple[Returned, Callable[[], object] | None]:
        """Take the state back. Also returns the function that lets the flow that writes go on, if it has to."""
        assert self._between is not None
        driver, device, route = self._between
        back = self.shuttle.take_back()
        device.kicks += back.kicks
        driver.calls += back.calls
        route.count(back.kicks, back.calls)
        reader, writer = (driver, device) if self._to_device else (device, driver)
        if back.calls if self._to_device else back.kicks:
            reader.signal.set()  # its flow waits for the port: this ends its next wait for the ring
        if back.stopped:
            self._last_rest = self._rest = 0 if back.frames >= WORTH else min(2 * self._last_rest + 1, REST_MAX)
        return back, writer.signal.set if back.writer else None


class Shuttles:
    """The shuttles of a system's network devices; implements `vnet.linux.poller.Carrier`."""

    def __init__(self, poller: Poller) -> None:
        """They work while ``poller`` waits."""
        self._poller = poller
        self._table = _shuttles.new_table()
        self._by_device: dict[str, list[tuple[int, _PairShuttle]]] = {}
        """Shuttles by the name of their device, each with the descriptor that it reads."""
        self._lent: list[_PairShuttle] = []
        self.carried = 0
        """Frames carried so far."""

    def add(self, device: Device) -> None:
        """Add the shuttles of a network device whose two ends are interfaces of this process; else do nothing."""
        settings, plug = device.driver_end.settings, device.device_end.settings
        if not isinstance(settings, NetSettings) or not isinstance(plug, NetPlug):
            return
        if not isinstance(settings.port, TunTapPort) or not isinstance(plug.port, TunTapPort):
            return
        added: list[tuple[int, _PairShuttle]] = []
        for to_device, port in ((True, settings.port), (False, plug.port)):
            for pair, queue in enumerate(port.queues):
                each = _PairShuttle(settings, plug, pair, to_device, self._lent)
                if _shuttles.set_shuttle(self._table, queue.fileno(), each.shuttle.handle):
                    added.append((queue.fileno(), each))
        self._by_device[device.name] = added
        self._poller.carry(self)

    def remove(self, device: str) -> None:
        """Remove the shuttles of a device, if it has any."""
        for fd, _ in self._by_device.pop(device, ()):
            _shuttles.set_shuttle(self._table, fd, None)
        if not self._by_device:
            self._poller.carry(None)

    def wait(self, epoll: int, stop: int, seconds: float) -> list[int]:
        try:
            return _shuttles.wait(epoll, stop, seconds, self._table)
        finally:
            if self._lent:
                lent, self._lent[:] = self._lent[:], []
                for back, go_on in [each.take_back() for each in lent]:
                    self.carried += back.frames
                    if go_on is not None:
                        go_on()
