"""Directories with the settings of a virtio device, and the items of vhost-client that choose its type."""

from __future__ import annotations

import errno
from functools import cache

import attrs

from vnet.configfs.nodes import Attribute, Directory, Kind, attributes
from vnet.configfs.settings import Configured, settings_kind
from vnet.configfs.values import TreeError
from vnet.ends import DEVICE_TYPES
from vnet.topology.reference import keys_of
from vnet.transports import TRANSPORTS

__all__ = ["CLIENT", "Client", "choose_type", "client_name", "client_of", "virtio_kind"]

NOT_SET = frozenset({"type", "transport", "link", "host", "ntb", "function", "ids"})
"""Keys of a device that its place in the tree decides."""
ANY_VENDOR = 0xFFFF_FFFF


@attrs.frozen
class Client:
    """A driver of the vhost bus for one type of device."""

    type: str


CLIENT = Kind()
"""Kind of the items of vhost-client: links may lead to them."""


def client_name(kind: str) -> str:
    """Return the name of the item for a device type: vendor, then device id, of which any vendor's is meant."""
    return f"{ANY_VENDOR:08x}:{DEVICE_TYPES[kind].spec.virtio.device_id:08x}"


def virtio_kind(device: Configured, base: Kind) -> Kind:
    """Return the kind of a directory for the settings of a device, whose data are ``device``."""
    table = device.settings.table
    return _kind(table["type"], table["transport"], base)


@cache
def _kind(name: str, transport: str, base: Kind) -> Kind:
    keys = (*keys_of(DEVICE_TYPES[name].spec), *keys_of(TRANSPORTS[transport].options))
    chosen = {key.name: key for key in keys if key.name not in NOT_SET}

    async def store(directory: Directory, text: str) -> None:
        if text not in DEVICE_TYPES:
            raise TreeError(errno.EINVAL, f"must be one of {', '.join(DEVICE_TYPES)}")
        choose_type(directory, text, base)

    kind = Attribute("type", lambda directory: str(directory.data.settings.table["type"]), store)
    return settings_kind(chosen, attrs.evolve(base, attributes={**base.attributes, **attributes(kind)}))


def choose_type(directory: Directory, name: str, base: Kind) -> None:
    """Set the type of the device of a directory. Another type begins with its defaults. Raises TreeError (EBUSY)."""
    device: Configured = directory.data
    device.check_free()
    table = device.settings.table
    if table["type"] != name:
        device.settings.table = {"type": name, "transport": table["transport"]}
        directory.kind = _kind(name, table["transport"], base)


def client_of(target: Directory) -> Client:
    """Return the client that a link leads to. Raises TreeError (EINVAL) if it leads to something else."""
    if target.kind is not CLIENT:
        raise TreeError(errno.EINVAL, "must lead to an item of vhost/vhost-client")
    client: Client = target.data
    return client
