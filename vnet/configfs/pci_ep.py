"""The directory pci_ep: endpoint functions, endpoint controllers, and the links that bind them."""

from __future__ import annotations

import errno
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from heapq import heappop, heappush

import attrs
import trio

from drivers.contracts.hw import MAX_FUNCTIONS
from vnet.configfs.function_attributes import header_attributes, ntb_attributes
from vnet.configfs.functions import Function, FunctionDriver, function_drivers
from vnet.configfs.nodes import Attribute, Directory, Kind, attributes
from vnet.configfs.operations import System, applied
from vnet.configfs.values import TreeError, parse_bool
from vnet.configfs.virtio import choose_type, client_of, virtio_kind
from vnet.names import NAME, NAME_RULE
from vnet.topology.join import NOTHING, keys_of, union

__all__ = ["PciEndpoints"]

SIDES = ("primary", "secondary")


class PciEndpoints:
    """The directory pci_ep of a system."""

    def __init__(self, root: Directory, system: System) -> None:
        self._system = system
        self._functions: dict[tuple[str, str], tuple[Function, Directory]] = {}
        """Functions by table of the topology and name, with their directories."""
        self._removed: list[int] = []
        """Indices of removed functions, which are free: a heap."""
        self._indices = 0
        self._seen: tuple[set[str], set[tuple[str, str]]] = set(), set()
        """Links, and functions of the system, at the last look."""
        top = root.add("pci_ep", Kind())
        functions = top.add("functions", Kind())
        self._drivers = function_drivers()
        self._parents: dict[str, Directory] = {}
        for name, driver in self._drivers.items():
            self._parents[name] = functions.add(name, Kind(make=self._make), driver)
            functions.link(driver.alias, self._parents[name], fixed=True)
        start = Attribute("start", lambda controller: str(int(system.is_started(controller.name))), self._start)
        self._controllers = top.add("controllers", Kind())
        """Endpoint controllers by the names of their links."""
        self._controller = Kind(attributes(start), allow_link=self._link_function, drop_link=self._unlink_function)
        self._sides = {
            side: Kind(allow_link=partial(self._link_side, side), drop_link=partial(self._unlink_side, side))
            for side in SIDES
        }
        self._function = Kind(header_attributes(), drop=self._drop)
        self._ntb = attrs.evolve(self._function, make=self._make_settings)
        self._ntb_settings = Kind(ntb_attributes(), drop=_check_free)
        self._virtio_settings = Kind(allow_link=self._choose, drop_link=_check_free)

    # The running system

    def refresh(self) -> None:
        """Add and remove directories and links, so that they are those of the running system."""
        topology = self._system.topology
        links = {name for name, link in topology.links.items() if isinstance(link.endpoint, str)}
        parts = {("devices", name) for name, device in topology.devices.items() if device.link in links}
        parts |= {("ntbs", name) for name in topology.ntbs}
        if (links, parts) == self._seen:
            return
        self._seen = links, parts
        for key in [key for key, (function, _) in self._functions.items() if function.added and key not in parts]:
            self._forget(key)
        for name in self._controllers.children.keys() - links:
            self._lose(name)
        for name in sorted(links - self._controllers.children.keys()):
            self._controllers.add(name, self._controller)
        for table, name in sorted(parts - self._functions.keys()):
            self._adopt(table, name)

    def _adopt(self, table: str, name: str) -> None:
        """Add the function of a device or NTB of the running system."""
        index = self._take_index()
        for driver in (driver for driver in self._drivers.values() if driver.table == table):
            function = driver.running(name, index, self._system.topology)
            if function is not None:
                break
        else:
            heappush(self._removed, index)
            return
        parent = self._parents[driver.name]
        directory = self._directory(parent, function)
        parent.put(directory)
        if not driver.own_directory:
            directory.put(Directory(function.full_name, self._ntb_settings, directory, function))
        for side, link in function.controllers.items():
            controller = self._controller_of(link)
            if driver.sides == 1:
                controller.link(name, directory)
            else:
                self._side(directory, side).link(link, controller)

    def _forget(self, key: tuple[str, str]) -> None:
        """Remove the links of a function that the system no longer has. Its directory stays."""
        function, directory = self._functions[key]
        for side, link in function.controllers.items():
            controller = self._controller_of(link)
            controller.discard_links(directory)
            self._side(directory, side).discard_links(controller)
        function.controllers.clear()
        function.added = False

    def _lose(self, link: str) -> None:
        """Remove the controller of a link that the system no longer has, with all links to it."""
        controller = self._controller_of(link)
        for function, directory in self._functions.values():
            for side in [side for side, own in function.controllers.items() if own == link]:
                del function.controllers[side]
                self._side(directory, side).discard_links(controller)
        self._controllers.discard(link)

    # Functions

    def _make(self, parent: Directory, name: str) -> Directory:
        driver: FunctionDriver = parent.data
        topology = self._system.topology
        if not NAME.fullmatch(name):
            raise TreeError(errno.EINVAL, NAME_RULE)
        taken = topology.devices if driver.table == "devices" else topology.ntbs
        if (driver.table, name) in self._functions or name in taken:
            raise TreeError(errno.EEXIST, f"the system has {name} elsewhere")
        return self._directory(parent, driver.new(name, self._take_index()))

    def _directory(self, parent: Directory, function: Function) -> Directory:
        """Return a function's directory, which is not yet in that of its driver."""
        driver = function.driver
        made = Directory(function.name, self._function if driver.own_directory else self._ntb, parent, function)
        for side, kind in self._sides.items():
            made.add(side, kind, function)
        if driver.own_directory:
            made.add(function.full_name, virtio_kind(function, self._virtio_settings), function)
        self._functions[driver.table, function.name] = function, made
        return made

    def _make_settings(self, parent: Directory, name: str) -> Directory:
        function: Function = parent.data
        if any(isinstance(child, Directory) and child.own for child in parent.children.values()):
            raise TreeError(errno.EBUSY, "the function has such a directory")
        return Directory(name, self._ntb_settings, parent, function)

    async def _drop(self, directory: Directory) -> None:
        self._release(directory.data)

    def _release(self, function: Function) -> None:
        del self._functions[function.driver.table, function.name]
        heappush(self._removed, function.index)

    def _take_index(self) -> int:
        if self._removed:
            return heappop(self._removed)
        self._indices += 1
        return self._indices - 1

    async def _choose(self, directory: Directory, target: Directory) -> None:
        if directory.children:
            raise TreeError(errno.EBUSY, "it has a client")
        choose_type(directory, client_of(target).type, self._virtio_settings)

    # Links between functions and controllers

    async def _link_function(self, controller: Directory, target: Directory) -> None:
        if target.kind not in (self._function, self._ntb):
            raise TreeError(errno.EINVAL, "must lead to a function")
        await self._bind(target.data, controller.name, "primary")

    async def _unlink_function(self, _: Directory, target: Directory) -> None:
        await self._unbind(target.data, "primary")

    async def _link_side(self, side: str, directory: Directory, target: Directory) -> None:
        if target.kind is not self._controller:
            raise TreeError(errno.EINVAL, "must lead to a controller")
        await self._bind(directory.data, target.name, side)

    async def _unlink_side(self, side: str, directory: Directory, _: Directory) -> None:
        await self._unbind(directory.data, side)

    async def _bind(self, function: Function, link: str, side: str) -> None:
        """Bind a function to the controller of a link; add it to the system if all its controllers are started."""
        if side in function.controllers:
            raise TreeError(errno.EBUSY, f"{function.name} has a {side} controller")
        if side in SIDES[function.driver.sides :] or link in function.controllers.values():
            raise TreeError(errno.EINVAL, f"{function.name} can't have it as its {side} controller")
        if sum(link in other.controllers.values() for other, _ in self._functions.values()) >= MAX_FUNCTIONS:
            raise TreeError(errno.EINVAL, f"the controller has {MAX_FUNCTIONS} functions")
        function.controllers[side] = link
        try:
            if function.complete:
                function.driver.part(function, self._system.topology)
                await self._add([function])
        except BaseException:
            function.controllers.pop(side, None)
            raise

    async def _unbind(self, function: Function, side: str) -> None:
        await self._remove(function)
        function.controllers.pop(side, None)

    async def _start(self, directory: Directory, text: str) -> None:
        """Start the controller, and add the functions that wait for it; or stop it, which its host sees at once."""
        link = directory.name
        start, started = parse_bool(text), self._system.is_started(link)
        if not start:
            if started:
                await applied(self._system.stop(link))
            return
        if not started:
            await applied(self._system.start(link))
        functions = [each for each, _ in self._functions.values() if link in each.controllers.values()]
        try:
            await self._add(functions)
        except BaseException:
            if not started:
                with trio.CancelScope(shield=True), suppress(TreeError):  # the link may be gone
                    await applied(self._system.stop(link))
            raise

    async def _add(self, functions: Iterable[Function]) -> None:
        """Add those of the functions whose controllers are all started to the system: all or none."""
        whole, new = self._system.topology, NOTHING
        ready = [
            function for function in functions if function.complete and not function.added and self._ready(function)
        ]
        for function in ready:
            part = function.driver.part(function, whole)
            whole, new = union(whole, part), union(new, part)
        if not ready:
            return
        await applied(self._system.add(new))
        running = keys_of(self._system.topology)
        for function in ready:
            function.added = (function.driver.table, function.name) in running
        removed = [function.name for function in ready if not function.added]
        if removed:
            raise TreeError(errno.ENODEV, f"removed before it was up: {', '.join(removed)}")

    def _ready(self, function: Function) -> bool:
        return all(map(self._system.is_started, function.controllers.values()))

    async def _remove(self, function: Function) -> None:
        """Remove a function from the system, with what it carries."""
        if not function.added:
            return
        function.added = False  # before the system changes: then it is no loss
        try:
            await applied(self._system.remove(f"{function.driver.table}.{function.name}"))
        except BaseException:
            function.added = True
            raise

    def _controller_of(self, link: str) -> Directory:
        controller = self._controllers.children[link]
        assert isinstance(controller, Directory)
        return controller

    def _side(self, directory: Directory, side: str) -> Directory:
        place = directory.children[side]
        assert isinstance(place, Directory)
        return place


async def _check_free(directory: Directory, _: Directory | None = None) -> None:
    """Raise TreeError (EBUSY) while the function of a directory is linked to a controller."""
    directory.data.check_free()
