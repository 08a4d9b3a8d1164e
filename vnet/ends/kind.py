"""The record of a device type: everything that topologies and commands know of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Generic, TypeVar

import attrs

from drivers.carriers.vhost_user import OwnConfig
from drivers.mediator import Mediator
from drivers.virtio_type import VirtioType
from vnet.ends.base import End, OpenContext, SideName
from vnet.ends.load import Loads
from vnet.ends.running import Demo, Exercise
from vnet.ends.serve import Serve
from vnet.ends.settings import Setting
from vnet.spec import DeviceSpec

__all__ = ["DeviceKind"]

SpecT = TypeVar("SpecT", bound=DeviceSpec)
EndsT = TypeVar("EndsT", bound=tuple[End, End])


@attrs.frozen(eq=False)
class DeviceKind(Generic[SpecT, EndsT]):
    """A device type of vnet: one of virtio, with its ends. Only the ends and the record in a topology are required."""

    spec: type[SpecT]
    """Class of its record in a topology, which names the virtio device type with its two drivers."""
    open: Callable[[OpenContext[SpecT]], AbstractAsyncContextManager[EndsT]]
    """Opens the driver's end and the device's end; in mediated mode, both are ends of drivers."""
    open_driver: Callable[[OpenContext[SpecT]], AbstractAsyncContextManager[End]] | None = None
    """Opens only the driver's end, for a device in another process. None if opening both ends is harmless."""
    open_device: Callable[[OpenContext[SpecT]], AbstractAsyncContextManager[End]] | None = None
    """Opens only the device's end, for a driver in another process. None if opening both ends is harmless."""
    mediator: Callable[[OpenContext[SpecT], tuple[str, str]], Mediator] | None = None
    """Returns a mediator between two devices, given their names, the remote one first. None if the type has none."""
    own_config: Callable[[OpenContext[SpecT]], OwnConfig] | None = None
    """Returns the configuration for a vhost-user back end that has no configuration space. None if all have one."""
    settings: Mapping[str, Setting[SpecT]] = attrs.field(factory=dict)
    """Settings that ``vnet set`` changes, by name."""
    serve: Serve[SpecT] = attrs.field(factory=Serve)
    """Options of ``vnet serve``."""
    demo: Demo[SpecT, EndsT] | None = None
    """Demonstration of ``vnet demo``; None if the type has none."""
    exercise: Exercise[SpecT, EndsT] | None = None
    """Exercise for tests, see `vnet.testing.exercises`; None if the type has none."""
    loads: Loads[SpecT, EndsT] | None = None
    """Loads for simulations, see `vnet.sim`; None if the type has none."""

    @property
    def virtio(self) -> VirtioType[Any, Any]:
        """The virtio device type: its id, its features and its two drivers."""
        return self.spec.virtio

    @asynccontextmanager
    async def open_alone(self, side: SideName, context: OpenContext[SpecT]) -> AsyncIterator[End]:
        """Open the end of one side, for a device whose other side is in another process."""
        alone = self.open_driver if side == "driver" else self.open_device
        if alone is not None:
            async with alone(context) as end:
                yield end
        else:
            async with self.open(context) as (driver, device):
                yield driver if side == "driver" else device
