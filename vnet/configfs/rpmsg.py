"""The directory rpmsg: channels, and the rpmsg devices on which links open them."""

from __future__ import annotations

import errno

import attrs

from vnet.configfs.nodes import Directory, Kind
from vnet.configfs.operations import System, applied
from vnet.configfs.settings import Settings, settings_kind
from vnet.configfs.values import TreeError
from vnet.ends.rpmsg import ChannelSpec, surface_problem
from vnet.topology.reference import keys_of
from vnet.topology.structure import structure

__all__ = ["Rpmsg"]

SAMPLE = "rpmsg-client-sample"
"""The driver of the kernel's sample, which is there from the start."""


@attrs.define(eq=False)
class Channel:
    """A channel that a user made."""

    name: str
    """Name of the channel on the wire: that of the driver."""
    settings: Settings
    device: str | None = None
    """Device on which it is open."""
    addr: int = 0

    def check_free(self) -> None:
        if self.device is not None:
            raise TreeError(errno.EBUSY, f"the channel is open on {self.device}; remove the link first")


class Rpmsg:
    """The directory rpmsg of a system."""

    def __init__(self, root: Directory, system: System) -> None:
        self._system = system
        top = root.add("rpmsg", Kind())
        self._driver = Kind(make=self._make)
        self._channels = top.add("channel", Kind(make=self._make_driver))
        self._channels.add(SAMPLE, self._driver)
        self._virtprocs = top.add("virtproc", Kind())
        self._virtproc = Kind(allow_link=self._open, drop_link=self._close)
        keys = {key.name: key for key in keys_of(ChannelSpec) if key.name != "name"}
        self._channel = settings_kind(keys, Kind(drop=_check_free))

    def refresh(self) -> None:
        """Add and remove directories, so that they are those of the running system."""
        system, places = self._system, self._virtprocs.children
        devices = {name for name in system.topology.devices if system.channels(name) is not None}
        for name in places.keys() - devices:
            gone = places[name]
            for child in gone.children.values() if isinstance(gone, Directory) else ():
                if not isinstance(child, Directory):
                    child.target.data.device = None
            self._virtprocs.discard(name)
        for name in sorted(devices - places.keys()):
            self._virtprocs.add(name, self._virtproc, name)

    def _make_driver(self, parent: Directory, name: str) -> Directory:
        _check(name)
        return Directory(name, self._driver, parent)

    def _make(self, parent: Directory, name: str) -> Directory:
        channel = Channel(parent.name, Settings(ChannelSpec, {"name": parent.name}))
        return Directory(name, self._channel, parent, channel)

    async def _open(self, directory: Directory, target: Directory) -> None:
        channel = target.data
        if not isinstance(channel, Channel):
            raise TreeError(errno.EINVAL, "must lead to a channel")
        channel.check_free()
        host = self._system.channels(directory.data)
        if host is None:
            raise TreeError(errno.ENODEV)
        spec, errors = structure(channel.settings.table, ChannelSpec)
        if spec is None:
            raise TreeError(errno.EINVAL, errors[0].why)
        problem = surface_problem(spec)
        if problem is not None:
            raise TreeError(errno.EINVAL, f"path {problem}")

        async def open_channel() -> None:
            channel.addr = await host.open_channel(spec)

        await applied(open_channel())
        if self._system.channels(directory.data) is not host:  # it was removed meanwhile
            raise TreeError(errno.ENODEV)
        channel.device = directory.data

    async def _close(self, directory: Directory, target: Directory) -> None:
        channel: Channel = target.data
        host = self._system.channels(directory.data)
        if host is not None:
            host.close_channel(channel.addr)
        channel.device = None


def _check(name: str) -> None:
    """Raise TreeError (EINVAL) for a name that no channel can have."""
    _, errors = structure({"name": name}, ChannelSpec)
    if errors:
        raise TreeError(errno.EINVAL, errors[0].why)


async def _check_free(directory: Directory) -> None:
    directory.data.check_free()
