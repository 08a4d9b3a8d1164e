"""The running system, as the tree looks at it and changes it."""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Collection, Mapping
from typing import Any, Protocol

from drivers.errors import DriverError, RpmsgError
from vnet.configfs.values import TreeError
from vnet.ends.rpmsg import ChannelSpec
from vnet.errors import ConfigError, ControlError, PrivilegeError
from vnet.topology import Topology

__all__ = ["ChannelHost", "System", "applied"]


class ChannelHost(Protocol):
    """The device's end of an rpmsg device."""

    async def open_channel(self, spec: ChannelSpec) -> int:
        """Open a channel, and return its address. Raises RpmsgError, OSError."""

    def close_channel(self, addr: int) -> None:
        """Close the channel with this address; do nothing if there is none."""


class System(Protocol):
    """A running system."""

    @property
    def topology(self) -> Topology:
        """All parts that the system has now."""

    async def add(self, part: Topology) -> None:
        """Add all parts of ``part``, or none.

        Raises ConfigError, ControlError, PrivilegeError, DriverError, OSError.
        """

    async def remove(self, name: str) -> None:
        """Remove a part and what it carries; ``name`` begins with its table and a dot. Raises as `add` does."""

    def is_started(self, link: str) -> bool:
        """Return whether the endpoint controller of a link is started; False for a link that is gone."""

    async def start(self, link: str) -> None:
        """Start the endpoint controller of a link."""

    async def stop(self, link: str) -> None:
        """Stop the endpoint controller of a link: its host sees that the endpoint is gone."""

    @property
    def devices(self) -> Collection[str]:
        """Names of the devices that can be looked at."""

    @property
    def ntbs(self) -> Collection[str]:
        """Names of the NTBs that can be looked at."""

    def device(self, name: str) -> Mapping[str, Any]:
        """Return a look at a device as plain data."""

    def ntb(self, name: str) -> Mapping[str, Any]:
        """Return a look at an NTB as plain data."""

    def channels(self, device: str) -> ChannelHost | None:
        """Return the end of an rpmsg device that can open channels; None for other devices."""


async def applied(operation: Awaitable[None]) -> None:
    """Wait for an operation of the system. Raises TreeError with the number that belongs to its error."""
    try:
        await operation
    except ConfigError as exc:
        raise TreeError(errno.EINVAL, ": ".join(filter(None, (exc.path, exc.why)))) from None
    except ControlError as exc:
        raise TreeError(errno.EINVAL, str(exc)) from None
    except PrivilegeError as exc:
        raise TreeError(errno.EPERM, str(exc)) from None
    except RpmsgError as exc:
        raise TreeError(errno.EINVAL, str(exc)) from None
    except DriverError as exc:
        raise TreeError(errno.EIO, str(exc)) from None
    except OSError as exc:
        raise TreeError(exc.errno or errno.EIO, exc.strerror or str(exc)) from None
