"""A device on its bus: the states of its binding to a driver, and the moves between them."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Generic, Protocol, TypeVar

import attrs
import trio

from drivers.contracts.events import SILENT, BindMoved, Reporter

__all__ = ["MOVES", "BindMove", "BindState", "Binding"]


class Named(Protocol):
    name: str


class NamedDriver(Protocol):
    @property
    def name(self) -> str: ...


D = TypeVar("D", bound=Named)
R = TypeVar("R", bound=NamedDriver)


class BindState(Enum):
    """State of a device on its bus."""

    UNBOUND = "unbound"
    PROBING = "probing"
    DEFERRED = "deferred"
    BOUND = "bound"
    FAILED = "failed"


class BindMove(Enum):
    """The moves of a binding: each is a method of `Binding`."""

    PROBE = "probe"
    BOUND = "bound"
    NOTE = "note"
    RETRY = "retry"
    DEFER = "defer"
    FAIL = "fail"
    END = "end"
    FREE = "free"


_FREE = {BindMove.FREE: BindState.UNBOUND}
_PROBE = {BindMove.PROBE: BindState.PROBING, **_FREE}
_USED = {
    BindMove.RETRY: BindState.PROBING,
    BindMove.DEFER: BindState.DEFERRED,
    BindMove.FAIL: BindState.FAILED,
    BindMove.END: BindState.UNBOUND,
    **_FREE,
}
MOVES: Mapping[BindState, Mapping[BindMove, BindState]] = {
    # State: moves that are possible in it, with the state after each.
    BindState.UNBOUND: _PROBE,
    BindState.DEFERRED: _PROBE,
    BindState.FAILED: _FREE,
    BindState.PROBING: {BindMove.BOUND: BindState.BOUND, BindMove.NOTE: BindState.PROBING, **_USED},
    BindState.BOUND: {BindMove.NOTE: BindState.BOUND, **_USED},
}


@attrs.define(eq=False)
class Binding(Generic[D, R]):
    """A device with its current driver, or with the driver of its last probe.

    Its methods are the moves of `MOVES`. A move that is not possible raises RuntimeError and changes nothing.
    """

    device: D
    reporter: Reporter = SILENT
    driver: R | None = attrs.field(default=None, init=False)
    state: BindState = attrs.field(default=BindState.UNBOUND, init=False)
    error: str = attrs.field(default="", init=False)
    """Reason why the last probe was deferred or failed, or why the driver waits."""
    scope: trio.CancelScope | None = attrs.field(default=None, init=False)
    """Cancels the driver's use of the device; None while no driver uses it."""
    ended: trio.Event = attrs.field(factory=trio.Event, init=False)
    """Set while no driver uses the device."""

    _waiting: trio.lowlevel.ParkingLot = attrs.field(factory=trio.lowlevel.ParkingLot, init=False)

    def __attrs_post_init__(self) -> None:
        self.ended.set()

    def allows(self, move: BindMove) -> bool:
        """Return whether a move is possible now."""
        return move in MOVES[self.state]

    def _move(self, move: BindMove) -> None:
        if not self.allows(move):
            raise RuntimeError(f"{self.device.name} is {self.state.value}: no move {move.value}")
        self.state = MOVES[self.state][move]
        self._waiting.unpark_all()

    async def wait_moved(self) -> None:
        """Wait for the next move."""
        await self._waiting.park()

    def _report(self) -> None:
        driver = self.driver.name if self.driver is not None else ""
        self.reporter.lifecycle(BindMoved, driver, self.state.value, self.error)

    def probe(self, driver: R) -> trio.CancelScope:
        """Begin to bind the device to ``driver``. Returns the scope of the driver's use."""
        self._move(BindMove.PROBE)
        self.driver, self.error, self.scope, self.ended = driver, "", trio.CancelScope(), trio.Event()
        self._report()
        return self.scope

    def bound(self) -> None:
        """The driver uses the device."""
        self._move(BindMove.BOUND)
        self.error = ""
        self._report()

    def note(self, why: str) -> None:
        """Set the reason why the driver waits; "" if it no longer does."""
        self._move(BindMove.NOTE)
        if why != self.error:
            self.error = why
            self._report()

    def retry(self) -> None:
        """The driver brings the device up again. Not reported if it was about to: one that waits tries every second."""
        before = self.state
        self._move(BindMove.RETRY)
        if self.state is not before:
            self._report()

    def defer(self, why: str) -> None:
        """The probe lacks a resource: it is repeated at the bus's next `Bus.poke`."""
        self._move(BindMove.DEFER)
        self._end(why)

    def fail(self, why: str) -> None:
        """The probe failed: it is not repeated."""
        self._move(BindMove.FAIL)
        self._end(why)

    def end(self) -> None:
        """The driver has no use for the device."""
        self._move(BindMove.END)
        self._end("")

    def free(self) -> None:
        """The device was unbound."""
        self._move(BindMove.FREE)
        self.driver = None
        self._end("")

    def _end(self, error: str) -> None:
        self.error, self.scope = error, None
        self.ended.set()
        self._report()
