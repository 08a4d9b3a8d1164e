"""Hostile ends: a driver and a device that do what a test says, unchecked. The driver exists for each transport."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from drivers.devices.net.layout import CONTROLLED, REQUESTED, SUPPORTED, NetFeature
from rings.features import RingFeature, mask
from rings.formats import ON_REQUEST
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
    "EXTRA",
    "OFFERED",
    "TWO_QUEUES",
    "HostileDevice",
    "HostileDriver",
    "HostileMailbox",
    "hostile_device",
    "hostile_driver",
]

P = TypeVar("P", bound=Pair)

EXTRA = ON_REQUEST | REQUESTED | mask((RingFeature.RING_RESET,))
"""Feature bits that not every network device offers: it does so on request, or over some transports only."""
OFFERED = SUPPORTED & ~mask((NetFeature.MQ,)) & ~EXTRA
"""Features that a network device with a single pair of queues offers."""
AGREED = OFFERED & ~mask((NetFeature.CTRL_VLAN,))
"""Features that both sides accept if the port does not list the VLANs that it needs."""
TWO_QUEUES = OFFERED & ~CONTROLLED
"""Features for a driver without a control queue."""
DRIVERS: Mapping[str, type[HostileDriver[Any]]] = {
    "pci": HostileDriver,
    "epf_mailbox": HostileMailbox,
    "mmio": HostileMmio,
    "ntb": HostileNtb,
    "vhost_user": HostileUser,
}
"""Hostile drivers by transport."""


@asynccontextmanager
async def hostile_driver(pair: P) -> AsyncIterator[HostileDriver[P]]:
    """Replace the virtio driver by a hostile one; at the end it is bound again, and up."""
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
