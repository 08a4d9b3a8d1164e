"""The tree of a running system: its directories follow the system, and its changes take turns."""

from __future__ import annotations

import stat
from collections.abc import Collection, Mapping
from typing import Any

import attrs
import trio

from vnet.configfs.looks import add_looks
from vnet.configfs.nodes import Directory, Kind, Link, Node
from vnet.configfs.operations import ChannelHost, System
from vnet.configfs.pci_ep import PciEndpoints
from vnet.configfs.rpmsg import Rpmsg
from vnet.configfs.tree import Tree
from vnet.configfs.vhost import Vhost
from vnet.ends.rpmsg import RpmsgEnd
from vnet.system.snapshot import take_device, take_ntb
from vnet.system.world import World
from vnet.topology import Topology
from vnet.views.plain import to_plain

__all__ = ["Configfs", "Entry", "WorldSystem"]


@attrs.frozen
class Entry:
    """An entry of a directory."""

    name: str
    mode: int
    """Type and permissions, as in stat: those of the owner alone."""
    target: str | None = None
    """Target of a link, as readlink returns it."""


def _entry(name: str, node: Node) -> Entry:
    if isinstance(node, Directory):
        return Entry(name, stat.S_IFDIR | 0o700)
    if isinstance(node, Link):
        return Entry(name, stat.S_IFLNK | 0o700, node.text)
    return Entry(name, stat.S_IFREG | node.mode)


class Configfs:
    """The tree of one running system. Its operations raise TreeError. Reads never wait, and change nothing."""

    def __init__(self, system: System) -> None:
        self.tree = Tree(Directory("", Kind()))
        root = self.tree.root
        self._parts = (PciEndpoints(root, system), Vhost(root, system), Rpmsg(root, system))
        add_looks(root, system)
        self._turn = trio.Lock()

    def _refresh(self) -> None:
        for part in self._parts:
            part.refresh()

    def stat(self, path: str) -> Entry:
        """Return the entry at a path, also if it is a link."""
        self._refresh()
        _, node = self.tree.find(path, follow=False)
        return _entry(path.rstrip("/").rpartition("/")[2], node)

    def list(self, path: str) -> list[Entry]:
        """Return the entries of a directory."""
        self._refresh()
        return [_entry(name, node) for name, node in sorted(self.tree.directory(path).nodes().items())]

    def read(self, path: str) -> str:
        """Return the value of an attribute."""
        self._refresh()
        return self.tree.read(path)

    async def write(self, path: str, data: bytes) -> None:
        """Give an attribute a value: all of ``data``."""
        async with self._turn:
            self._refresh()
            await self.tree.write(path, data)

    async def mkdir(self, path: str) -> None:
        """Make a directory."""
        async with self._turn:
            self._refresh()
            await self.tree.mkdir(path)

    async def rmdir(self, path: str) -> None:
        """Remove a directory."""
        async with self._turn:
            self._refresh()
            await self.tree.rmdir(path)

    async def symlink(self, target: str, path: str) -> None:
        """Make a link to ``target``, a path from the root."""
        async with self._turn:
            self._refresh()
            await self.tree.symlink(target, path)

    async def unlink(self, path: str) -> None:
        """Remove a link."""
        async with self._turn:
            self._refresh()
            await self.tree.unlink(path)


@attrs.frozen(eq=False)
class WorldSystem:
    """A world as the system of a tree. Implements `vnet.configfs.operations.System`."""

    world: World

    @property
    def topology(self) -> Topology:
        return self.world.topology

    async def add(self, part: Topology) -> None:
        await self.world.add(part)

    async def remove(self, name: str) -> None:
        await self.world.remove(name)

    def is_started(self, link: str) -> bool:
        return link in self.world.links and self.world.links[link].present

    async def start(self, link: str) -> None:
        await self.world.start(link)

    async def stop(self, link: str) -> None:
        await self.world.stop(link)

    @property
    def devices(self) -> Collection[str]:
        return self.world.devices.keys()

    @property
    def ntbs(self) -> Collection[str]:
        return self.world.ntbs.keys() & self.world.topology.ntbs.keys()

    def device(self, name: str) -> Mapping[str, Any]:
        return to_plain(take_device(self.world, name))  # type: ignore[no-any-return]

    def ntb(self, name: str) -> Mapping[str, Any]:
        return to_plain(take_ntb(self.world, name))  # type: ignore[no-any-return]

    def channels(self, device: str) -> ChannelHost | None:
        end = self.world.devices[device].device_end if device in self.world.devices else None
        return end if isinstance(end, RpmsgEnd) and end.side == "device" else None
