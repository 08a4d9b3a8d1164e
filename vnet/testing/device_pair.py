"""Two hosts and one device of any type between them, also of a type of the user's own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal

from vnet.ends import DEVICE_TYPES
from vnet.sim.simulated import simulated
from vnet.testing.pair import MEGABYTE, Pair, carried, open_up, over
from vnet.topology.samples import built_in

__all__ = ["DevicePair", "open_device_pair"]


class DevicePair(Pair):
    """The pair; `Pair.ends` are the two ends that the device type has opened."""

    async def transfer(self, size: int = MEGABYTE) -> None:
        """Run the exercise of the device type, whatever its size. Raises AssertionError, trio.TooSlowError."""
        exercise = DEVICE_TYPES[self.device.spec.type].exercise
        assert exercise is not None, f"device type {self.device.spec.type} has no exercise"
        await exercise.act(self.world.running(self.device.name))


@asynccontextmanager
async def open_device_pair(
    kind: str, transport: str = "pci", ring: Literal["split", "packed"] = "split", keys: str = "", *, seed: int = 0
) -> AsyncIterator[DevicePair]:
    """Open a pair with a device of type ``kind``, which is up; ``keys`` are lines of TOML for the device.

    Its ports and stores are in memory; faults of links follow from ``seed``. Raises ConfigError.
    """
    devices = built_in(kind, transport, keys).devices
    with over(transport, ring):
        topology = simulated(carried(devices), seed)
    async with open_up(topology, DevicePair) as pair:
        yield pair
