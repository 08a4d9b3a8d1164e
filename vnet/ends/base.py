"""The two ends of a device of any type: opened by the world, used by the drivers, read by reports."""

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
"""A side of a virtio device."""


@attrs.frozen
class Figures:
    """Counts of one queue, taken on one side."""

    packets: int
    """Number of packets, messages or requests."""
    bytes: int
    """Bytes of payload."""
    drops: Mapping[str, int]
    """Number of drops or errors by cause."""


class End(Protocol):
    """One end of a device."""

    @property
    def settings(self) -> object:
        """Argument for the driver on this side, such as `NetSettings` or `NetPlug`."""

    @property
    def live(self) -> bool:
        """Whether the end can carry data now."""

    def figures(self, queue: int) -> Figures:
        """Return the figures of the queue with this index."""

    def drops(self) -> Iterator[tuple[str, Mapping[str, int]]]:
        """Yield (place, number of drops by cause) for each counter of this end."""

    def describe(self) -> dict[str, object]:
        """Return the end as plain data, for reports."""


@attrs.frozen(eq=False)
class PlainEnd:
    """An `End` made of the traffic counters of its queues."""

    settings: object
    traffic: Sequence[Traffic]
    """Counters of each queue, by queue index."""
    ready: Callable[[], bool] = lambda: True
    """Returns whether the end can carry data now."""
    about: Callable[[], Mapping[str, object]] = dict
    """Returns more plain data for reports."""

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
    """Arguments for opening the ends of a device."""

    system: str
    """Name of the system."""
    name: str
    """Name of the device."""
    index: int
    """Index of the device in the topology."""
    spec: DeviceSpec
    """The device's record in the topology."""
    hosts: tuple[str, str]
    """Names of the driver's and the device's host."""
    poller: Poller
    """Polls the file descriptors of ports."""
    supported: int
    """All feature bits of the device type that we implement."""
    features: int
    """Feature bits that may be offered and accepted."""
    watches: Watches | None = None
    """Shared watches of network interfaces; None: each port opens its own."""


@attrs.frozen
class EndsType:
    """The ends of a device type: its record in a topology, and the functions that open and change its ends."""

    spec: type[DeviceSpec]
    """Class of the device type's record."""
    open: Callable[[OpenContext], AbstractAsyncContextManager[tuple[End, End]]]
    """Opens the driver's end and the device's end; in mediated mode, both are ends of drivers."""
    mediator: Callable[[OpenContext, tuple[str, str]], Mediator] | None = None
    """Returns a mediator between two devices, given their names, the remote one first. None if the type has none."""
    open_device: Callable[[OpenContext], AbstractAsyncContextManager[End]] | None = None
    """Opens only the device's end, for a driver in another process. None if opening both ends is harmless."""
    open_driver: Callable[[OpenContext], AbstractAsyncContextManager[End]] | None = None
    """Opens only the driver's end, for a device in another process. None if opening both ends is harmless."""
    change: Callable[[End, End, str, str], Awaitable[None]] | None = None
    """Changes a setting of a running device. Arguments: both ends, name and value. None if nothing can be changed.

    Raises LookupError for an unknown setting, ValueError "must be …" for an invalid value, DriverError.
    """
    own_config: Callable[[OpenContext], OwnConfig] | None = None
    """Returns the configuration for a vhost-user back end that has no configuration space. None if all have one."""

    @asynccontextmanager
    async def alone(self, context: OpenContext) -> AsyncIterator[End]:
        """Open the device's end for a driver in another process."""
        if self.open_device is not None:
            async with self.open_device(context) as end:
                yield end
        else:
            async with self.open(context) as (_, end):
                yield end

    @asynccontextmanager
    async def driver_alone(self, context: OpenContext) -> AsyncIterator[End]:
        """Open the driver's end for a device in another process."""
        if self.open_driver is not None:
            async with self.open_driver(context) as end:
                yield end
        else:
            async with self.open(context) as (end, _):
                yield end
