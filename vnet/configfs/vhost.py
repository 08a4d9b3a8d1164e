"""The directory vhost: drivers for devices, and NTBs on which links make devices of them."""

from __future__ import annotations

import errno
from itertools import count

import attrs

from vnet.configfs.nodes import Directory, Kind
from vnet.configfs.operations import System, applied
from vnet.configfs.settings import Settings, device_of, table_of
from vnet.configfs.values import TreeError
from vnet.configfs.virtio import CLIENT, Client, choose_type, client_name, client_of, virtio_kind
from vnet.ends import DEVICE_TYPES
from vnet.spec import DeviceSpec
from vnet.topology import Topology

__all__ = ["Vhost"]

DRIVERS = {"rpmsg": "vhost_rpmsg_bus"}
"""Name of the directory by device type, if it is not vhost_TYPE."""


@attrs.define(eq=False)
class NtbPlace:
    """An NTB as a place for one device."""

    ntb: str
    settings: Settings
    device: str | None = None
    """Name of the device on it."""

    def check_free(self) -> None:
        if self.device is not None:
            raise TreeError(errno.EBUSY, f"the NTB carries {self.device}; remove the link first")


def _new_settings() -> Settings:
    return Settings(DeviceSpec, {"type": "net", "transport": "ntb"})


class Vhost:
    """The directory vhost of a system."""

    def __init__(self, root: Directory, system: System) -> None:
        self._system = system
        top = root.add("vhost", Kind())
        clients = top.add("vhost-client", Kind())
        self._clients: dict[str, Directory] = {}
        """Item of vhost-client by device type."""
        for name in DEVICE_TYPES:
            parent = clients.add(DRIVERS.get(name, f"vhost_{name}"), Kind())
            self._clients[name] = parent.add(client_name(name), CLIENT, Client(name))
        self._transports = top.add("vhost-transport", Kind())
        self._place = Kind(allow_link=self._plug, drop_link=self._unplug)

    def refresh(self) -> None:
        """Add and remove directories and links, so that they are those of the running system."""
        topology = self._system.topology
        places = self._transports.children
        for name in places.keys() - topology.ntbs.keys():
            self._transports.discard(name)
        for name in sorted(topology.ntbs.keys() - places.keys()):
            place = NtbPlace(name, _new_settings())
            self._transports.add(name, virtio_kind(place, self._place), place)
        carried = {device.ntb: name for name, device in topology.devices.items() if device.ntb is not None}
        for name, directory in places.items():
            if isinstance(directory, Directory):
                self._refresh(directory, carried.get(name))

    def _refresh(self, directory: Directory, device: str | None) -> None:
        """Add or remove the link for the device on an NTB."""
        place: NtbPlace = directory.data
        if place.device is not None and device is None:
            for name in list(directory.children):
                directory.discard(name)
            place.device = None
        elif place.device is None and device is not None and device != self._coming:
            spec = self._system.topology.devices[device]
            table = {"type": spec.type, "transport": spec.transport, **table_of(spec)}
            table.pop("ntb", None)
            place.settings.table, place.device = table, device
            directory.kind = virtio_kind(place, self._place)
            item = self._clients[spec.type]
            directory.link(item.name, item)

    _coming: str | None = None
    """Device that is being added or removed through the tree."""

    async def _plug(self, directory: Directory, target: Directory) -> None:
        place: NtbPlace = directory.data
        choose_type(directory, client_of(target).type, self._place)
        device = device_of(Settings(DeviceSpec, {**place.settings.table, "ntb": place.ntb}))
        taken = self._system.topology.devices
        name = next(name for number in count() if (name := f"vhost{number}") not in taken)
        self._coming = name
        try:
            await applied(self._system.add(Topology({}, {}, {name: device})))
        finally:
            self._coming = None
        place.device = name

    async def _unplug(self, directory: Directory, _: Directory) -> None:
        place: NtbPlace = directory.data
        name, place.device = place.device, None
        if name is None:
            return
        self._coming = name
        try:
            await applied(self._system.remove(f"devices.{name}"))
        except BaseException:
            place.device = name
            raise
        finally:
            self._coming = None
