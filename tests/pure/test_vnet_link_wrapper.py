"""Wrappers forward what they do not change, and the wrapper of a window is told of each access."""

from __future__ import annotations

from collections.abc import Sequence

from rings.memory import Addr, MappedMemory
from vnet.link.base import Fault, Link, Region, Window
from vnet.link.wrapper import LinkWrapper, WindowWrapper

BASE = Addr(0x1000)


class Inner(MappedMemory):
    """A window of 64 bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.add(BASE, memoryview(bytearray(64)))
        self.faults: list[Fault | None] = []

    def regions(self) -> Sequence[Region]:
        return [(BASE, self.view(BASE, 64))]

    def close(self, fault: Fault | None = None) -> None:
        self.faults.append(fault)


class Logged(WindowWrapper):
    def __init__(self, inner: Window) -> None:
        super().__init__(inner)
        self.log: list[tuple[int, int, bool, int]] = []

    def accessed(self, addr: int, size: int, write: bool, views: Sequence[memoryview]) -> None:
        self.log.append((addr, size, write, sum(map(len, views))))


def test_a_wrapper_has_every_member_of_what_it_wraps() -> None:
    for wrapper, contract in ((LinkWrapper, Link), (Logged(Inner()), Window)):
        members = {name for name in dir(contract) if not name.startswith("_")}
        assert members <= set(dir(wrapper))


def test_a_window_forwards_all_and_tells_of_views_but_not_of_pins() -> None:
    inner = Inner()
    window = Logged(inner)
    window.view(BASE, 4, True)[:] = b"abcd"
    assert bytes(inner.view(BASE, 4)) == b"abcd"
    assert [bytes(part) for part in window.segments(BASE, 2)] == [b"ab"]
    pinned = window.pin(BASE, 8, "B")
    assert window.pinned == inner.pinned == 1
    window.unpin(pinned)
    assert window.log == [(BASE, 4, True, 4), (BASE, 2, False, 2)]
    assert [len(view) for _, view in window.regions()] == [64]
    window.close()
    assert inner.faults == [None]
