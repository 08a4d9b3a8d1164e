"""A link around a link, and a window around a window: each forwards every call that a wrapper does not override."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from drivers.contracts.hw import LinkEvents
from rings.memory import Addr
from rings.observers.meter import Meter
from vnet.link.base import Counting, Direction, EndpointPort, Fault, Link, Region, RootPort, Window
from vnet.views.link import LinkStatistics

__all__ = ["LinkWrapper", "WindowWrapper"]


class LinkWrapper:
    """Implements `vnet.link.base.Link` by the link ``inner``. The two ends are attached to the outermost wrapper."""

    def __init__(self, inner: Link) -> None:
        self.inner = inner

    @property
    def name(self) -> str:
        return self.inner.name

    @property
    def up(self) -> bool:
        return self.inner.up

    @property
    def present(self) -> bool:
        return self.inner.present

    @property
    def epoch(self) -> int:
        return self.inner.epoch

    @property
    def lossy(self) -> bool:
        return self.inner.lossy

    def attach_root(self, port: RootPort) -> None:
        self.inner.attach_root(port)

    def attach_endpoint(self, port: EndpointPort) -> None:
        self.inner.attach_endpoint(port)

    def direct(self) -> Counting | None:
        """Return None: a wrapper does something with writes."""
        return None

    def set_present(self, present: bool) -> None:
        self.inner.set_present(present)

    def set_reachable(self, reachable: bool) -> None:
        self.inner.set_reachable(reachable)

    def bring_up(self) -> None:
        self.inner.bring_up()

    def bring_down(self) -> None:
        self.inner.bring_down()

    def config_read(self, function: int, offset: int, size: int) -> int:
        return self.inner.config_read(function, offset, size)

    def config_write(self, function: int, offset: int, size: int, value: int) -> None:
        self.inner.config_write(function, offset, size, value)

    def mem_read(self, direction: Direction, addr: int, size: int, function: int = 0) -> int:
        return self.inner.mem_read(direction, addr, size, function)

    def mem_write(self, direction: Direction, addr: int, size: int, value: int, function: int = 0) -> None:
        self.inner.mem_write(direction, addr, size, value, function)

    def intx(self, function: int, asserted: bool) -> None:
        self.inner.intx(function, asserted)

    def map(self, direction: Direction, addr: int, size: int, function: int = 0) -> Window:
        return self.inner.map(direction, addr, size, function)

    def revoke(self, direction: Direction, addr: int, size: int, fault: Fault) -> None:
        self.inner.revoke(direction, addr, size, fault)

    def remap(self, direction: Direction, addr: int, size: int) -> None:
        self.inner.remap(direction, addr, size)

    def statistics(self) -> LinkStatistics:
        return self.inner.statistics()

    def meter(self, direction: Direction) -> Meter | None:
        return self.inner.meter(direction)

    def beyond(self, direction: Direction, addr: int, size: int) -> Iterable[tuple[Link, Direction]]:
        return self.inner.beyond(direction, addr, size)

    async def settle(self) -> None:
        await self.inner.settle()

    def watch(self, events: LinkEvents) -> None:
        self.inner.watch(events)

    async def run(self) -> None:
        await self.inner.run()


class WindowWrapper:
    """Implements `vnet.link.base.Window` by the window ``inner``, and calls `accessed` after each view is made."""

    def __init__(self, inner: Window) -> None:
        self.inner = inner
        self.pin = inner.pin
        self.unpin = inner.unpin
        self.fence = inner.fence
        self.observe = getattr(inner, "observe", None)

    def accessed(self, addr: int, size: int, write: bool, views: Sequence[memoryview]) -> None:
        """Do what the wrapper adds to an access. Raises MemoryFault to refuse it, with the ``views`` released."""

    @property
    def pinned(self) -> int:
        return self.inner.pinned

    def regions(self) -> Sequence[Region]:
        return self.inner.regions()

    def close(self, fault: Fault | None = None) -> None:
        self.inner.close(fault)

    def view(self, addr: Addr, size: int, writable: bool = False, /) -> memoryview:
        view = self.inner.view(addr, size, writable)
        self.accessed(addr, size, writable, (view,))
        return view

    def segments(self, addr: Addr, size: int, writable: bool = False, /) -> list[memoryview]:
        views = self.inner.segments(addr, size, writable)
        self.accessed(addr, size, writable, views)
        return views
