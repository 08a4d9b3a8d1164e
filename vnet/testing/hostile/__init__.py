"""Hostile ends: a driver and a device that do what a test says, unchecked. The driver exists for each transport."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from drivers.devices.net.layout import CONTROLLED, SUPPORTED, NetFeature
from rings.features import mask
from vnet.testing.hostile.device import HostileDevice, hostile_device
from vnet.testing.hostile.driver import HostileDriver
from vnet.testing.hostile.mailbox import HostileMailbox
from vnet.testing.hostile.mmio import HostileMmio
from vnet.testing.hostile.ntb import HostileNtb
from vnet.testing.hostile.vhost_user import HostileUser
from vnet.testing.pair import Pair

__all__ = [
    "AGREED",
    "DRIVERS",
    "OFFERED",
    "TWO_QUEUES",
    "HostileDevice",
    "HostileDriver",
    "HostileMailbox",
    "HostileMmio",
    "HostileNtb",
    "HostileUser",
    "hostile_device",
    "hostile_driver",
]

P = TypeVar("P", bound=Pair)

OFFERED = SUPPORTED & ~mask((NetFeature.MQ,))
"""What a network device with a single pair of queues offers."""
AGREED = OFFERED & ~mask((NetFeature.CTRL_VLAN,))
"""What is agreed on of that where a port does not say which VLANs it needs."""
TWO_QUEUES = SUPPORTED & ~CONTROLLED
"""The same for a driver that sets up no control queue."""
DRIVERS: Mapping[str, type[HostileDriver[Any]]] = {
    "pci": HostileDriver,
    "epf_mailbox": HostileMailbox,
    "mmio": HostileMmio,
    "ntb": HostileNtb,
    "vhost_user": HostileUser,
}
"""By transport."""


@asynccontextmanager
async def hostile_driver(pair: P) -> AsyncIterator[HostileDriver[P]]:
    """In place of the virtio driver, which is bound again, and up, at the end."""
    bus, carrier = pair.carrier
    await bus.unregister_device(carrier)
    hostile = DRIVERS[pair.device.spec.transport](carrier, pair)
    await hostile.arrive()
    try:
        yield hostile
    finally:
        hostile.close()
        bus.register_device(carrier)
    await pair.world.wait_up()
