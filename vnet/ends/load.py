"""Loads: traffic on a running device that checks each byte, for simulations. A device type names its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from random import Random
from typing import Generic, TypeVar

import attrs

from vnet.ends.base import End
from vnet.ends.running import RunningDevice
from vnet.spec import DeviceSpec

__all__ = ["Figures", "Load", "LoadError", "Loads", "OpenLoads", "Streams"]

SpecT = TypeVar("SpecT", bound=DeviceSpec)
EndsT = TypeVar("EndsT", bound=tuple[End, End])
Streams = Callable[[str], Random]
"""Returns the random numbers of one purpose, which no other purpose draws from."""


class LoadError(Exception):
    """A load found wrong data, or data that never arrived; the message says where and which."""


@attrs.define
class Figures:
    """Counters of a load."""

    rounds: int = 0
    bytes: int = 0
    """Bytes that arrived and were compared."""
    lost: int = 0
    """Frames or messages that did not arrive: devices of this type may lose some with a link."""
    retries: int = 0
    """Repetitions by the load itself, as a program would repeat."""


class Load(ABC):
    """One kind of traffic on one device, a round after the other."""

    def __init__(self, name: str, device: str) -> None:
        """``device`` is the name of the device."""
        self.name = name
        self.device = device
        self.figures = Figures()

    @abstractmethod
    async def round(self) -> None:
        """Move some data, compare them, and count. Raises LoadError, alone or in a group."""

    @abstractmethod
    async def finish(self) -> None:
        """Do a last round on a device without faults, in which nothing may be lost. Raises LoadError."""

    async def round_without_loss(self, items: str) -> None:
        """Do a round in which nothing is lost or repeated; ``items`` names what moves. Raises LoadError."""
        before = self.figures.lost, self.figures.retries
        await self.round()
        if (self.figures.lost, self.figures.retries) != before:
            raise self.error(f"{items} are lost without a fault")

    def error(self, what: str) -> LoadError:
        """Return an error of this load."""
        return LoadError(f"{self.name} on {self.device}: {what}")


OpenLoads = Callable[[RunningDevice[SpecT, EndsT], Sequence[str], Streams], AbstractAsyncContextManager[Sequence[Load]]]
"""Opens the loads with these names on a device that is up."""


@attrs.frozen
class Loads(Generic[SpecT, EndsT]):
    """The loads of a device type."""

    names: Sequence[str]
    open: OpenLoads[SpecT, EndsT]
    keys: str = ""
    """Lines of TOML for a small device with ports and stores in memory."""
