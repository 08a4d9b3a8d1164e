"""One split ring in guarded memory: the two honest sides, each watched on its own, and the raw one."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Sequence

import pytest

from rings.chain import copy_in, copy_out, total
from rings.errors import LocalRingError, RingError
from rings.formats import FORMATS
from rings.layout import DESC_SIZE, packed_sizes, split_sizes
from rings.memory import Addr, Memory
from rings.native.device import PlainFirst
from rings.queue import Segment, Virtqueue, Vringh, complete, getdesc
from rings.sides import DriverSide
from rings.split.virtqueue import SplitVirtqueue
from rings.split.vringh import SplitVringh
from rings.testing import Access, Act, Desc, Guarded, RawRing, Watched

__all__ = [
    "EVENT_IDX",
    "MakeRig",
    "Rig",
    "RingRig",
    "Sides",
    "add_chains",
    "collect",
    "fill",
    "flat",
    "get",
    "latch",
    "make_rig",
    "rig",
    "seg",
    "serve",
    "tokens",
]

EVENT_IDX = pytest.mark.parametrize("event_idx", [False, True], ids=["flags", "event_idx"])
SPOT = 0x1000
"""Address of memory that every rig ignores."""

BLOCK = 4096


class Unwatched(Watched):
    """Memory that pins plain views, which C can access: loads and stores of words are not logged."""

    def __init__(self, memory: Guarded) -> None:
        super().__init__(memory)
        self.region = memory.region

    def pin(self, addr: Addr, size: int, form: str, /) -> memoryview:
        return self.memory.pin(addr, size, form)

    def unpin(self, view: memoryview, /) -> None:
        self.memory.unpin(view)


class Sides:
    """Memory of the sides of rings: watched, or with ``--native-rings`` one that C accesses."""

    memory: type[Watched] = Watched

    @classmethod
    def use_native(cls) -> None:
        """Take every plain chain in C, also in batches of one."""
        cls.memory, PlainFirst.PLAIN_FROM = Unwatched, 1


class RingRig:
    """Memory with one ring of either format, and both of its sides watched.

    ``check`` is the post-condition of every test: no access outside the granted memory, and neither side
    touched an area of the ring that is none of its business.
    """

    AREAS = "desc", "avail", "used"
    PACKED = False

    def __init__(self, num: int = 8, *, event_idx: bool = False, indirect: bool = True, memory: int = 1 << 18) -> None:
        self.num = num
        self.event_idx = event_idx
        self.indirect = indirect
        self.memory = Guarded(memory)
        self.addrs = self.memory.grant_ring(num, packed=self.PACKED)
        self.tables = self.memory.grant(num * 4 * DESC_SIZE) if indirect else None
        self.memory.add(Addr(SPOT), memoryview(bytearray(BLOCK)))
        self.driver_side = Sides.memory(self.memory)
        self.device_side = Sides.memory(self.memory)

    def buffer(self, data: bytes | int = BLOCK, *, adjoining: bool = False) -> Addr:
        """Granted memory with this content, or this many zeroes."""
        size = data if isinstance(data, int) else len(data)
        addr = self.memory.grant(size, 16, adjoining=adjoining)
        if not isinstance(data, int):
            self.memory.view(addr, size, True)[:] = data
        return addr

    def bytes(self, addr: Addr, size: int) -> bytes:
        return bytes(self.memory.view(addr, size))

    def area(self, access: Access) -> str:
        """Which area of the ring an access lies in; "payload" for none."""
        areas = zip(self.AREAS, self._areas(), strict=True)
        return next((name for name, (start, size) in areas if access.within(start, size)), "payload")

    def _areas(self) -> Iterator[tuple[int, int]]:
        addrs = (self.addrs.desc, self.addrs.driver, self.addrs.device)
        return zip(addrs, (packed_sizes if self.PACKED else split_sizes)(self.num), strict=True)

    def words(self, side: Watched) -> set[tuple[str, str]]:
        """(act, area) of every ring word that a side touched."""
        return {(access.act.value, self.area(access)) for access in side.log if access.act in (Act.LOAD, Act.STORE)}

    def check(self) -> None:
        self.memory.check()
        for access in (*self.driver_side.log, *self.device_side.log):
            assert access.act is Act.FENCE or any(access.within(*grant) for grant in self._spans()), access

    def _spans(self) -> Iterator[tuple[int, int]]:
        """Granted ranges, those that adjoin taken as one."""
        start = end = -1
        for addr, size in self.memory.ranges:
            if addr != end:
                if end > start:
                    yield start, end - start
                start = addr
            end = addr + size
        yield start, end - start


def add_chains(driver: Virtqueue, chains: Sequence[tuple[int, int]]) -> dict[int, int]:
    """Add chains of so many readable and writable buffers of 16 bytes each, as far as the ring takes them.

    Returns the bytes of the writable buffers, by token.
    """
    rooms: dict[int, int] = {}
    for token, (readable, writable) in enumerate(chains):
        try:
            driver.add([seg(SPOT, 16)] * readable, [seg(SPOT, 16)] * writable, token)
        except LocalRingError:
            assert readable + writable == 0 or readable + writable > driver.num_free
        else:
            rooms[token] = 16 * writable
    return rooms


class Rig(RingRig):
    """With a split ring; `driver` and `device` make a side over it, anew each time."""

    def __init__(self, num: int = 8, *, event_idx: bool = False, indirect: bool = True, memory: int = 1 << 18) -> None:
        super().__init__(num, event_idx=event_idx, indirect=indirect, memory=memory)
        self.raw = RawRing(self.memory, num, self.addrs)

    def driver(self, *, memory: Memory | None = None, in_order: bool = False) -> SplitVirtqueue:
        driver = FORMATS["split"].driver(
            memory or self.driver_side,
            self.num,
            self.addrs,
            event_idx=self.event_idx,
            indirect=self.tables,
            indirect_max=4,
            in_order=in_order,
        )
        assert isinstance(driver, SplitVirtqueue)
        return driver

    def device(self, base: int = 0, *, memory: Memory | None = None, table_max: int = 0) -> SplitVringh:
        device = FORMATS["split"].device(
            memory or self.device_side,
            self.num,
            self.addrs,
            event_idx=self.event_idx,
            indirect=self.indirect,
            base=base,
            table_max=table_max,
        )
        assert isinstance(device, SplitVringh)
        return device

    def pair(self, start: int = 0, *, in_order: bool = False) -> tuple[SplitVirtqueue, SplitVringh]:
        """Both sides anew; ``start``: the index that both have come to, with nothing in flight."""
        driver, device = self.driver(in_order=in_order), self.device(base=start)
        self.raw.avail_idx = self.raw.used_idx = start
        driver._added = driver._published = driver._last_used = driver._used_end = start
        return driver, device

    def offer(self, *descs: Desc, head: int = 0) -> None:
        """As a driver that links properly: one chain from ``head`` on."""
        self.raw.chain(head, *descs)
        self.raw.offer(head)

    def check(self) -> None:
        super().check()
        assert self.words(self.device_side) <= {("load", "desc"), ("load", "avail"), ("store", "used")}
        driver_may = {("store", "desc"), ("store", "avail"), ("load", "used"), ("store", "payload")}
        # Flags and index of the used ring are zeroed once, when the ring is made.
        assert self.words(self.driver_side) <= driver_may | {("store", "used")}

    def recovers(self, size: int = 1 << 20) -> None:
        """After a reset, rings made anew over the same memory carry ``size`` bytes there and back."""
        driver, device = self.driver(memory=self.memory), self.device(memory=self.memory)
        there, back = self.buffer(), self.buffer()
        rng = random.Random(size)
        sent, arrived, answered = hashlib.sha256(), hashlib.sha256(), hashlib.sha256()
        for number in range(size // BLOCK):
            block = rng.randbytes(BLOCK)
            self.memory.view(there, BLOCK, True)[:] = block
            sent.update(block)
            driver.add(((there, 100), (Addr(there + 100), BLOCK - 100)), ((back, BLOCK),), number)
            driver.publish()
            chain = getdesc(device)
            assert chain is not None
            head, readable, writable = chain
            data = copy_out(readable, BLOCK)
            arrived.update(data)
            complete(device, head, copy_in(writable, data))
            device.publish()
            assert get(driver) == (number, BLOCK)
            answered.update(self.memory.view(back, BLOCK))
        assert sent.digest() == arrived.digest() == answered.digest()
        assert getdesc(device) is None
        assert get(driver) is None
        assert driver.num_free == self.num
        driver.close()
        device.close()


MakeRig = Callable[..., Rig]


@pytest.fixture
def make_rig() -> Iterator[MakeRig]:
    """``make_rig(num, event_idx=..., indirect=...)``; every one of them is checked afterwards."""
    made: list[Rig] = []

    def make(num: int = 8, *, event_idx: bool = False, indirect: bool = True) -> Rig:
        made.append(Rig(num, event_idx=event_idx, indirect=indirect))
        return made[-1]

    yield make
    for each in made:
        each.check()


@pytest.fixture
def rig(make_rig: MakeRig) -> Rig:
    """Eight descriptors, indirect tables allowed, no EVENT_IDX."""
    return make_rig()


def latch(
    rig: Rig, device: SplitVringh, error: type[Exception], match: str | None = None, taken: tuple[int, ...] = ()
) -> None:
    """The exact outcome LATCH: one error, then an empty queue; what was taken may end; a reset recovers."""
    with pytest.raises(error, match=match) as caught:
        getdesc(device)
    assert not isinstance(caught.value, RingError) or type(caught.value) is error
    device.latch()
    for _ in range(2):
        assert getdesc(device) is None, "a latched queue reads as empty"
        assert not device.notify_enable(), "and never says that it is not"
        rig.raw.avail_idx += 1
    state = device.state()
    assert (state.broken, state.in_flight) == (True, len(taken))
    for head in taken:
        complete(device, head, 0)
    device.publish()
    assert rig.raw.used_idx == state.used + len(taken)
    assert device.state().in_flight == 0
    device.close()
    rig.recovers()


def flat(segs: list[memoryview]) -> bytes:
    """All bytes of a chain's half."""
    return copy_out(segs, total(segs))


def seg(addr: int, size: int) -> Segment:
    return Addr(addr), size


def fill(driver: Virtqueue, count: int = 1) -> None:
    """Add chains of one descriptor, tokens counting from 0; none is published."""
    for at in range(count):
        driver.add((), (seg(SPOT, 1),), at)


def serve(device: Vringh, count: int = 1) -> None:
    """Take this many chains and complete each; none is published."""
    for _ in range(count):
        chain = getdesc(device)
        assert chain is not None
        complete(device, chain[0], 0)


def get(driver: Virtqueue) -> tuple[int, int] | None:
    """The next used buffer: its token and the bytes written, or None."""
    done = driver.get_each(1)
    return done[0] if done else None


def tokens(driver: DriverSide) -> list[int]:
    """Tokens of the chains in flight, by head or buffer id."""
    return [token for token in driver._tokens if token is not None]


def collect(driver: Virtqueue) -> int:
    """Get all used buffers back; return their number."""
    return sum(1 for _ in iter(lambda: get(driver), None))
