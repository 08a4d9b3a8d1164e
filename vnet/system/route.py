"""The way of a queue's notifications between two sides in this process, if counting them is all that is left to do."""

from __future__ import annotations

from functools import partial

import attrs

from drivers.bus.device_queue import DeviceQueue
from drivers.bus.driver_queue import DriverQueue
from drivers.contracts.ipc import Handle
from drivers.transports.pci.back import VirtioEpf
from drivers.transports.vhost_user import VhostUserBack
from vnet.link.base import Counting, Direction
from vnet.linux.ipc import FileHandle
from vnet.pcie.epc import EndpointController
from vnet.pcie.function_handle import PciFunctionHandle
from vnet.pcie.interrupts import Interrupts

__all__ = ["Route", "find_doorbells", "find_route"]


@attrs.frozen
class Route:
    """The link that carries the doorbells and interrupts of a queue, and the interrupts of the driver's host."""

    link: Counting
    interrupts: Interrupts

    def count(self, kicks: int, calls: int) -> None:
        """Count doorbells and interrupts as if the link had carried them."""
        self.link.count_writes(Direction.DOWNSTREAM, kicks)
        self.link.count_writes(Direction.UPSTREAM, calls)
        self.interrupts.delivered += calls


def find_doorbells(driver: DriverQueue | None, device: DeviceQueue | None) -> tuple[int, int] | None:
    """Return the descriptors of the events by which a queue's driver kicks and its device calls, over vhost-user.

    One of both sides is given. Returns None if there are no such events.
    """
    events: tuple[Handle, Handle] | None = None
    if driver is not None:
        events = driver.doorbells
    elif device is not None and isinstance(device.device.ops, VhostUserBack):
        events = device.device.ops.doorbells(device)
    if events is None or not all(isinstance(event, FileHandle) for event in events):
        return None
    kick, call = (event.fileno() for event in events if isinstance(event, FileHandle))
    return kick, call


def find_route(driver: DriverQueue, device: DeviceQueue) -> Route | None:
    """Return the route of a queue's notifications, followed from both sides as a write would be; else None.

    A doorbell of ``driver`` must kick ``device``, and an interrupt of that must call ``driver``, over a link that does
    nothing but pass writes on.
    """
    kick, back = driver.kick, device.device.ops
    handle = getattr(kick.func, "__self__", None) if isinstance(kick, partial) else None
    if not isinstance(kick, partial) or not isinstance(handle, PciFunctionHandle) or not isinstance(back, VirtioEpf):
        return None
    bar, offset, size, _ = kick.args
    way = handle.bar_route(bar, offset, size)
    link = None if way is None else way[0].direct()
    if way is None or link is None:
        return None
    root, endpoint = link.ends()
    if not isinstance(endpoint, EndpointController):
        return None
    block, message = endpoint.block_at(way[1], size), endpoint.message_of(*back.interrupt_of(device))
    if block is None or back.queue_at(*block) is not device or message is None:
        return None
    interrupts = handle.interrupts
    return Route(link, interrupts) if interrupts.handler(root, message) == driver.on_call else None
