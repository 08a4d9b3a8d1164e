"""The test kit: two hosts with one device between them, hostile ends for it, and what must hold afterwards.

    async with open_pair() as pair:
        pair.driver_port.inject(FRAME)
        header, frame = await pair.device_port.receive()

For tests and examples only.
"""

from vnet.testing.checks import bounded, unharmed, until
from vnet.testing.footprint import fds, maps
from vnet.testing.hostile import (
    AGREED,
    OFFERED,
    TWO_QUEUES,
    HostileDevice,
    HostileDriver,
    hostile_device,
    hostile_driver,
)
from vnet.testing.net import FRAME, NetPair, Options, open_pair
from vnet.testing.pair import Pair, over
from vnet.testing.tapped import tapped

__all__ = [
    "AGREED",
    "FRAME",
    "OFFERED",
    "TWO_QUEUES",
    "HostileDevice",
    "HostileDriver",
    "NetPair",
    "Options",
    "Pair",
    "bounded",
    "fds",
    "hostile_device",
    "hostile_driver",
    "maps",
    "open_pair",
    "over",
    "tapped",
    "unharmed",
    "until",
]
