"""A bus of plain things, and drivers that take them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import attrs
import pytest
import trio
import trio.testing

from drivers.bus.binding import Binding
from drivers.bus.model import Bus, MatchId


@attrs.define(eq=False)
class Thing:
    """A device that is nothing but its ids."""

    device_id: int = 1
    vendor_id: int = 0x1AF4
    name: str = ""


@attrs.define(eq=False)
class Taker:
    """A driver that notes what happens to it; ``probe`` decides how a bind goes."""

    id_table: Sequence[MatchId] = (MatchId(1),)
    name: str = "taker"
    probe: Callable[[Thing], Awaitable[None]] | None = None
    log: list[str] = attrs.field(factory=list)


class ThingBus(Bus[Thing, Taker]):
    prefix = "thing"

    async def attach(self, binding: Binding[Thing, Taker], device: Thing, driver: Taker) -> None:
        driver.log.append(f"probe {device.name}")
        if driver.probe is not None:
            await driver.probe(device)
        binding.bound()
        try:
            await trio.sleep_forever()
        finally:
            driver.log.append(f"remove {device.name}")


@pytest.fixture
def bus(nursery: trio.Nursery) -> ThingBus:
    bus = ThingBus()
    nursery.start_soon(bus.serve)
    return bus
