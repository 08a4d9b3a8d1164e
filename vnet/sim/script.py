"""Scripts of faults: what fails, where and when. A script comes from a seed, or from the user, and is shrunk."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from functools import partial
from random import Random
from typing import Literal, Self

import attrs
import trio

from vnet.link.faults import FAULTS, Flap, Rule
from vnet.sim import fault_points
from vnet.sim.fault_points import PENDING, Fired
from vnet.spec import DeviceSpec
from vnet.system.world import World
from vnet.topology import Topology

__all__ = ["KINDS", "Fault", "FaultKind", "draw_script", "play"]

HORIZON = 0.8
"""Share of a run's time in which faults begin, so that the rest shows the recovery."""
FEWEST, MOST = 4, 24
"""Limits of the most faults of a run; in between, one for each second of its time."""
FLAP, REBIND = "flap", "rebind"


@attrs.frozen
class Fault:
    """A fault of a script. Its text is AT:PLACE:KIND:AMOUNT, such as 0.25:pcie0:lost_doorbells:2."""

    at: float = attrs.field(converter=float)
    """Seconds after all devices came up."""
    place: str
    """Name of a link or a device."""
    kind: str
    """One of `KINDS`."""
    amount: float = attrs.field(converter=float)
    """Number of requests that fail, or seconds; see `FaultKind.unit`."""

    @classmethod
    def parse(cls, text: str, topology: Topology) -> Self:
        """Return the fault of a text. Raises ValueError for a text of another form, or a place without such a fault."""
        try:
            at, place, kind, amount = text.split(":")
            fault = cls(float(at), place, kind, float(amount))
        except ValueError:
            raise ValueError(f"{text}: must be AT:PLACE:KIND:AMOUNT, such as 0.25:pcie0:flap:0.1") from None
        if kind not in KINDS:
            raise ValueError(f"{text}: the kind must be one of {', '.join(KINDS)}")
        on = KINDS[kind].on
        if place not in (places := list(_places(topology, KINDS[kind]))):
            known = f"one of {', '.join(places)}" if places else "and this system has none"
            raise ValueError(f"{text}: {kind} needs a {on}, {known}")
        if not (0 <= fault.at < math.inf and 0 < fault.amount < math.inf):
            raise ValueError(f"{text}: the time must be at least 0, and the amount above 0")
        return fault

    def __str__(self) -> str:
        return f"{_number(self.at)}:{self.place}:{self.kind}:{_number(self.amount)}"


def _number(value: float) -> str:
    """Return a number as the shortest text that is read back as the same number."""
    return str(int(value)) if value.is_integer() else repr(value)


Inject = Callable[[World, Fault, Fired], Awaitable[None]]


@attrs.frozen
class FaultKind:
    """A kind of fault."""

    on: Literal["link", "device"]
    """Kind of part that has the fault."""
    unit: Literal["times", "seconds"]
    """Unit of the amount."""
    inject: Inject
    """Lets it happen now, and returns once it has begun or is over. Calls its last argument for each time."""
    fits: Callable[[DeviceSpec], bool] = lambda device: True
    """Returns whether a device can have the fault."""


async def _fail_requests(world: World, fault: Fault, fired: Fired) -> None:
    kind, link = FAULTS[fault.kind], world.faults[fault.place]
    link.add(Rule(kind.requests, kind.action, rate=1.0, limit=fault.amount, name=str(fault)))
    await trio.sleep(PENDING)
    for rule in link.rules():
        if rule.name == str(fault):
            for _ in range(rule.faults):
                fired()
    link.clear(str(fault))


async def _flap(world: World, fault: Fault, fired: Fired) -> None:
    world.faults[fault.place].add(Flap(0.0, fault.amount))
    fired()


async def _rebind(world: World, fault: Fault, fired: Fired) -> None:
    await world.unbind(fault.place, "driver")
    await trio.sleep(fault.amount)
    await world.bind(fault.place, "driver", timeout=0)
    fired()


def _at_device(point: Callable[[World, str, float, Fired], Awaitable[None]]) -> Inject:
    async def inject(world: World, fault: Fault, fired: Fired) -> None:
        await point(world, fault.place, fault.amount, fired)

    return inject


KINDS: Mapping[str, FaultKind] = {
    FLAP: FaultKind("link", "seconds", _flap),
    **dict.fromkeys(FAULTS, FaultKind("link", "times", _fail_requests)),
    REBIND: FaultKind("device", "seconds", _rebind),
    "early_wakes": FaultKind("device", "times", _at_device(fault_points.wake_early)),
    "spurious_kicks": FaultKind("device", "times", _at_device(fault_points.kick_spuriously)),
    "short_transfers": FaultKind("device", "times", _at_device(fault_points.short_transfers), fault_points.has_stores),
    "late_completions": FaultKind(
        "device", "times", _at_device(fault_points.late_completions), fault_points.has_stores
    ),
    "failed_allocation": FaultKind("device", "times", _at_device(fault_points.fail_allocation)),
}
"""Kinds of faults by name."""


def _places(topology: Topology, kind: FaultKind) -> Iterator[str]:
    if kind.on == "link":
        yield from topology.links
    else:
        yield from (name for name, device in topology.devices.items() if kind.fits(device))


def draw_script(rng: Random, topology: Topology, seconds: float) -> tuple[Fault, ...]:
    """Return a random script for a run of so many ``seconds``, in the order of time."""
    able = [(place, name) for name, kind in KINDS.items() for place in _places(topology, kind)]
    faults = []
    for _ in range(rng.randint(0, min(max(FEWEST, int(seconds)), MOST))):
        at, (place, name) = round(rng.uniform(0, HORIZON * seconds), 4), able[rng.randrange(len(able))]
        # Most flaps are short beside the pauses of drivers that reset a device.
        amount = float(rng.randint(1, 3)) if KINDS[name].unit == "times" else round(0.001 + 0.3 * rng.random() ** 2, 4)
        faults.append(Fault(at, place, name, amount))
    return tuple(sorted(faults, key=lambda fault: fault.at))


async def play(world: World, script: Sequence[Fault], began: float, fired: Counter[Fault]) -> None:
    """Let each fault happen at its time, which counts from ``began``, and count how often it did.

    Returns once all of them are over.
    """
    async with trio.open_nursery() as nursery:
        for fault in script:
            nursery.start_soon(partial(_play_one, world, fault, began + fault.at, fired))


async def _play_one(world: World, fault: Fault, at: float, fired: Counter[Fault]) -> None:
    await trio.sleep_until(at)
    await KINDS[fault.kind].inject(world, fault, lambda: fired.update((fault,)))
