"""The shuttles of a system: C carries plain frames of network devices from port to port while Trio waits.

A shuttle gets the state of flows only if they wait for what it serves, and if all that is between the two sides would
do nothing else than to count notifications, or to write to an event.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from drivers.bus.device_queue import DeviceQueue
from drivers.bus.driver_queue import DriverQueue
from drivers.devices.net.device.device import NetPlug
from drivers.devices.net.device.flows import VhostNetFromDriver, VhostNetToDriver
from drivers.devices.net.driver.driver import NetSettings
from drivers.devices.net.driver.flows import VirtioNetReceive, VirtioNetTransmit
from drivers.devices.net.flow import NetFlow
from drivers.transports.vhost_user import VhostUserBack
from rings.errors import MemoryFault, RemoteRingError
from rings.memory import was_released
from rings.native import NATIVE
from vnet.linux.poller import Poller
from vnet.ports.packet.native.shuttle import Returned, Shuttle
from vnet.ports.packet.tuntap import TunTapPort
from vnet.system.device import Device
from vnet.system.route import Route, find_doorbells, find_route

if TYPE_CHECKING or NATIVE:
    from vnet.ports.packet.native import _shuttles

__all__ = ["Shuttles"]

REST_MAX = 8
"""Maximum events that Python handles before a shuttle is tried again that carried little."""
VAIN_MAX = 64
"""Successive waits that Python's events end and that carry little, before a moderating poller does without shuttles."""
WORTH = 16
"""Frames for which it is worth the time to lend a shuttle its state."""


DriverFlows = tuple[VirtioNetTransmit, VirtioNetReceive]
DeviceFlows = tuple[VhostNetFromDriver, VhostNetToDriver]


class _PairShuttle:
    """The shuttle of one direction of a queue pair, or of its side that is in this process."""

    def __init__(
        self,
        settings: NetSettings | None,
        plug: NetPlug | None,
        pair: int,
        to_device: bool,
        lent: list[_PairShuttle],
    ) -> None:
        """``settings`` or ``plug`` is None if that side is in another process.

        Appends itself to ``lent`` when it lends the flows' state.
        """
        self._settings, self._plug, self._pair, self._to_device = settings, plug, pair, to_device
        self._lent = lent
        self._last_rest = self._rest = 0
        self._driver: DriverQueue | None = None
        self._device: DeviceQueue | None = None
        self._route: Route | None = None
        self._reader: NetFlow[Any] | None = None
        self._needs_buffers = False  # whether the flow that reads waits for buffers, not for a frame
        self.shuttle = Shuttle(self._offer)

    def _offer(self) -> None:
        """Lend C the state of the flows, if that is possible now."""
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

    def _flows(self) -> tuple[DriverFlows | None, DeviceFlows | None]:
        """Return the flows of the driver's and of the device's side; None for a side that is not here, or not up."""
        driver = None if self._settings is None else self._settings.bound
        device = None if self._plug is None else self._plug.bound
        near = None if driver is None else driver.flows(self._pair)
        far = None if device is None else device.flows(self._pair)
        return near, far

    def _lend(self) -> None:
        near, far = self._flows()
        if (self._settings is not None and near is None) or (self._plug is not None and far is None):
            return
        transmit, receive = near or (None, None)
        from_driver, to_driver = far or (None, None)
        if self._to_device:
            doorbell = self._connect(transmit, from_driver)
            if doorbell is not None:
                self.shuttle.lend_to_device(transmit, from_driver, doorbell)
        else:
            doorbell = self._connect(to_driver, receive)
            if doorbell is not None:
                self.shuttle.lend_to_driver(to_driver, receive, doorbell)

    def _connect(self, reader: NetFlow[Any] | None, writer: NetFlow[Any] | None) -> int | None:
        """Return the event by which C notifies the other side, -1 without one.

        Returns None unless all flows here wait, and nothing but notifications is between both sides.
        """
        if not all(flow.queue.live for flow in (reader, writer) if flow is not None):
            return None
        if writer is not None and not writer.queue.signal.serves:
            return None
        self._reader, self._needs_buffers = reader, False
        if reader is not None and not (isinstance(reader.port, TunTapPort) and reader.port.serves):
            self._needs_buffers = writer is None and reader.queue.signal.serves
            if not self._needs_buffers:
                return None
        near, far = (reader, writer) if self._to_device else (writer, reader)
        self._driver = driver = None if near is None else near.queue
        self._device = device = None if far is None else far.queue
        if driver is not None and driver.reporter.events.rings is not None:
            return None
        if device is not None and device.device.reporter.events.rings is not None:
            return None
        if driver is not None and device is not None:
            self._route = find_route(driver, device)
            return None if self._route is None else -1
        self._route = None
        events = find_doorbells(driver, device)
        return None if events is None else events[driver is None]

    def port(self) -> int:
        """Return the descriptor of the port whose frames the shuttle reads; -1 if that is in another process."""
        sender: NetSettings | NetPlug | None = self._settings if self._to_device else self._plug
        port: object = None if sender is None else sender.port.queues[self._pair]
        return port.fileno() if isinstance(port, TunTapPort) else -1

    def event(self) -> int:
        """Return the descriptor of the event by which the other process notifies the side here; -1 without one."""
        near, far = self._flows()
        if near is not None and far is not None:
            return -1
        driver = None if near is None else near[not self._to_device].queue
        device = None if far is None else far[not self._to_device].queue
        events = find_doorbells(driver, device)
        return -1 if events is None else events[driver is not None]

    def take_back(self) -> tuple[Returned, list[Callable[[], object]]]:
        """Take the state back. Also returns the functions that let those flows go on that have to."""
        driver, device = self._driver, self._device
        back = self.shuttle.take_back()
        if device is not None:
            device.kicks += back.kicks
        if driver is not None:
            driver.calls += back.calls
        reader, writer = (driver, device) if self._to_device else (device, driver)
        if self._route is not None:
            self._route.count(back.kicks, back.calls)
            assert reader is not None
            if back.calls if self._to_device else back.kicks:
                reader.signal.set()  # its flow waits for the port: this ends its next wait for the ring
        if back.stopped:
            self._last_rest = self._rest = 0 if back.frames >= WORTH else min(2 * self._last_rest + 1, REST_MAX)
        going_on: list[Callable[[], object]] = []
        if back.writer and writer is not None:
            going_on.append(writer.signal.set)
        if self._needs_buffers and reader is not None:
            going_on.append(reader.signal.set)
        elif back.starved and self._reader is not None and isinstance(self._reader.port, TunTapPort):
            going_on.append(self._reader.port.arrive)
        return back, going_on


class Shuttles:
    """The shuttles of a system's network devices; implements `vnet.linux.poller.Carrier`."""

    def __init__(self, poller: Poller) -> None:
        """They work while ``poller`` waits."""
        self._poller = poller
        self._table = _shuttles.new_table()
        self._by_device: dict[str, list[_PairShuttle]] = {}
        self._by_fd: dict[int, _PairShuttle] = {}
        """Shuttles by the descriptor whose events they serve."""
        self._lent: list[_PairShuttle] = []
        self.carried = 0
        """Frames carried so far."""
        self._vain = 0

    def add(self, device: Device) -> None:
        """Add the shuttles of a network device, for its ends that are interfaces of this process.

        Over vhost-user the two sides notify each other by events, and each has shuttles of its own.
        """
        settings, plug = device.driver_end.settings, device.device_end.settings
        near = settings if isinstance(settings, NetSettings) and isinstance(settings.port, TunTapPort) else None
        far = plug if isinstance(plug, NetPlug) and isinstance(plug.port, TunTapPort) else None
        if isinstance(device.back, VhostUserBack) or (device.back is None and device.spec.link is None):
            added = [*_shuttles_of(near, None, self._lent), *_shuttles_of(None, far, self._lent)]
        else:
            added = list(_shuttles_of(near, far, self._lent)) if near is not None and far is not None else []
        if added:
            self._by_device[device.name] = added
            for each in added:
                self._set(each.port(), each)
            self._poller.carry(self)

    def remove(self, device: str) -> None:
        """Remove the shuttles of a device, if it has any."""
        removed = self._by_device.pop(device, ())
        for fd in [fd for fd, each in self._by_fd.items() if each in removed]:
            self.forget(fd)
        if not self._by_device:
            self._poller.carry(None)

    @property
    def worthwhile(self) -> bool:
        return self._vain < VAIN_MAX

    def forget(self, fd: int) -> None:
        if self._by_fd.pop(fd, None) is not None:
            self._vain = 0  # the next ring may be another driver's
            _shuttles.set_shuttle(self._table, fd, None)

    def _set(self, fd: int, shuttle: _PairShuttle) -> None:
        """Let a shuttle serve the events of ``fd``, unless that is too large a number or none."""
        if _shuttles.set_shuttle(self._table, fd, shuttle.shuttle.handle):
            self._by_fd[fd] = shuttle

    def wait(self, epoll: int, stop: int, seconds: float) -> list[int]:
        fds: list[int] = []
        before = self.carried
        try:
            fds = _shuttles.wait(epoll, stop, seconds, self._table)
            return fds
        finally:
            if self._lent:
                lent, self._lent[:] = self._lent[:], []
                for back, going_on in [each.take_back() for each in lent]:
                    self.carried += back.frames
                    for go_on in going_on:
                        go_on()
            if self.carried - before >= WORTH:
                self._vain = 0
            elif any(fd in self._by_fd for fd in fds):
                self._vain += 1
            for fd in fds:
                if fd != stop and fd not in self._by_fd:
                    self._adopt(fd)

    def _adopt(self, fd: int) -> None:
        """Let the shuttle whose ring was notified by ``fd`` serve its next events: rings begin and end at any time."""
        for shuttles in self._by_device.values():
            for each in shuttles:
                if each.event() == fd:
                    self._set(fd, each)


def _shuttles_of(
    settings: NetSettings | None, plug: NetPlug | None, lent: list[_PairShuttle]
) -> Iterator[_PairShuttle]:
    """Yield the shuttles of the sides that are given."""
    side = settings or plug
    for pair in range(0 if side is None else len(side.port.queues)):
        for to_device in (True, False):
            yield _PairShuttle(settings, plug, pair, to_device, lent)
