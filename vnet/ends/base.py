"""What is at the two ends of a device, whatever its type: the world opens it, the drivers use it, reports read it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Literal, Protocol

import attrs

from drivers.carriers.vhost_user import OwnConfig
from drivers.flow.figures import Traffic
from drivers.mediator import Mediator
from vnet.linux.poller import Poller
from vnet.ports.packet.interface_watch import Watches
from vnet.spec import DeviceSpec

__all__ = ["End", "EndsType", "Figures", "OpenContext", "PlainEnd", "Side"]

Side = Literal["driver", "device"]


@attrs.frozen
class Figures:
    """What one queue carried, as one side counts it."""

    packets: int
    """Packets, messages or requests."""
    bytes: int
    """Payload."""
    drops: Mapping[str, int]


class End(Protocol):
    """One end of a device."""

    @property
    def settings(self) -> object:
        """What this side's driver is given."""

    @property
    def live(self) -> bool:
        """Whether it is ready to carry something."""

    def figures(self, queue: int) -> Figures:
        """Of the queue with this index."""

    def drops(self) -> Iterator[tuple[str, Mapping[str, int]]]:
        """(where, causes) of everything this end lost."""

    def describe(self) -> dict[str, object]:
        """Plain data."""


@attrs.frozen(eq=False)
class PlainEnd:
    """An `End` for a device type that has nothing more to say of it than what its queues carried."""

    settings: object
    traffic: Sequence[Traffic]
    """By queue."""
    ready: Callable[[], bool] = lambda: True
    about: Callable[[], Mapping[str, object]] = dict
    """What reports show besides the figures."""

    @property
    def live(self) -> bool:
        return self.ready()

    def figures(self, queue: int) -> Figures:
        traffic = self.traffic[queue]
        return Figures(traffic.packets, traffic.bytes, dict(traffic.drops))

    def drops(self) -> Iterator[tuple[str, Mapping[str, int]]]:
        for index, traffic in enumerate(self.traffic):
            yield f"queue {index}", traffic.drops

    def describe(self) -> dict[str, object]:
        return {"kind": "api", "live": self.live, **self.about()}


@attrs.frozen
class OpenContext:
    """What an end has to know of the system it belongs to."""

    system: str
    name: str
    """The device's."""
    index: int
    """The device's place in the topology."""
    spec: DeviceSpec
    hosts: tuple[str, str]
    """Names of the driver's and of the device's host."""
    poller: Poller
    """Watches the ports that can be watched."""
    supported: int
    """Every feature bit of the device's type."""
    features: int
    """Those that may be used."""
    watches: Watches | None = None
    """Follow the interfaces of ports; None has each port follow its own."""


@attrs.frozen
class EndsType:
    """How a device type is described in a topology, and how its ends are opened."""

    spec: type[DeviceSpec]
    open: Callable[[OpenContext], AbstractAsyncContextManager[tuple[End, End]]]
    """In mediated mode the second end is that of the endpoint's own driver."""
    mediator: Callable[[OpenContext, tuple[str, str]], Mediator] | None = None
    """Joins the two devices of these names, facing the other host and its own; None where nothing can be mediated."""
    open_device: Callable[[OpenContext], AbstractAsyncContextManager[End]] | None = None
    """The device's end alone, for a driver that is somebody else's; None where opening both does no harm."""
    open_driver: Callable[[OpenContext], AbstractAsyncContextManager[End]] | None = None
    """The driver's end alone, for a device that is somebody else's; None likewise."""
    change: Callable[[End, End, str, str], Awaitable[None]] | None = None
    """Changes a setting of a running device, given as its two ends, a name and a value; None where nothing can be.

    Raises LookupError, ValueError with what the value has to be, DriverError.
    """
    own_config: Callable[[OpenContext], OwnConfig] | None = None
    """What a topology says of a device that is somebody else's and has no configuration space; None: there is none."""

    @asynccontextmanager
    async def alone(self, context: OpenContext) -> AsyncIterator[End]:
        """The device's end, for a driver that is somebody else's."""
        if self.open_device is not None:
            async with self.open_device(context) as end:
                yield end
        else:
            async with self.open(context) as (_, end):
                yield end

    @asynccontextmanager
    async def driver_alone(self, context: OpenContext) -> AsyncIterator[End]:
        """The driver's end, for a device that is somebody else's."""
        if self.open_driver is not None:
            async with self.open_driver(context) as end:
                yield end
        else:
            async with self.open(context) as (end, _):
                yield end
