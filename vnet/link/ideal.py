"""The ideal link: free, instant, and up while both ends are there and it was not taken down."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, runtime_checkable

import attrs

from drivers.contracts.hw import LinkEvents
from rings.errors import MemoryFault
from rings.memory import Addr, MappedMemory, RemoteBytes
from rings.observers.meter import Meter
from rings.queue import Vringh
from vnet.errors import LinkDown
from vnet.link.base import (
    Direction,
    EndpointPort,
    Fault,
    Link,
    LinkEnd,
    Region,
    RootPort,
    Window,
    all_ones,
)
from vnet.linux.memory import address_of, full_fence
from vnet.views.link import LinkStatistics, LinkTraffic

__all__ = ["IdealLink"]


@attrs.define
class _Tally:
    reads: int = 0
    writes: int = 0
    dropped: int = 0
    unsupported: int = 0

    def read(self, size: int, value: int | None) -> int:
        """Count a read; return its value, or all-ones if the other end refused it."""
        if value is None:
            self.unsupported += 1
            return all_ones(size)
        self.reads += 1
        return value & all_ones(size)

    def write(self, accepted: bool) -> None:
        if accepted:
            self.writes += 1
        else:
            self.unsupported += 1

    def drop(self, size: int) -> int:
        self.dropped += 1
        return all_ones(size)

    def frozen(self) -> LinkTraffic:
        return LinkTraffic(self.reads, self.writes, self.dropped, self.unsupported)


@runtime_checkable
class Follower(Protocol):
    """Remote bytes that follow the use of rings in them."""

    def fence(self) -> None:
        """Execute a full memory barrier."""

    def observe(self, ring: Vringh) -> Vringh:
        """Return a device's side whose use they follow."""


class _LinkWindow(MappedMemory):
    """A window of direct views of the other end's memory."""

    observe: Callable[[Vringh], Vringh] | None = None

    def __init__(
        self, direction: Direction, start: int, size: int, function: int, forget: Callable[[_LinkWindow], object]
    ) -> None:
        super().__init__(full_fence)
        self._direction = direction
        self.start, self.end = start, start + size
        self.function = function
        self._forget_window: Callable[[_LinkWindow], object] | None = forget

    def regions(self) -> Sequence[Region]:
        return self.contents(self.start, self.end - self.start)

    def overlaps(self, direction: Direction, start: int, size: int) -> bool:
        """Return whether the window overlaps the range."""
        return self._direction is direction and self.start < start + size and start < self.end

    def show(self, regions: Iterable[Region]) -> None:
        """Add memory of the other end; read-only memory stays read-only."""
        for base, content in regions:
            self.add(base, content, writable=not content.readonly)
            if not isinstance(content, memoryview) and isinstance(content, Follower):
                self.fence, self.observe = content.fence, content.observe

    def replace(self, start: int, end: int, regions: Iterable[Region]) -> None:
        """Replace the regions that begin in the range, and keep the pins of memory that is still in its place."""
        kept: list[tuple[int, memoryview]] = []
        for region in [region for region in self._regions if start <= region.base < end]:
            for pin in region.pins.values():
                offset = _offset(region.content, pin)
                assert offset is not None  # it is pinned there
                kept.append((region.base + offset, pin))
            region.pins.clear()
            self.remove(Addr(region.base))
        self.show(regions)
        for addr, pin in kept:
            for region in self._regions:
                inside = region.base <= addr and addr + pin.nbytes <= region.base + region.size
                if inside and region.writable and _offset(region.content, pin) == addr - region.base:
                    region.pins[id(pin)] = pin
                    break
            else:
                pin.release()

    def close(self, fault: Callable[[int, int, bool], MemoryFault] | None = None) -> None:
        forget, self._forget_window = self._forget_window, None
        if forget is not None:  # the first close decides what later accesses raise
            forget(self)
            super().close(fault)


def _offset(content: memoryview | RemoteBytes, pin: memoryview) -> int | None:
    """Return where the bytes of a pinned view begin in ``content``; None if they are other memory."""
    if not isinstance(content, memoryview):
        return content.offset_of(pin)
    plain: object = pin  # or a stand-in, see `rings.memory.RemoteBytes.pin`
    return address_of(plain) - address_of(content) if isinstance(plain, memoryview) and not content.readonly else None


class IdealLink:
    """Implements `vnet.link.base.Link`."""

    def __init__(self, name: str = "link", *, lossy: bool = False) -> None:
        """``lossy``: whether what lies behind the endpoint can lose doorbells and interrupts."""
        self._name = name
        self.lossy = lossy
        self._root: RootPort | None = None
        self._endpoint: EndpointPort | None = None
        self._up = False
        self._epoch = 0
        self._present = False
        self._reachable = True
        self._enabled = True
        self._in_transition = False
        self._windows: dict[int, _LinkWindow] = {}
        self._watchers: list[LinkEvents] = []
        self._config = _Tally()
        self._downstream = _Tally()
        self._upstream = _Tally()
        self._messages = _Tally()

    @property
    def name(self) -> str:
        return self._name

    @property
    def up(self) -> bool:
        return self._up

    @property
    def present(self) -> bool:
        return self._present

    @property
    def epoch(self) -> int:
        return self._epoch

    def attach_root(self, port: RootPort) -> None:
        """Raises ValueError if the end is taken."""
        if self._root is not None:
            raise ValueError(f"link {self._name} has a root port already")
        self._root = port
        self._settle()

    def attach_endpoint(self, port: EndpointPort) -> None:
        """Raises ValueError if the end is taken."""
        if self._endpoint is not None:
            raise ValueError(f"link {self._name} has an endpoint already")
        self._endpoint = port
        self._settle()

    def set_present(self, present: bool) -> None:
        if present == self._present:
            return
        self._present = present
        self._settle()
        if not present and self._root is not None:
            self._root.removed()

    def set_reachable(self, reachable: bool) -> None:
        self._reachable = reachable
        self._settle()

    def bring_up(self) -> None:
        self._enabled = True
        self._settle()

    def bring_down(self) -> None:
        self._enabled = False
        self._settle()

    def config_read(self, function: int, offset: int, size: int) -> int:
        if not self._up or self._endpoint is None:
            return self._config.drop(size)
        return self._config.read(size, self._endpoint.config_read(function, offset, size))

    def config_write(self, function: int, offset: int, size: int, value: int) -> None:
        if not self._up or self._endpoint is None:
            self._config.drop(size)
        else:
            self._config.write(self._endpoint.config_write(function, offset, size, value))

    def mem_read(self, direction: Direction, addr: int, size: int, function: int = 0) -> int:
        end, tally = self._towards(direction)
        if not self._up or end is None:
            return tally.drop(size)
        return tally.read(size, end.mem_read(addr, size, function))

    def mem_write(self, direction: Direction, addr: int, size: int, value: int, function: int = 0) -> None:
        # Doorbells and interrupts come here: two calls of methods fewer.
        down = direction is Direction.DOWNSTREAM
        end, tally = (self._endpoint, self._downstream) if down else (self._root, self._upstream)
        if not self._up or end is None:
            tally.drop(size)
        elif end.mem_write(addr, size, value, function):
            tally.writes += 1
        else:
            tally.unsupported += 1

    def intx(self, function: int, asserted: bool) -> None:
        if not self._up or self._root is None:
            self._messages.drop(0)
        else:
            self._messages.write(True)
            self._root.intx(function, asserted)

    def map(self, direction: Direction, addr: int, size: int, function: int = 0) -> Window:
        end, _ = self._towards(direction)
        if not self._up or end is None:
            raise LinkDown(addr, size, write=True, reason=f"link {self._name} is down")
        window = _LinkWindow(direction, addr, size, function, lambda closed: self._windows.pop(id(closed)))
        window.show(end.regions(addr, size, function))
        self._windows[id(window)] = window
        return window

    def revoke(self, direction: Direction, addr: int, size: int, fault: Fault) -> None:
        for window in list(self._windows.values()):
            if window.overlaps(direction, addr, size):
                window.close(fault)

    def remap(self, direction: Direction, addr: int, size: int) -> None:
        end, _ = self._towards(direction)
        for window in list(self._windows.values()):
            if end is not None and window.overlaps(direction, addr, size):
                low, high = max(addr, window.start), min(addr + size, window.end)
                window.replace(low, high, end.regions(low, high - low, window.function))

    def statistics(self) -> LinkStatistics:
        return LinkStatistics(
            up=self._up,
            epoch=self._epoch,
            windows=len(self._windows),
            config=self._config.frozen(),
            downstream=self._downstream.frozen(),
            upstream=self._upstream.frozen(),
            messages=self._messages.frozen(),
        )

    def meter(self, direction: Direction) -> Meter | None:
        return None

    def beyond(self, direction: Direction, addr: int, size: int) -> Iterable[tuple[Link, Direction]]:
        end, _ = self._towards(direction)
        return () if end is None else end.beyond(addr, size)

    def direct(self) -> IdealLink | None:
        return self if self._up and getattr(self.mem_write, "__func__", None) is IdealLink.mem_write else None

    def ends(self) -> tuple[LinkEnd | None, LinkEnd | None]:
        return self._root, self._endpoint

    def count_writes(self, direction: Direction, count: int) -> None:
        self._towards(direction)[1].writes += count

    async def settle(self) -> None:
        """Do nothing: accesses take no time."""

    def watch(self, events: LinkEvents) -> None:
        self._watchers.append(events)

    async def run(self) -> None:
        """Return at once: an ideal link has no activity of its own."""

    def _towards(self, direction: Direction) -> tuple[LinkEnd | None, _Tally]:
        if direction is Direction.DOWNSTREAM:
            return self._endpoint, self._downstream
        return self._root, self._upstream

    def _settle(self) -> None:
        # A move requested while the ends are being notified waits until all of them know of this one, so that
        # every end sees the moves in the order in which they happened.
        if self._in_transition or self._root is None or self._endpoint is None:
            return
        self._in_transition = True
        try:
            while self._up != (self._present and self._reachable and self._enabled):
                if self._up:
                    self._take_down(self._endpoint, self._root)
                else:
                    self._up = True
                    self._epoch += 1
                    # The endpoint first: it must be ready when the root complex enumerates it.
                    for end in (*self._watchers, self._endpoint, self._root):
                        end.link_up()
        finally:
            self._in_transition = False

    def _take_down(self, *ends: LinkEvents) -> None:
        self._up = False
        fault = self._fault(self._epoch)
        for window in list(self._windows.values()):
            window.close(fault)
        for end in (*self._watchers, *ends):
            end.link_down()

    def _fault(self, epoch: int) -> Fault:
        def fault(addr: int, size: int, write: bool) -> MemoryFault:
            return LinkDown(addr, size, write=write, reason=f"link {self._name} went down (epoch {epoch} is over)")

        return fault
