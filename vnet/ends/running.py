"""Work on a device that is up: the demonstration of ``vnet demo`` and the exercise of tests, per device type."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Generic, TypeVar

import attrs

from vnet.ends.base import End
from vnet.spec import DeviceSpec
from vnet.traffic.kernel import Plan

__all__ = ["EXERCISE_SIZE", "Demo", "DemoSettings", "Exercise", "RunningDevice", "Sections"]

SpecT = TypeVar("SpecT", bound=DeviceSpec)
EndsT = TypeVar("EndsT", bound=tuple[End, End])

EXERCISE_SIZE = 256 << 10
"""Bytes that an exercise moves in each direction."""
Sections = Mapping[str, Sequence[Plan]]
"""Runs in order, by section."""


@attrs.frozen
class RunningDevice(Generic[SpecT, EndsT]):
    """A device of a running system, as far as programs use it."""

    system: str
    """Name of the system."""
    name: str
    """Name of the device."""
    spec: SpecT
    """The device's record in the topology."""
    hosts: tuple[str, str]
    """Names of the driver's and the device's host."""
    ends: EndsT
    """The two ends that `DeviceKind.open` has opened."""


@attrs.frozen
class DemoSettings:
    """Options of a demonstration."""

    transport: str = "pci"
    """Transport between driver and device."""
    mode: str = "direct"
    """Mode of the device: direct or mediated."""
    seconds: float = 3
    """Length of each timed run in seconds."""
    folder: Path = Path()
    """Folder for temporary files and sockets."""
    port: str = ""
    """Port at both ends, one of `Demo.ports`; empty if the type has none."""


@attrs.frozen
class Demo(Generic[SpecT, EndsT]):
    """The demonstration of a device type."""

    about: str
    """A phrase for the help text: the programs that it runs."""
    units: str
    """Name of the items that its queues carry, such as frames."""
    plan: Callable[[RunningDevice[SpecT, EndsT], DemoSettings], AbstractAsyncContextManager[Sections]]
    """Opens the runs on a device that is up, with their files and servers."""
    keys: Callable[[DemoSettings], str] = lambda settings: ""
    """Returns lines of TOML for such a device."""
    name: str = ""
    """Name of the device. Default: the type and 0."""
    ports: Sequence[str] = ()
    """Kinds of ports to choose from, if the type has some: the default first, last one that every process can use."""
    fallback: str = ""
    """A phrase for what runs on the last kind of port."""
    check_port: Callable[[str], None] = lambda port: None
    """Raises PrivilegeError if this process cannot use such a port, or lacks the programs that run on it."""

    @property
    def last_port(self) -> str:
        """Kind of port that every process can use; empty if there are no kinds to choose from."""
        return next(reversed(self.ports), "")


@attrs.frozen
class Exercise(Generic[SpecT, EndsT]):
    """The exercise of a device type: a short transfer that tests run over every transport."""

    act: Callable[[RunningDevice[SpecT, EndsT]], Awaitable[None]]
    """Moves at least `EXERCISE_SIZE` bytes. Raises AssertionError if they arrive changed."""
    keys: str = ""
    """Lines of TOML for such a device."""
    kept: bool = False
    """Whether the driver repeats requests that a link failure interrupts."""
