"""A link with faults between two hosts."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from drivers.contracts.events import NO_EVENTS, Events
from rings.errors import MemoryFault
from vnet.errors import CompleterAbort, CompletionTimeout, LinkDown, PoisonedData, UnsupportedRequest
from vnet.link.base import Direction
from vnet.link.faults import Action, Flap, Rule
from vnet.link.faulty import FaultyLink
from vnet.link.ideal import IdealLink
from vnet.linux.memory import HostMemory
from vnet.pcie.rc import RootComplex
from vnet.spec import FaultSpec, LinkSpec
from vnet.testing import NetPair

UP, DOWN = Direction.UPSTREAM, Direction.DOWNSTREAM
FAULTY = LinkSpec(root="rc", endpoint="ep", faults=FaultSpec())
ERRORS: dict[Action, type[MemoryFault]] = {
    Action.TIME_OUT: CompletionTimeout,
    Action.REFUSE: UnsupportedRequest,
    Action.ABORT: CompleterAbort,
    Action.POISON: PoisonedData,
    Action.FLAP: LinkDown,
}
FAILED_READS = [
    pytest.param(Action.TIME_OUT, marks=pytest.mark.hostile("L05")),
    pytest.param(Action.REFUSE, marks=pytest.mark.hostile("L06")),
    pytest.param(Action.ABORT, marks=pytest.mark.hostile("L06")),
    pytest.param(Action.POISON, marks=pytest.mark.hostile("L07")),
]


class Registers:
    """Eight bytes that count how often they are read."""

    def __init__(self) -> None:
        self.value = 0x1122_3344_5566_7788
        self.reads = 0

    def mem_read(self, addr: int, size: int, function: int) -> int | None:
        self.reads += 1
        return self.value & (1 << 8 * size) - 1

    def mem_write(self, addr: int, size: int, value: int, function: int) -> bool:
        self.value = value
        return True

    def beyond(self, addr: int, size: int) -> tuple[()]:
        return ()

    def regions(self, addr: int, size: int, function: int) -> tuple[()]:
        return ()

    def config_read(self, function: int, offset: int, size: int) -> int | None:
        return None  # nothing to enumerate

    def config_write(self, function: int, offset: int, size: int, value: int) -> bool:
        return False

    def link_up(self) -> None: ...

    def link_down(self) -> None: ...


class Bench:
    """A root complex with a page of RAM, a faulty link, and registers at its other end."""

    def __init__(
        self,
        nursery: trio.Nursery,
        *rules: Rule | Flap,
        flaps: Iterable[Flap] = (),
        seed: int = 0,
        events: Events = NO_EVENTS,
    ) -> None:
        self.memory = HostMemory(4096)
        self.link = FaultyLink(IdealLink("link0"), random.Random(seed), (*rules, *flaps), events=events)
        self.registers = Registers()
        RootComplex(self.memory).attach(self.link)
        self.link.attach_endpoint(self.registers)
        self.link.set_present(True)
        nursery.start_soon(self.link.run)

    def read(self, size: int = 4) -> int:
        return self.link.mem_read(DOWN, 0, size)

    @property
    def faults(self) -> dict[str, int]:
        return dict(self.link.statistics().faults)


@asynccontextmanager
async def open_bench(
    *rules: Rule | Flap, flaps: Iterable[Flap] = (), seed: int = 0, events: Events = NO_EVENTS
) -> AsyncIterator[Bench]:
    async with trio.open_nursery() as nursery:
        bench = Bench(nursery, *rules, flaps=flaps, seed=seed, events=events)
        yield bench
        bench.link.set_present(False)
        bench.memory.close()
        nursery.cancel_scope.cancel()


def faulty(pair: NetPair) -> FaultyLink:
    assert isinstance(pair.link, FaultyLink)
    return pair.link
