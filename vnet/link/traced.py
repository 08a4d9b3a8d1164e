"""A link with a trace: a line for each register access, doorbell, interrupt, DMA view, and link-up or link-down."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import trio

from rings.memory import Addr
from vnet.link.base import Direction, Link, Window
from vnet.link.faulty import WhichWrite, is_doorbell, is_interrupt
from vnet.link.wrapper import LinkWrapper, WindowWrapper

__all__ = ["Symbols", "TracedLink"]

Symbols = Callable[[Direction, int], str | None]
"""Returns the name of the register at an address, for requests in a direction; None if it has no name."""
ARROWS = {Direction.DOWNSTREAM: ">", Direction.UPSTREAM: "<"}


def _no_symbols(direction: Direction, addr: int) -> str | None:
    return None


class TracedLink(LinkWrapper):
    """``sink`` takes each line, without its end: seconds since the link was made, its name, and what happened.

    ">" is from the root complex to the endpoint, "<" the other way. A line for memory shows the view that was
    requested: how much of it is used cannot be seen. Values in memory are not shown.
    """

    def __init__(
        self,
        inner: Link,
        sink: Callable[[str], object],
        *,
        symbols: Symbols = _no_symbols,
        doorbell: WhichWrite = is_doorbell,
    ) -> None:
        super().__init__(inner)
        self._sink = sink
        self._symbols = symbols
        self._special = {
            Direction.DOWNSTREAM: ("doorbell", doorbell),
            Direction.UPSTREAM: ("interrupt", is_interrupt),
        }
        self._created = trio.current_time()
        inner.watch(self)

    def _note(self, text: str) -> None:
        self._sink(f"{trio.current_time() - self._created:.9f} {self.name} {text}")

    def _at(self, direction: Direction, addr: int, size: int) -> str:
        name = self._symbols(direction, addr)
        return f"{addr:#x}+{size}" + (f" {name}" if name else "")

    # LinkEvents

    def link_up(self) -> None:
        self._note(f"up, epoch {self.epoch}")

    def link_down(self) -> None:
        self._note(f"down, epoch {self.epoch} is over")

    # Link

    def config_read(self, function: int, offset: int, size: int) -> int:
        value = self.inner.config_read(function, offset, size)
        self._note(f"> config read .{function} {offset:#x}+{size} = {value:#x}")
        return value

    def config_write(self, function: int, offset: int, size: int, value: int) -> None:
        self._note(f"> config write .{function} {offset:#x}+{size} = {value:#x}")
        self.inner.config_write(function, offset, size, value)

    def mem_read(self, direction: Direction, addr: int, size: int, function: int = 0) -> int:
        value = self.inner.mem_read(direction, addr, size, function)
        self._note(f"{ARROWS[direction]} read {self._at(direction, addr, size)} = {value:#x}")
        return value

    def mem_write(self, direction: Direction, addr: int, size: int, value: int, function: int = 0) -> None:
        special, is_special = self._special[direction]
        request = special if is_special(addr, size, value) else "write"
        # Traced before the write arrives, so that its consequences follow in the trace.
        self._note(f"{ARROWS[direction]} {request} {self._at(direction, addr, size)} = {value:#x}")
        self.inner.mem_write(direction, addr, size, value, function)

    def intx(self, function: int, asserted: bool) -> None:
        self._note(f"< INTx .{function} {'asserted' if asserted else 'deasserted'}")
        self.inner.intx(function, asserted)

    def map(self, direction: Direction, addr: int, size: int, function: int = 0) -> Window:
        window = self.inner.map(direction, addr, size, function)
        arrow = ARROWS[direction]
        self._note(f"{arrow} map .{function} {addr:#x}+{size}")

        def note(access: str, addr: int, size: int) -> None:
            self._note(f"{arrow} {access} {addr:#x}+{size}")

        return _TracedWindow(window, note)


class _TracedWindow(WindowWrapper):
    def __init__(self, inner: Window, note: Callable[[str, int, int], None]) -> None:
        super().__init__(inner)
        self._note = note
        self.pin = self._pin

    def accessed(self, addr: int, size: int, write: bool, views: Sequence[memoryview]) -> None:
        self._note("DMA write" if write else "DMA read", addr, size)

    def _pin(self, addr: Addr, size: int, form: str, /) -> memoryview:
        view = self.inner.pin(addr, size, form)
        self._note("pin", addr, size)
        return view
